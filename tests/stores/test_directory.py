"""Behaviour of directories as destinations beyond the contract of stores."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest

from amistream.errors import StoreError
from amistream.flow import cancel
from amistream.ports.store import NO_CHECKSUM, Stored, find, whole_checksum
from amistream.stores.directory import DirectoryStore, _sha1
from amistream.values import LARGEST_PART, MIB
from support.mounts import mounted

DATA = b"part"
SHA1 = hashlib.sha1(DATA).digest()


async def test_a_directory_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    """A store removes a directory that it created and that is still empty, with the parents that it created for it."""
    for place in ("new", "some/parents/new"):
        store = DirectoryStore(tmp_path / place, token="t0")
        await store.open()
        assert (tmp_path / place).is_dir()
        await store.close()
        assert not list(tmp_path.iterdir())


async def test_a_parent_with_content_stays(tmp_path: Path) -> None:
    """Of the parents that a store created, those that hold something else by now stay."""
    store = DirectoryStore(tmp_path / "some" / "parents" / "new", token="t0")
    await store.open()
    (tmp_path / "some" / "other").write_bytes(DATA)
    await store.close()
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["other"]


async def test_a_directory_with_content_stays(tmp_path: Path) -> None:
    """Closing never removes stored files."""
    store = DirectoryStore(tmp_path / "new", token="t0")
    await store.open()
    await store.commit("image.manifest.xml", DATA, SHA1)
    await store.close()
    assert (tmp_path / "new" / "image.manifest.xml").read_bytes() == DATA


async def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    """A directory that existed before is not removed, empty or not."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    await store.close()
    assert tmp_path.is_dir()


async def test_another_directory_in_the_place_of_ours_stays(tmp_path: Path) -> None:
    """A later store removes the directory that an earlier one made, and none that a user made anew there."""
    for remade in (False, True):
        first = DirectoryStore(tmp_path / "new", token="t0")
        await first.open()
        assert first.made_place is not None
        if remade:
            # Another one is made before the first goes, so that it gets another inode.
            (tmp_path / "other").mkdir()
            (tmp_path / "other").rename(tmp_path / "new")
        later = DirectoryStore(tmp_path / "new", token="t0")
        await later.open(made_place=first.made_place)
        await later.close()
        assert (tmp_path / "new").exists() == remade


async def test_a_mount_point_in_the_place_of_ours_is_named(tmp_path: Path) -> None:
    """A directory that the store made and that cannot be removed is an error with its name."""
    store = DirectoryStore(tmp_path / "new", token="t0")
    await store.open()
    with mounted(tmp_path / "new", tmp_path / "new", "--bind"):
        with pytest.raises(StoreError, match=f"{tmp_path / 'new'}.*busy"):
            await store.close()
        (tmp_path / "new" / "image.part.00").write_bytes(DATA)
        await store.close()


async def test_a_directory_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel ends the opening of a directory on a dead network mount."""
    monkeypatch.setattr(cancel, "SETTLE_S", 0.05)
    answers = threading.Event()

    class DeadMount(DirectoryStore):
        """A directory whose file system is silent until the test ends."""

        def _open(self) -> None:
            assert answers.wait(60)

    opening = asyncio.create_task(DeadMount(tmp_path / "new", token="t0").open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    answers.set()


async def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A destination that is a file is refused, with its path."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="it is not a directory") as caught:
        await DirectoryStore(tmp_path / "file", token="t0").open()
    assert str(tmp_path / "file") in caught.value.message


async def test_no_temporary_file_is_left_after_a_refusal(tmp_path: Path) -> None:
    """A refused put leaves no hidden file after its undo."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    await store.commit("a", DATA, SHA1)
    with pytest.raises(StoreError):
        await store.put("a", memoryview(b"other"), hashlib.sha1(b"other").digest(), lambda _: None)
    await store.delete("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class Reading:
    """Count the bytes that this process reads."""

    def __init__(self) -> None:
        self._before = self._now()

    @property
    def bytes(self) -> int:
        return self._now() - self._before

    def _now(self) -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def plant(path: Path, size: int) -> None:
    """Create a huge sparse file, as anybody with write permission can."""
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)


async def test_a_file_larger_than_a_part_is_not_read_to_refuse_it(tmp_path: Path) -> None:
    """A part's name taken by a huge file is refused by the file's size."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    plant(tmp_path / "image.part.00", 64 * MIB)
    reading = Reading()
    with pytest.raises(StoreError, match="exists already, with other content"):
        await store.put("image.part.00", memoryview(DATA), SHA1, lambda _: None)
    assert reading.bytes < MIB


async def test_a_file_larger_than_any_part_is_never_read(tmp_path: Path) -> None:
    """A file larger than any part gets its size and a checksum that no part has."""
    store = DirectoryStore(tmp_path, token="t0")
    plant(tmp_path / "image.part.00", LARGEST_PART + 1)
    reading = Reading()
    assert await store.stat("image.part.00") == Stored(LARGEST_PART + 1, NO_CHECKSUM)
    assert reading.bytes < MIB


async def test_only_a_file_of_the_right_size_is_read(tmp_path: Path) -> None:
    """A file of the expected size is read for its checksum; of any other file only the size is returned."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    await store.commit("image.part.00", DATA, SHA1)
    plant(tmp_path / "image.part.01", 64 * MIB)
    reading = Reading()
    assert await find(store, "image.part.00", len(DATA)) == Stored(len(DATA), whole_checksum(SHA1))
    assert await find(store, "image.part.01", len(DATA)) == Stored(64 * MIB, None)
    assert await find(store, "image.part.02", len(DATA)) is None
    assert reading.bytes < MIB


async def test_a_file_larger_than_the_part_is_not_read_to_leave_it(tmp_path: Path) -> None:
    """A file of another size than the part to be removed stays, and is not read."""
    store = DirectoryStore(tmp_path, token="t0")
    plant(tmp_path / "image.part.00", 64 * MIB)
    reading = Reading()
    await store.remove("image.part.00", len(DATA), whole_checksum(SHA1))
    assert reading.bytes < MIB
    assert (tmp_path / "image.part.00").exists()


async def test_a_file_that_is_written_to_is_read_to_where_it_ended(tmp_path: Path) -> None:
    """A file that shrinks while it is read gets no checksum; one that grows is read to its first size only."""
    path = tmp_path / "image.part.00"
    plant(path, 100)
    with path.open("rb", buffering=0) as file:
        assert _sha1(file, 101) is None
        file.seek(0)
        assert _sha1(file, 60) == hashlib.sha1(bytes(60)).digest()
