"""Passes that continue an earlier one: the same bundle, no part sent twice, no other bytes under the key."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amistream.errors import StoreError
from amistream.jobs.journal import Journal
from amistream.jobs.ledger import PartLedger
from amistream.jobs.proof import prove
from amistream.jobs.records import SealedPart
from amistream.jobs.resume import resumption
from amistream.keys import BundleKey, Secret
from amistream.pipeline import RESUMED, Pipeline
from amistream.plan import Bundling, Plan, Resumption
from amistream.source.file import open_volume
from amistream.stages.archive import sparse_headers
from amistream.values import ChangedError, Extent, Measured, part_name
from stages.memory_store import BeforePut, MemoryStore, at_once
from support.passes import IV, KEY, check_parts, nothing_runs, unpack
from support.volumes import random_image

if TYPE_CHECKING:
    from amistream.ports.store import OnBytes

KIB = 1024
MTIME = 1_600_000_000
TEXT = b"".join(b"%08x service[%d]: accepted\n" % (n * n, n) for n in range(9000))
NOISE = random.Random(4).randbytes(200_000)


def settled(*, mtime: int) -> Bundling:
    """The settled facts of an earlier run that a resumption needs."""
    return cast("Any", Bundling).model_construct(mtime=mtime)  # type: ignore[no-any-return]


class WatchedStore(MemoryStore):
    """Records the names that were put, in order."""

    def __init__(self, objects: dict[str, bytes], on_put: BeforePut) -> None:
        super().__init__(on_put)
        self.objects = objects
        self.put_names: list[str] = []

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        self.put_names.append(name)
        await super().put(name, data, sha1, on_bytes)


@dataclass
class Book:
    """The journal's records of the parts, in order, as text."""

    lines: dict[int, str] = field(default_factory=dict)

    async def seal(self, job_id: str, part: SealedPart) -> None:
        del job_id
        await asyncio.sleep(0)
        assert part.digest.index not in self.lines, "sealed twice"
        assert part.digest.index == len(self.lines), "not in order"
        self.lines[part.digest.index] = part.model_dump_json()

    async def stored(self, job_id: str, number: int) -> None:
        """The destination is asked instead."""

    def parts(self) -> list[SealedPart]:
        return [SealedPart.model_validate_json(line) for line in self.lines.values()]


def failing_at(number: int, *, after: int) -> BeforePut:
    """Make the put of this number fail, once the others have had some turns."""

    async def on_put(count: int) -> None:
        if count == number:
            for _ in range(after):
                await asyncio.sleep(0)
            raise StoreError("store.broken", "cannot store: broken")

    return on_put


class Bundle:
    """One image and one destination, pass after pass."""

    def __init__(self, image: Path, plan: Plan) -> None:
        self.image = image
        self.plan = plan
        self.objects: dict[str, bytes] = {}
        self.book = Book()
        self.put_names: list[str] = []
        self.pipeline: Pipeline | None = None

    async def run(self, on_put: BeforePut = at_once) -> Measured:
        """One pass as in a resumed job; `put_names` and `pipeline` are those of the last pass."""
        store = WatchedStore(self.objects, on_put)
        self.put_names = store.put_names
        parts = await prove(store, "image", self.book.parts())
        volume = open_volume(self.image)
        try:
            self.pipeline = Pipeline(
                self.plan,
                volume,
                store,
                BundleKey(Secret(KEY), Secret(IV)),
                ledger=PartLedger(cast("Journal", self.book), "job", parts),
                resumption=self.resumption(parts),
            )
            return await self.pipeline.run()
        finally:
            volume.close()
            await nothing_runs()

    @staticmethod
    def resumption(parts: list[SealedPart]) -> Resumption:
        return resumption(settled(mtime=MTIME), parts)

    async def proved(self) -> list[SealedPart]:
        return await prove(WatchedStore(self.objects, at_once), "image", self.book.parts())

    def check(self, measured: Measured) -> None:
        ciphertext = check_parts(measured, self.objects, self.plan.part_size)
        assert unpack(ciphertext) == self.image.read_bytes()


Piece = tuple[str, int]


def write_image(path: Path, pieces: list[Piece]) -> Path:
    with path.open("wb") as file:
        for kind, size in pieces:
            match kind:
                case "hole":
                    file.seek(size, os.SEEK_CUR)
                case "zeros":
                    file.write(bytes(size))
                case "noise":
                    file.write(NOISE[:size])
                case _:
                    file.write(TEXT[:size])
        file.truncate()
    return path


def data_of(path: Path) -> tuple[Extent, ...]:
    volume = open_volume(path)
    try:
        return volume.extents()
    finally:
        volume.close()


PIECES = st.lists(
    st.tuples(st.sampled_from(["hole", "zeros", "noise", "text", "text"]), st.integers(1, 180_000)), max_size=6
)


def plan(
    *,
    part_size: int = 16 * KIB,
    block_size: int = 32 * KIB,
    workers: int = 2,
    level: int | None = 1,
    uploads: int = 3,
    extents: tuple[Extent, ...] | None = None,
) -> Plan:
    return Plan(
        prefix="image",
        part_size=part_size,
        block_size=block_size,
        workers=workers,
        level=level,
        upload_concurrency=uploads,
        extents=extents,
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    pieces=PIECES,
    part_kib=st.one_of(st.integers(16, 80), st.just(1000)),
    block_kib=st.sampled_from([4, 33, 64, 96]),
    level=st.sampled_from([1, 4, 9, None]),
    workers=st.integers(1, 3),
    uploads=st.integers(1, 4),
    sparse=st.booleans(),
    failures=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=3),
    lost=st.lists(st.integers(0, 20), max_size=2),
)
def test_cut_short_anywhere(
    pieces: list[Piece],
    part_kib: int,
    block_kib: int,
    level: int | None,
    workers: int,
    uploads: int,
    sparse: bool,
    failures: list[tuple[int, int]],
    lost: list[int],
    tmp_path: Path,
) -> None:
    """The last of any number of interrupted passes, with parts lost between them, leaves a bundle of the image.

    At a fixed level it is the same bundle as of an undisturbed pass. No stored part is put again.
    """
    image = write_image(tmp_path / "image", pieces)
    figures = plan(
        part_size=part_kib * KIB,
        block_size=block_kib * KIB,
        workers=workers,
        level=level,
        uploads=uploads,
        extents=data_of(image) if sparse else None,
    )

    async def go() -> None:
        bundle = Bundle(image, figures)
        for number, after in failures:
            there = set(bundle.objects)
            # The time in the archive's header is the first pass's, whatever the file's is by now.
            os.utime(image, (0, MTIME + number))
            with suppress(StoreError):
                await bundle.run(failing_at(number, after=after))
            assert not there & set(bundle.put_names)
            for index in lost:
                bundle.objects.pop(part_name("image", index), None)
        there = set(bundle.objects)
        measured = await bundle.run()
        assert not there & set(bundle.put_names)
        bundle.check(measured)
        if level is not None:
            undisturbed = Bundle(image, figures)
            assert await undisturbed.run() == measured
            assert undisturbed.objects == bundle.objects

    asyncio.run(go())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """About 20 parts of 16 KiB, of every kind of block."""
    pieces = [("text", 150_000), ("noise", 100_000), ("hole", 100_000), ("zeros", 90_000), ("text", 90_000)]
    return write_image(tmp_path / "image", [*pieces, ("noise", 120_000)])


async def cut_short(bundle: Bundle, at: int) -> list[SealedPart]:
    """A pass whose put number `at` fails; returns the parts with what is stored."""
    with pytest.raises(StoreError, match="broken"):
        await bundle.run(failing_at(at, after=0))
    return await bundle.proved()


@pytest.mark.parametrize("at", [1, 5, 9])
async def test_nothing_before_the_checkpoint_is_made_again(at: int, image: Path) -> None:
    """The bytes of stored parts are read, but neither compressed nor put."""
    bundle = Bundle(image, plan(uploads=1))
    parts = await cut_short(bundle, at)
    point = Bundle.resumption(parts).checkpoint
    assert point is not None
    assert [part.stored for part in parts] == [True] * at + [False]
    measured = await bundle.run()
    bundle.check(measured)
    assert bundle.put_names == [part_name("image", part.index) for part in measured.split.parts[at:]]
    assert bundle.pipeline is not None
    before = point.gzip.before.size_in
    assert bundle.pipeline.compression[RESUMED] == before
    assert sum(bundle.pipeline.deflate.bytes_by_kind.values()) == measured.archive.size - before


async def test_a_part_that_is_missing_in_the_middle(image: Path) -> None:
    """The pass continues before the missing part; parts that are stored behind it are not put again."""

    async def on_put(number: int) -> None:
        if number == 3:
            await asyncio.Event().wait()
        if number == 6:
            raise StoreError("store.broken", "cannot store: broken")

    bundle = Bundle(image, plan(uploads=4))
    with pytest.raises(StoreError, match="broken"):
        await bundle.run(on_put)
    parts = await bundle.proved()
    assert [part.stored for part in parts[:6]] == [True, True, True, False, True, True]
    assert len(Bundle.resumption(parts).parts) == 3
    bundle.check(await bundle.run())
    assert bundle.put_names[0] == "image.part.03"
    assert {"image.part.04", "image.part.05"}.isdisjoint(bundle.put_names)


async def test_everything_was_stored(image: Path) -> None:
    """A pass with nothing left to store puts nothing and measures the same: the manifest can be made."""
    bundle = Bundle(image, plan())
    measured = await bundle.run()
    assert await bundle.run() == measured
    assert bundle.put_names == []
    assert bundle.pipeline is not None
    assert bundle.pipeline.upload.parts_stored == 1, "of the last part's state nothing is kept: it is made again"


async def test_nothing_was_stored(image: Path) -> None:
    """A pass without a checkpoint begins anew, and still sends only the bytes that were entered."""
    bundle = Bundle(image, plan(uploads=1))
    parts = await cut_short(bundle, 0)
    assert len(parts) == 1
    assert Bundle.resumption(parts).checkpoint is None
    bundle.check(await bundle.run())
    assert bundle.put_names[0] == "image.part.00"


async def test_automatic_levels_are_kept(image: Path) -> None:
    """At level `auto` a part that was sent but not stored is made of the same bytes again, at any speed of the link."""
    entered = asyncio.Event()

    async def slow(number: int) -> None:
        if number == 3:
            entered.set()
        if number >= 2:
            await asyncio.Event().wait()

    bundle = Bundle(image, plan(level=None, uploads=4, workers=3))
    running = asyncio.create_task(bundle.run(slow))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(bundle.book.lines) > len(bundle.objects)
    bundle.check(await bundle.run())


def first_byte(bundle: Bundle) -> int:
    """Offset of the image in the archive."""
    extents = bundle.plan.extents
    if extents is None:
        return 512
    size = bundle.image.stat().st_size
    return len(sparse_headers(name="image", size=size, mtime=MTIME, extents=extents))


def change(image: Path, offset: int) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ 1]))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
async def test_a_byte_changed_before_the_checkpoint(share: float, workers: int, image: Path) -> None:
    """A changed volume is detected before any part is put or entered."""
    bundle = Bundle(image, plan(uploads=1, workers=workers))
    point = Bundle.resumption(await cut_short(bundle, 6)).checkpoint
    assert point is not None
    proved = point.archive.size - first_byte(bundle)
    change(image, int(share * (proved - 1)))
    lines = dict(bundle.book.lines)
    with pytest.raises(ChangedError, match="bytes of the archive are not what they were"):
        await bundle.run()
    assert bundle.put_names == []
    assert bundle.book.lines == lines


async def test_a_byte_changed_before_the_checkpoint_of_a_sparse_volume(tmp_path: Path) -> None:
    """The proof covers a volume with holes as well, up to the last byte."""
    image = write_image(tmp_path / "image", [("hole", 70_000), ("noise", 90_000), ("hole", 99_999), ("noise", 90_000)])
    bundle = Bundle(image, plan(uploads=1, extents=data_of(image)))
    point = Bundle.resumption(await cut_short(bundle, 3)).checkpoint
    assert point is not None
    extents = bundle.plan.extents
    assert extents is not None
    change(image, extents[0].offset + point.archive.size - first_byte(bundle) - 1)
    with pytest.raises(ChangedError):
        await bundle.run()
    assert bundle.put_names == []


async def test_a_part_that_comes_out_otherwise(tmp_path: Path) -> None:
    """A part that comes out differently is never sent again: a key must not encrypt two contents."""
    image = random_image(tmp_path / "image", 400_000)
    stuck = asyncio.Event()

    async def on_put(number: int) -> None:
        if number == 5:
            stuck.set()
        if number >= 3:
            await asyncio.Event().wait()

    bundle = Bundle(image, plan(uploads=3, part_size=32 * KIB))
    running = asyncio.create_task(bundle.run(on_put))
    await stuck.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    parts = await bundle.proved()
    assert [part.stored for part in parts] == [True, True, True, False, False, False]
    point = Bundle.resumption(parts).checkpoint
    assert point is not None
    # Behind the block that the checkpoint proves, and inside the fifth part, which was sent and is not there.
    offset = 4 * 32 * KIB + 16 * KIB
    assert offset > point.archive.size
    change(image, offset)
    with pytest.raises(ChangedError, match="part 4 differs from the one that was sent before"):
        await bundle.run()
    assert bundle.put_names in ([], ["image.part.03"])
    assert len(bundle.book.lines) == 6


async def test_a_byte_changed_behind_all_that_was_sent(tmp_path: Path) -> None:
    """Bytes that were never sent may have changed: the bundle is of the volume as it is now."""
    image = random_image(tmp_path / "image", 400_000)
    bundle = Bundle(image, plan(uploads=1, part_size=32 * KIB))
    await cut_short(bundle, 3)
    change(image, 350_000)
    bundle.check(await bundle.run())
