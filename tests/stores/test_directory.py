"""What is special about a directory as destination."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from amistream.errors import StoreError
from amistream.stores.directory import DirectoryStore

DATA = b"part"
SHA1 = hashlib.sha1(DATA).digest()


async def test_a_directory_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    """A store that made its directory and stored nothing removes it."""
    store = DirectoryStore(tmp_path / "new", token="t0")
    await store.open()
    assert (tmp_path / "new").is_dir()
    await store.close()
    assert not (tmp_path / "new").exists()


async def test_a_directory_with_content_stays(tmp_path: Path) -> None:
    """Closing never removes what is stored."""
    store = DirectoryStore(tmp_path / "new", token="t0")
    await store.open()
    await store.commit("image.manifest.xml", DATA, SHA1)
    await store.close()
    assert (tmp_path / "new" / "image.manifest.xml").read_bytes() == DATA


async def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    """A directory of the user's own is not removed, empty or not."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    await store.close()
    assert tmp_path.is_dir()


async def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """A destination that is a file is refused by name."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="it is not a directory") as caught:
        await DirectoryStore(tmp_path / "file", token="t0").open()
    assert str(tmp_path / "file") in caught.value.message


async def test_a_full_disk_is_told_apart() -> None:
    """Running out of space says so, with the place."""
    store = DirectoryStore(Path("/dev"), token="t0")
    full = store._failure("write", "image.part.00", OSError(28, "No space left on device"))
    assert full.code == "directory.full"
    assert "df -h /dev" in full.hint


async def test_no_temporary_file_is_left_after_a_refusal(tmp_path: Path) -> None:
    """Whatever is refused leaves no hidden file, once its undo ran."""
    store = DirectoryStore(tmp_path, token="t0")
    await store.open()
    await store.commit("a", DATA, SHA1)
    with pytest.raises(StoreError):
        await store.put("a", memoryview(b"other"), hashlib.sha1(b"other").digest(), lambda _: None)
    await store.delete("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
