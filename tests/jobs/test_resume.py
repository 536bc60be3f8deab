"""Proof of stored parts, removal of the job's own objects only, and the point where a pass continues."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.errors import StoreError
from amistream.flow.gather import SMALL_REQUESTS
from amistream.jobs.journal import Journal
from amistream.jobs.ledger import PartLedger
from amistream.jobs.proof import check_object, check_stored, prove
from amistream.jobs.records import SealedPart
from amistream.jobs.resume import check_volume, resumption
from amistream.plan import Bundling
from amistream.ports.store import Stored, whole_checksum
from amistream.values import (
    ArchiveResult,
    ChangedError,
    Checkpoint,
    Extent,
    GzipPlace,
    GzipResult,
    PartDigest,
    PartMark,
    part_name,
)
from stages.memory_store import MemoryStore


def settled(*, mtime: int) -> Bundling:
    """The settled facts of an earlier run that a resumption needs."""
    return cast("Any", Bundling).model_construct(mtime=mtime)  # type: ignore[no-any-return]


def content(number: int) -> bytes:
    return b"%08d" % number


def checkpoint(number: int) -> Checkpoint:
    place = GzipPlace(block=number, before=GzipResult(crc32=0, size_in=0, size_out=0), inside=1, inside_sha1=b"")
    return Checkpoint(gzip=place, archive=ArchiveResult(size=number, sha1=b""), chain=bytes(16))


def part(number: int, *, stored: bool = True, known: bool = True, levels: dict[int, int] | None = None) -> SealedPart:
    """A part as the journal has it; `known`: with the stream's state at its end."""
    sha1 = hashlib.sha1(content(number)).digest()
    return SealedPart(
        digest=PartDigest(index=number, size=8, sha1=sha1),
        mark=PartMark(checkpoint=checkpoint(number) if known else None, levels=levels or {}),
        checksum=whole_checksum(sha1),
        stored=stored,
    )


def store_with(*numbers: int) -> MemoryStore:
    store = MemoryStore()
    store.objects = {part_name("image", number): content(number) for number in numbers}
    return store


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], 0),
        ([part(0)], 1),
        ([part(0, stored=False)], 0),
        ([part(0), part(1), part(2, stored=False)], 2),
        ([part(0), part(1, stored=False), part(2)], 1),
        ([part(0, stored=False), part(1), part(2)], 0),
        ([part(0), part(1, known=False)], 1),
        ([part(0, known=False)], 0),
        ([part(0), part(1, known=False), part(2, known=False)], 1),
        # A part that was never sealed is missing, whatever is stored behind it.
        ([part(0), part(1), part(3), part(4)], 2),
        ([part(1)], 0),
    ],
)
def test_where_a_pass_continues(parts: list[SealedPart], whole: int) -> None:
    """A pass continues after the last stored part with a checkpoint before which no part is missing."""
    found = resumption(settled(mtime=5), parts)
    assert found.mtime == 5
    assert found.parts == tuple(each.digest for each in parts[:whole])
    assert found.checkpoint == (parts[whole - 1].mark.checkpoint if whole else None)


def test_levels_of_all_that_was_sent() -> None:
    """Every block of a part that was sent, stored or not, keeps its level; blocks without one are left out."""
    parts = [part(0, levels={0: 1, 1: 4}), part(1, stored=False, levels={1: 4, 2: 0, 3: 9})]
    assert resumption(settled(mtime=5), parts).levels == {0: 1, 1: 4, 3: 9}


async def test_an_unfinished_upload_is_removed_where_the_part_is_missing() -> None:
    """An unfinished upload is removed for every part that this destination lacks, even if another has the part."""
    tidied: list[str] = []

    class Tidied(MemoryStore):
        """Tells for which names it was asked to look."""

        async def tidy(self, unfinished: Mapping[str, str]) -> None:
            tidied.extend(unfinished)

    store = Tidied()
    store.objects = store_with(0, 2).objects
    await prove(store, "image", [part(0), part(1), part(2, stored=False), part(3, stored=False)])
    assert tidied == ["image.part.01", "image.part.03"]


class Bytes:
    """A volume of these bytes."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        buffer[:] = self._content[offset : offset + len(buffer)]
        return True

    def will_need(self, offset: int, length: int) -> None:
        """Do nothing."""


def drawn(data: list[tuple[int, int]]) -> tuple[Extent, ...]:
    return tuple(Extent(offset=start, length=end - start) for start, end in data)


@pytest.mark.parametrize(
    ("known", "now", "same"),
    [
        ([(100, 200), (500, 600)], [(100, 200), (500, 600)], True),
        ([(100, 200), (500, 600)], [(120, 150), (160, 200)], True),
        ([(100, 200), (500, 600)], [], True),
        ([(100, 200), (500, 600)], [(50, 60), (500, 600)], False),
        ([(100, 200), (500, 600)], [(99, 200)], False),
        ([(100, 200), (500, 600)], [(100, 201)], False),
        ([(100, 200), (500, 600)], [(300, 310)], False),
        ([(100, 200), (500, 600)], [(700, 710)], False),
        ([(100, 200), (500, 600)], [(150, 550)], False),
        ([], [(0, 1)], False),
        ([], [], True),
        (None, [(0, 1000)], True),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("byte", [b"\1", b"\0"])
def test_data_where_there_was_none(
    known: list[tuple[int, int]] | None, now: list[tuple[int, int]], same: bool, joined: bool, byte: bytes
) -> None:
    """A volume has changed if data outside of what the plan reads has other bytes than zeros, gaps included."""
    read, whole = None if known is None else drawn(known), drawn([(0, 1000)])
    plan = SimpleNamespace(extents=whole, used=read) if joined and read is not None else None
    plan = plan or SimpleNamespace(extents=read, used=None)
    bundling = cast("Any", Bundling).model_construct(image_size=1000, plan=plan)
    with nullcontext() if same or byte == b"\0" else pytest.raises(ChangedError):
        check_volume(bundling, Bytes(byte * 1000), drawn(now))
    with pytest.raises(ChangedError):
        check_volume(bundling, Bytes(byte * 999), drawn(now))


async def test_the_store_decides_which_parts_are_stored() -> None:
    """A part counts as stored only if its destination shows it, whatever the journal has."""
    believed = [part(0), part(1), part(2, stored=False), part(3, stored=False)]
    proved = await prove(store_with(0, 2), "image", believed)
    assert [each.stored for each in proved] == [True, False, True, False]
    assert [each.digest for each in proved] == [each.digest for each in believed]


@pytest.mark.parametrize("other", [b"12345678", b"short", b""])
@pytest.mark.parametrize("believed", [True, False])
async def test_something_else_under_a_part_s_name(other: bytes, believed: bool) -> None:
    """An object that is not the one that was sent stops the job, with its name, and is left alone."""
    store = store_with(0, 1)
    store.objects["image.part.01"] = other
    with pytest.raises(StoreError, match=r"image\.part\.01 there is not the one this job stored") as caught:
        await prove(store, "image", [part(0), part(1, stored=believed)])
    assert caught.value.code == "store.exists"
    assert caught.value.hint
    assert store.objects["image.part.01"] == other


async def test_a_lost_part_is_named() -> None:
    """Every part is checked before a manifest is put; one that is missing or replaced is reported with both sizes."""
    store = store_with(*range(40))
    await check_stored(store, "image", [part(number) for number in range(40)])
    assert store.deleted == []
    del store.objects["image.part.01"]
    with pytest.raises(StoreError, match=r"here/image\.part\.01: 8 bytes were stored, and now it is not there"):
        await check_stored(store, "image", [part(0), part(1), part(2)])
    store.objects["image.part.02"] = b"changed, and longer"
    with pytest.raises(StoreError, match=r"part\.02: 8 bytes were stored, and now it has 19 bytes") as caught:
        await check_object(store, "image.part.02", 8, part(2).checksum)
    assert caught.value.code == "store.lost"
    assert "amistream resume" in caught.value.hint


async def test_questions_are_asked_several_at_a_time() -> None:
    """Hundreds of parts are checked a limited number at a time."""
    now = most = 0
    full = asyncio.Event()

    class Asked(MemoryStore):
        """Counts the questions on their way, and answers when as many as may be are."""

        async def stat(self, name: str, *, read: bool = True) -> Stored | None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            if now == SMALL_REQUESTS:
                full.set()
            await full.wait()
            now -= 1
            return await super().stat(name, read=read)

    store = Asked()
    store.objects = store_with(*range(100)).objects
    proved = await prove(store, "image", [part(number) for number in range(100)])
    assert [each.digest.index for each in proved] == list(range(100))
    assert most == SMALL_REQUESTS


@dataclass
class Book:
    """A journal of parts, in the order in which they are entered."""

    lines: list[tuple[str, int]] = field(default_factory=list)

    async def seal(self, job_id: str, sealed: SealedPart) -> None:
        assert job_id == "job"
        self.lines.append(("sealed", sealed.digest.index))

    async def stored(self, job_id: str, number: int) -> None:
        assert job_id == "job"
        self.lines.append(("stored", number))


def ledger(book: Book, *parts: SealedPart) -> PartLedger:
    return PartLedger(cast("Journal", book), "job", parts)


async def seal(book: PartLedger, number: int) -> bool:
    sealed = part(number)
    return await book.seal(sealed.digest, sealed.mark, sealed.checksum)


async def test_a_new_part_is_entered() -> None:
    """A part is entered once before it is sent and once when it is stored; ledger and journal agree."""
    book = Book()
    account = ledger(book)
    assert await seal(account, 0) is False
    assert account.parts == [part(0, stored=False)]
    await account.stored(part(0).digest)
    assert account.parts == [part(0)]
    assert await seal(account, 1) is False
    assert book.lines == [("sealed", 0), ("stored", 0), ("sealed", 1)]


async def test_a_known_part_is_not_entered_again() -> None:
    """A part that is in the journal already is not entered again, and the ledger reports if it is stored."""
    book = Book()
    account = ledger(book, part(0), part(1, stored=False))
    assert [await seal(account, 0), await seal(account, 1)] == [True, False]
    assert book.lines == []
    await account.stored(part(1).digest)
    assert [each.stored for each in account.parts] == [True, True]


@settings(deadline=None)
@given(st.sampled_from(["size", "sha1"]), st.booleans())
def test_another_part_under_a_known_number(change: str, stored: bool) -> None:
    """A part that is not the one that was sent is refused, stored or not, and nothing is written of it."""
    book = Book()
    other = {"size": 9, "sha1": bytes(20)}[change]
    digest = PartDigest(**{"index": 1, "size": 8, "sha1": part(1).digest.sha1, change: other})  # type: ignore[arg-type]
    account = ledger(book, part(0), part(1, stored=stored))
    with pytest.raises(ChangedError, match="part 1 differs from the one that was sent before"):
        asyncio.run(account.seal(digest, PartMark(), "x"))
    assert book.lines == []
    assert account.parts == [part(0), part(1, stored=stored)]


async def test_parts_come_in_order() -> None:
    """The ledger lists its parts by number, in whatever order they came."""
    account = ledger(Book(), part(2), part(0))
    await seal(account, 1)
    assert [each.digest.index for each in account.parts] == [0, 1, 2]
