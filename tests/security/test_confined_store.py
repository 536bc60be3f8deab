"""A directory destination of a confined job: nothing is written, shown or removed outside the roots."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from amistream.errors import StoreError
from amistream.ports.store import Stored, whole_checksum
from amistream.roots import Roots
from amistream.stores.directory import DirectoryStore
from security.swapping import EXCHANGE, attempts, swapping

DATA = b"part"
SHA1 = hashlib.sha1(DATA).digest()
SECRET = b"nobody may know the digest of this"
ROUNDS = 300


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Make a directory beside the root, with a file in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    return tmp_path / "outside"


def confined(directory: Path, root: Path) -> DirectoryStore:
    return DirectoryStore(directory, token="t0", roots=Roots([root]))


async def put(store: DirectoryStore, name: str, data: bytes = DATA) -> None:
    await store.put(name, memoryview(data), hashlib.sha1(data).digest(), lambda _: None)


async def test_a_directory_within_the_roots_is_like_any_other(inside: Path) -> None:
    """A directory in a root is made, written to, read, cleaned and removed as without roots."""
    store = confined(inside / "a" / "b", inside)
    assert await store.names("") == []
    assert await store.stat("image.part.00") is None
    await store.open()
    await put(store, "image.part.00")
    await put(store, "image.part.00")
    assert await store.stat("image.part.00") == Stored(len(DATA), whole_checksum(SHA1))
    assert await store.stat("image.part.00", read=False) == Stored(len(DATA), None)
    assert await store.read("image.part.00", 1, 2) == DATA[1:3]
    await store.commit("image.manifest.xml", DATA, SHA1)
    assert await store.names("image") == ["image.manifest.xml", "image.part.00"]
    for name in ("image.part.00", "image.manifest.xml"):
        await store.delete(name)
        await store.delete(name)
    await store.close()
    assert not (inside / "a" / "b").exists()


async def test_a_directory_outside_is_refused_by_every_call(inside: Path, outside: Path) -> None:
    """Every call on a directory outside is refused, also those that only read."""
    before = sorted(outside.iterdir())
    calls: tuple[Callable[[DirectoryStore], object], ...] = (
        lambda store: store.open(),
        lambda store: store.stat("secret"),
        lambda store: store.read("secret", 0, 10),
        lambda store: store.names(""),
        lambda store: store.delete("secret"),
        lambda store: store.tidy({}),
        lambda store: put(store, "new"),
        lambda store: store.commit("new", DATA, SHA1),
    )
    (inside / "link").symlink_to(outside)
    for directory in (outside, outside / "new", inside / "link", inside / ".." / "outside"):
        for call in calls:
            with pytest.raises(StoreError) as caught:
                await call(confined(directory, inside))  # type: ignore[misc]  # each gives something to await
            assert caught.value.code == "roots.outside"
            assert caught.value.field == "destinations"
    assert sorted(outside.iterdir()) == before


async def test_a_directory_that_is_replaced_gets_nothing(inside: Path, outside: Path) -> None:
    """If a link replaces the directory during a job, nothing is written or removed through it."""
    store = confined(inside / "bundle", inside)
    await store.open()
    await put(store, "image.part.00")
    (inside / "bundle").rename(inside / "moved")
    (inside / "bundle").symlink_to(outside)
    (outside / "image.part.00").write_bytes(SECRET)
    for call in (put(store, "image.part.01"), store.delete("image.part.00"), store.stat("image.part.00")):
        with pytest.raises(StoreError) as caught:
            await call
        assert caught.value.code == "roots.outside"
    assert sorted(path.name for path in outside.iterdir()) == ["image.part.00", "secret"]


async def test_a_replaced_directory_is_detected(tmp_path: Path) -> None:
    """With or without roots, a job works only in the directory that it began in."""
    for roots in (None, Roots([tmp_path])):
        directory = tmp_path / "bundle"
        store = DirectoryStore(directory, token="t0", roots=roots)
        await store.open()
        directory.rename(tmp_path / f"moved{roots}")
        directory.mkdir()
        with pytest.raises(StoreError) as caught:
            await put(store, "image.part.00")
        assert caught.value.code == "directory.replaced"
        await store.close()
        assert list(directory.iterdir()) == []
        directory.rmdir()


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
async def test_a_foreign_file_in_place_of_a_part_shows_nothing(inside: Path, outside: Path, kind: str) -> None:
    """The digest of a link, a hard link or a pipe in place of a part is not shown, and does not block the job."""
    path, secret = inside / "image.part.00", outside / "secret"
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "second name":
        path.hardlink_to(secret)
    else:
        os.mkfifo(path)
    store = confined(inside, inside)
    await store.open()
    checksum = whole_checksum(hashlib.sha1(SECRET).digest())
    for read in (True, False):
        found = await store.stat("image.part.00", read=read)
        assert found is not None
        assert not found.is_the(len(SECRET), checksum)
        assert found.checksum != checksum
    with pytest.raises(StoreError):
        await store.read("image.part.00", 0, 10)
    with pytest.raises(StoreError, match="exists already, with other content"):
        await put(store, "image.part.00", SECRET)
    await store.delete("image.part.00")
    assert (secret.read_bytes(), path.is_symlink() or path.exists()) == (SECRET, True)


async def test_a_temporary_file_that_is_replaced_is_nobodys_way_out(inside: Path, outside: Path) -> None:
    """A link in place of the hidden temporary file is not written through."""
    store = confined(inside, inside)
    await store.open()
    (inside / ".image.part.00.t0.partial").symlink_to(outside / "new")
    with pytest.raises(StoreError):
        await put(store, "image.part.00")
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_a_directory_swapped_in_a_loop(inside: Path, outside: Path) -> None:
    """While a name alternates between the directory and a link outside, nothing is written or removed outside."""
    (inside / "bundle").mkdir()
    (inside / "link").symlink_to(outside)
    answers: set[str] = set()
    with swapping(EXCHANGE, inside / "bundle", inside / "link"):
        for number in attempts(ROUNDS, answers):
            store = confined(inside / "bundle", inside)
            try:
                await store.open()
                await put(store, f"image.part.{number}")
                await store.stat("secret")
                await store.delete("secret")
                answers.add("written")
            except StoreError:
                answers.add("refused")
    assert answers == {"written", "refused"}
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_only_the_directory_that_was_made_is_removed(inside: Path, outside: Path) -> None:
    """An empty directory that replaced the job's directory, or its parent, is not removed."""
    store = confined(inside / "a" / "b", inside)
    await store.open()
    shutil.rmtree(inside / "a")
    (inside / "a").symlink_to(outside)
    (outside / "b").mkdir()
    with pytest.raises(StoreError):
        await store.close()
    assert (outside / "b").is_dir()
