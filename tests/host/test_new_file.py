"""New files: every byte is there, nothing is replaced, and a failure leaves nothing."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest

from amistream.host.new_file import NewFile, temporary_name

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
        with NewFile(path, direct=True) as file:
            file.write(data)
            file.link()
        assert path.read_bytes() == DATA[:size]
    finally:
        path.unlink()


@pytest.mark.parametrize("direct", [True, False])
def test_pieces(direct: bool, tmp_path: Path) -> None:
    """Pieces of any length follow one another."""
    with NewFile(tmp_path / "file", direct=direct) as file:
        for start in range(0, len(DATA), 77_777):
            file.write(DATA[start : start + 77_777])
        file.link()
    assert (tmp_path / "file").read_bytes() == DATA


def test_link_replaces_nothing(tmp_path: Path) -> None:
    """A file that has the name stays, and the new one goes."""
    (tmp_path / "file").write_bytes(b"mine")
    with NewFile(tmp_path / "file") as file:
        file.write(DATA)
        with pytest.raises(FileExistsError):
            file.link(or_rename=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"mine")]


def test_replace(tmp_path: Path) -> None:
    """A replaced file is the old one until the new one is whole, and the mode is the one asked for."""
    (tmp_path / "file").write_bytes(b"mine")
    with NewFile(tmp_path / "file", mode=0o600) as file:
        file.write(DATA)
        assert (tmp_path / "file").read_bytes() == b"mine"
        file.replace()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", DATA)]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_rivals_temporary_file_stays(tmp_path: Path) -> None:
    """A temporary name that is taken, be it by a link, is refused and left alone."""
    rival = tmp_path / temporary_name("file", "t0")
    rival.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), NewFile(tmp_path / "file", token="t0"):
        pass
    assert list(tmp_path.iterdir()) == [rival]


def test_an_open_directory(tmp_path: Path) -> None:
    """With a directory's descriptor the file goes there, whatever stands at its path by then."""
    (tmp_path / "old").mkdir()
    folder = os.open(tmp_path / "old", os.O_RDONLY)
    try:
        with NewFile(Path("file"), folder=folder) as file:
            (tmp_path / "old").rename(tmp_path / "new")
            (tmp_path / "old").mkdir()
            file.write(DATA)
            file.link()
    finally:
        os.close(folder)
    assert (tmp_path / "new" / "file").read_bytes() == DATA
    assert list((tmp_path / "old").iterdir()) == []


def test_no_such_place() -> None:
    """The error of a place that cannot be written to comes through."""
    with pytest.raises(OSError, match=r"Permission denied|No such file|Not a directory"):
        NewFile(Path("/proc/nothing/here"), direct=True).open()
