"""Files written at once: whatever the memory and the file system, the bytes are there and nothing is replaced."""

from __future__ import annotations

import mmap
import random
from pathlib import Path

import pytest

from amistream.stores.whole_file import write_whole_file

SIZES = (0, 1, mmap.PAGESIZE - 1, mmap.PAGESIZE, mmap.PAGESIZE + 1, 1_000_003)
DATA = random.Random(9).randbytes(max(SIZES))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_every_byte(size: int, aligned: bool, place: str, tmp_path: Path) -> None:
    """Memory on a page bound or off it, on a disk or in a memory file system, any size is written whole."""
    memory = memoryview(mmap.mmap(-1, max(SIZES) + 1))
    data = memory[:size] if aligned else memory[1 : 1 + size]
    data[:] = DATA[:size]
    folder = tmp_path if place == "disk" else Path("/dev/shm")
    path = folder / f"{tmp_path.name}-{size}-{aligned}"
    try:
        write_whole_file(path, data)
        assert path.read_bytes() == DATA[:size]
    finally:
        path.unlink()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A file that is there is refused and stays as it is."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_whole_file(tmp_path / "file", memoryview(DATA))
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_no_such_place() -> None:
    """The error of a place that cannot be written to comes through."""
    with pytest.raises(OSError, match=r"Permission denied|No such file|Not a directory"):
        write_whole_file(Path("/proc/nothing/here"), memoryview(DATA))
