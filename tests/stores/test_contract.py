"""The contract of stores, tested on a directory and on four real S3 endpoints."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import StoreError
from amistream.ports.store import Stored, whole_checksum
from amistream.stores.directory import DirectoryStore
from amistream.values import MIB
from stores.places import TOKEN, Bucket, Folder, Place, s3_store

if TYPE_CHECKING:
    from conftest import MakeBucket

PLACES = ("directory", "moto_server", "ministack", "seaweedfs", "seaweedfs_https")
SMALL = b"a part, not whole" * 1000
LARGE = random.Random(7).randbytes(11 * MIB + 5)


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


@pytest.fixture(params=PLACES)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    if request.param == "directory":
        store = DirectoryStore(tmp_path / "made" / "here", token=TOKEN)
        await store.open()
        yield Folder(store=store, directory=tmp_path / "made" / "here")
        return
    endpoint = request.getfixturevalue(request.param)
    bucket = make_bucket(endpoint)
    async with s3_store(endpoint, bucket, monkeypatch) as s3:
        await s3.open()
        yield Bucket(store=s3, endpoint=endpoint, bucket=bucket, prefix="some/prefix")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_what_is_put_is_there_to_the_byte(place: Place, data: bytes) -> None:
    """A put stores exactly the given bytes, and reports each of them once."""
    told: list[int] = []
    await place.store.put("image.part.00", memoryview(data), sha1(data), told.append)
    assert place.names() == ["image.part.00"]
    assert place.content("image.part.00") == data
    assert sum(told) == len(data)
    assert place.unfinished() == 0


async def test_stat_gives_size_and_digest(place: Place) -> None:
    """Size and checksum of a stored object are available later."""
    assert await place.store.stat("image.part.00") is None
    await place.store.put("image.part.00", memoryview(SMALL), sha1(SMALL), lambda _: None)
    assert await place.store.stat("image.part.00") == Stored(len(SMALL), whole_checksum(sha1(SMALL)))


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_what_was_stored_is_known_again(place: Place, data: bytes) -> None:
    """The checksum computed before a put equals the stored one, and differs for other bytes."""
    checksum = await place.store.checksum("image.part.00", memoryview(data), sha1(data))
    await place.store.put("image.part.00", memoryview(data), sha1(data), lambda _: None)
    stored = await place.store.stat("image.part.00")
    assert stored is not None
    assert stored.checksum is not None
    assert stored.is_the(len(data), checksum)
    other = data[:-1] + b"!"
    assert not stored.is_the(len(data), await place.store.checksum("image.part.00", memoryview(other), sha1(other)))
    assert not stored.is_the(len(data) + 1, checksum)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_a_checksum_that_was_never_put_is_no_matter(place: Place, data: bytes) -> None:
    """Computing a checksum has no effect on a later put of other bytes under that name."""
    other = data[:-1] + b"!"
    await place.store.checksum("image.part.00", memoryview(other), sha1(other))
    checksum = await place.store.checksum("image.part.00", memoryview(data), sha1(data))
    await place.store.put("image.part.00", memoryview(data), sha1(data), lambda _: None)
    stored = await place.store.stat("image.part.00")
    assert stored is not None
    assert stored.is_the(len(data), checksum)
    assert place.content("image.part.00") == data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_stat_without_reading(place: Place, data: bytes) -> None:
    """Without reading, a store that keeps no checksums returns the size alone."""
    assert await place.store.stat("image.part.00", read=False) is None
    checksum = await place.store.checksum("image.part.00", memoryview(data), sha1(data))
    await place.store.put("image.part.00", memoryview(data), sha1(data), lambda _: None)
    stored = await place.store.stat("image.part.00", read=False)
    assert stored is not None
    assert (stored.checksum is None) == isinstance(place, Folder)
    assert stored.is_the(len(data), checksum)
    assert not stored.is_the(len(data) - 1, checksum)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_nothing_is_ever_replaced(place: Place, data: bytes) -> None:
    """A name taken by other bytes is refused; those bytes stay, also when the refused put is undone."""
    await place.store.commit("image.manifest.xml", SMALL, sha1(SMALL))
    with pytest.raises(StoreError, match="exists already, with other content") as caught:
        await place.store.put("image.manifest.xml", memoryview(data + b"!"), sha1(data + b"!"), lambda _: None)
    assert caught.value.code == "store.exists"
    assert caught.value.hint
    await place.store.delete("image.manifest.xml")
    assert place.content("image.manifest.xml") == SMALL
    assert place.unfinished() == 0


async def test_the_same_bytes_again_are_no_error(place: Place) -> None:
    """A repeated put finds its own bytes and succeeds."""
    for _ in range(2):
        await place.store.commit("image.manifest.xml", SMALL, sha1(SMALL))
    assert place.names() == ["image.manifest.xml"]


async def test_names_lists_by_prefix_in_order(place: Place) -> None:
    """Only the names that begin with the prefix are listed, sorted."""
    for name in ("image.part.01", "image.part.00", "other.part.00"):
        await place.store.put(name, memoryview(SMALL), sha1(SMALL), lambda _: None)
    assert await place.store.names("image.") == ["image.part.00", "image.part.01"]
    assert await place.store.names("nothing") == []


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_delete_removes_and_may_come_twice(place: Place, data: bytes) -> None:
    """Deleting leaves nothing; deleting an absent object is no error."""
    await place.store.put("image.part.00", memoryview(data), sha1(data), lambda _: None)
    await place.store.delete("image.part.00")
    await place.store.delete("image.part.00")
    assert place.names() == []
    assert place.unfinished() == 0


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "multipart"])
async def test_remove_takes_only_what_is_described(place: Place, data: bytes) -> None:
    """An object of another size or checksum stays; the described one is removed, and may be removed twice."""
    name, whole = "image.part.00", whole_checksum(sha1(data))
    checksum = await place.store.checksum(name, memoryview(data), sha1(data))
    await place.store.put(name, memoryview(data), sha1(data), lambda _: None)
    await place.store.remove(name, len(data) + 1, checksum, whole)
    await place.store.remove(name, len(data), whole_checksum(sha1(b"another")))
    assert place.names() == [name]
    for _ in range(2):
        await place.store.remove(name, len(data), checksum, whole)
        assert place.names() == []


async def test_the_buffer_may_be_reused_afterwards(place: Place) -> None:
    """Changing the buffer after a put does not change the stored object."""
    buffer = bytearray(SMALL)
    await place.store.put("image.part.00", memoryview(buffer), sha1(SMALL), lambda _: None)
    buffer[:] = bytes(len(buffer))
    assert place.content("image.part.00") == SMALL


async def test_tidy_removes_what_an_unfinished_put_left(place: Place) -> None:
    """The remains of killed puts of these names are removed; whole objects and uploads of others stay."""
    await place.store.put("image.part.00", memoryview(SMALL), sha1(SMALL), lambda _: None)
    for name in ("image.part.01", "image.part.02", "image.part.03"):
        place.leave_unfinished(name)
    place.leave_unfinished_by_another("image.part.01")
    others = place.unfinished() - 3
    unfinished = {
        name: await place.store.checksum(name, memoryview(LARGE), sha1(LARGE))
        for name in ("image.part.00", "image.part.01", "image.part.02", "image.part.03", "image.part.09")
    }
    for _ in range(2):
        await place.store.tidy(unfinished)
        assert place.unfinished() == others > 0
    assert place.names() == ["image.part.00"]
    assert place.content("image.part.00") == SMALL
    for name in ("image.part.01", "image.part.02"):
        await place.store.put(name, memoryview(SMALL), sha1(SMALL), lambda _: None)
        assert place.content(name) == SMALL


async def test_nothing_to_tidy(place: Place) -> None:
    """Tidying without names, or without remains, is no error."""
    await place.store.tidy({})
    await place.store.tidy({"image.part.00": whole_checksum(sha1(SMALL))})
    assert place.names() == []


async def test_a_sweep_takes_what_is_old_and_named_so(place: Place) -> None:
    """Objects and unfinished puts that belong and are older than the moment go; younger ones and all others stay."""
    names = ["old.1", "old.2", "old.x"]
    for name in names:
        await place.store.put(name, memoryview(SMALL), sha1(SMALL), lambda _: None)
    place.leave_unfinished("old.3")
    place.leave_unfinished_by_another("old.x")

    def belongs(name: str) -> bool:
        return name in {"old.1", "old.2", "old.3"}

    now, others = datetime.now(UTC), place.unfinished() - 1
    # One endpoint says of every upload that it was begun in 2010.
    early = await place.store.sweep("old.", belongs, made_before=now - timedelta(hours=1))
    assert (place.names(), place.unfinished() - others) == (names, 1 - early)
    assert early + await place.store.sweep("old.", belongs, made_before=now + timedelta(hours=1)) == 3
    assert (place.names(), place.unfinished()) == (["old.x"], others)
