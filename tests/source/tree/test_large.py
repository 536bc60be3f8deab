"""Trees that are large in one way: deep, or with one directory of many names. Memory and time grow with them alone."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.source.tree import handles
from amistream.source.tree.report import MOVED
from amistream.source.tree.walk import LONGEST_PATH
from source.tree.images import opened
from support.mounts import small_disk


def make_comb(root: Path, levels: int, name: bytes = b"d") -> None:
    """Directories one below the other, each with another one beside it."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(b"a" + name, dir_fd=here)
        os.mkdir(b"b" + name, dir_fd=here)
        below = os.open(b"a" + name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_deep(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep tree is read by opening each directory a few times, though only some stay open."""
    levels, calls = 300, 0
    make_comb(tree, levels)
    open_directory = handles.open_directory

    def counted(name: bytes, above: int) -> int:
        nonlocal calls
        calls += 1
        return open_directory(name, above)

    monkeypatch.setattr(handles, "open_directory", counted)
    monkeypatch.setattr(handles, "_MOST_OPEN", 16)
    with opened(tree) as volume:
        volume.check_unchanged()
        assert volume.inodes == 2 * levels + 2
        assert volume.report.paths(*MOVED) == []
    assert calls < 15 * levels


def test_too_deep(tree: Path) -> None:
    """A path that is much longer than the kernel takes is refused before all those below it fill the memory."""
    make_comb(tree, 300, b"x" * 250)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError) as caught, opened(tree):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "source.too_deep"
    assert len(str(caught.value)) < 500
    assert peak < 100 * LONGEST_PATH


def test_one_directory(tree: Path) -> None:
    """A directory of many names takes little more memory for each than its entries in the image."""
    names = 4_000
    for number in range(names):
        (tree / f"file{number}").touch()
    tracemalloc.start()
    try:
        with opened(tree) as volume:
            assert volume.inodes == names + 2
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 900 * names


@pytest.mark.parametrize(("profile", "other"), [("ext4", "xfs"), ("ext2", "ext4")])
def test_larger_than_a_file_can_be(tree: Path, profile: str, other: str) -> None:
    """A file that the file system cannot have is refused, with the name of one that can."""
    with small_disk(tree / "memory", "1m") as disk:
        (disk / "huge").touch()
        os.truncate(disk / "huge", 1 << 60)
        with pytest.raises(RefusedError, match="/huge has") as caught, opened(disk, profile=profile):
            pass
    assert caught.value.code == "source.file_too_large"
    assert f"--fs {other}," in caught.value.hint
