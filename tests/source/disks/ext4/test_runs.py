"""Trees of extents and pointers that are made by hand: lengths, edges and nodes that no tool here makes."""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.ext4.inodes import Inode
from amistream.source.disks.ext4.runs import Run, runs_of
from amistream.source.disks.ext4.superblock import Superblock, read_superblock
from amistream.source.disks.reading import DoubtError
from source.disks.ext4.filled import opened

if TYPE_CHECKING:
    from source.disks.ext4.conftest import GetImage

EXTENTS = 0x80000
CHILD = 500


@pytest.fixture
def fs(image: GetImage) -> Superblock:
    """A file system of 1 KiB blocks without checksums, as large as the numbers of these tests."""
    with opened(image("no checksums").path) as read:
        return dataclasses.replace(read_superblock(read), blocks=1 << 40)


def inode(root: bytes, *, flags: int = EXTENTS) -> Inode:
    return Inode(
        number=12, mode=0o100644, size=0, links=1, flags=flags, map=root.ljust(60, b"\0"), attribute_block=0, raw=b""
    )


def node(*entries: bytes, depth: int = 0, room: int = 4, magic: int = 0xF30A) -> bytes:
    return struct.pack("<4HI", magic, len(entries), room, depth, 0) + b"".join(entries)


def extent(logical: int, length: int, start: int) -> bytes:
    return struct.pack("<IHHI", logical, length, start >> 32, start & 0xFFFFFFFF)


def index(logical: int, block: int) -> bytes:
    return struct.pack("<IIHH", logical, block, 0, 0)


def runs(fs: Superblock, root: bytes, child: bytes = b"", *, flags: int = EXTENTS) -> list[Run]:
    def read(offset: int, length: int) -> bytes:
        assert (offset, length) == (CHILD * fs.block_size, fs.block_size)
        return child.ljust(length, b"\0")

    return list(runs_of(read, fs, inode(root, flags=flags)))


def unread(offset: int, length: int) -> bytes:
    raise AssertionError(f"{length} bytes are read at {offset}")


def test_lengths(fs: Superblock) -> None:
    """An extent of up to 32,768 blocks was written; a larger number is that much more than its unwritten blocks."""
    root = node(extent(0, 32768, 1000), extent(32768, 32769, 1 << 33), extent(40000, 65535, 100_000))
    assert runs(fs, root) == [
        Run(1000, 32768, 0),
        Run(1 << 33, 1, 32768, unwritten=True),
        Run(100_000, 32767, 40000, unwritten=True),
    ]


def test_last_block_of_a_file(fs: Superblock) -> None:
    """A file has at most 2^32 blocks."""
    assert runs(fs, node(extent(0xFFFFFFFE, 2, 9))) == [Run(9, 2, 0xFFFFFFFE)]
    with pytest.raises(DoubtError, match="is damaged"):
        runs(fs, node(extent(0xFFFFFFFF, 2, 9)))


def test_child(fs: Superblock) -> None:
    """The runs of a child follow its own block."""
    found = runs(fs, node(index(7, CHILD), depth=1), node(extent(7, 3, 90), extent(12, 1, 70), room=84))
    assert found == [Run(CHILD, 1, 7, is_tree=True), Run(90, 3, 7), Run(70, 1, 12)]


@pytest.mark.parametrize(
    "child",
    {
        "empty": node(room=84),
        "too much room": node(extent(7, 1, 90), room=85),
        "no magic": node(extent(7, 1, 90), room=84, magic=0),
        "of another depth": node(index(7, 90), depth=1, room=84),
        "before its place": node(extent(6, 1, 90), room=84),
        "in the place of the next": node(extent(8, 3, 90), room=84),
        "more than its room": node(extent(7, 1, 90), extent(8, 1, 91), room=1),
    }.items(),
    ids=lambda child: child[0],
)
def test_wrong_child(fs: Superblock, child: tuple[str, bytes]) -> None:
    """A block of the tree that does not fit its parent is damage."""
    with pytest.raises(DoubtError, match="is damaged"):
        runs(fs, node(index(7, CHILD), index(10, CHILD + 1), depth=1), child[1])


@pytest.mark.parametrize("depth", [6, 200])
def test_too_deep(fs: Superblock, depth: int) -> None:
    """A tree has at most five levels below the inode."""
    with pytest.raises(DoubtError, match="is damaged"):
        runs(fs, node(index(7, CHILD), depth=depth), node(index(7, CHILD + 1), depth=depth - 1, room=84))


def test_pointers(fs: Superblock) -> None:
    """Pointers that count up are one run, a zero is a hole, and an indirect block comes before what it leads to."""
    root = struct.pack("<15I", 20, 21, 22, 0, 23, *[0] * 7, CHILD, 0, 0)
    found = runs(fs, root, struct.pack("<3I", 0, 24, 25), flags=0)
    assert found == [Run(20, 3, 0), Run(23, 1, 4), Run(CHILD, 1, 12, is_tree=True), Run(24, 2, 13)]


@pytest.mark.parametrize(
    ("mode", "size", "flags"),
    [(0o120777, 59, 0), (0o20600, 0, 0), (0o60600, 0, 0), (0o10600, 0, 0), (0o140600, 0, 0), (0o100644, 9, 0x10000000)],
)
def test_no_blocks(fs: Superblock, mode: int, size: int, flags: int) -> None:
    """A short link, a device, a pipe, a socket and a file in its inode refer to no blocks, whatever the map holds."""
    each = dataclasses.replace(inode(b"\xff" * 60, flags=flags), mode=mode, size=size)
    assert list(runs_of(unread, fs, each)) == []


def test_long_link(fs: Superblock) -> None:
    """The target of a link of 60 bytes is in a block."""
    each = dataclasses.replace(inode(struct.pack("<15I", 20, *[0] * 14), flags=0), mode=0o120777, size=60)
    assert list(runs_of(unread, fs, each)) == [Run(20, 1, 0)]
