"""Runs of blocks of one inode: from its extent tree, or from the older map of direct and indirect blocks.

Every tree is read from left to right and checked on the way: it must ascend and stay in the file system. A block of the
tree is reported before it is read, so a caller who claims all blocks for one owner each never reads a block twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from amistream.source.disks.ext4.checksums import checksum
from amistream.source.disks.ext4.inodes import Inode, seed_of
from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError, Reader

_MAGIC: Final = 0xF30A
_HEADER: Final = struct.Struct("<4H")
_EXTENT: Final = struct.Struct("<I2HI")
_INDEX: Final = struct.Struct("<2IH2x")
_HEADER_LENGTH: Final = 12
_ENTRY_LENGTH: Final = 12
_IN_INODE: Final = 4
_DEEPEST: Final = 5
_LONGEST: Final = 32768
"""A longer extent is one of this many blocks less, and unwritten."""
_LOGICAL_END: Final = 1 << 32
_DIRECT: Final = 12


class Run(NamedTuple):
    """Blocks that follow each other, in the file system and in the file."""

    start: int
    blocks: int
    logical: int
    """Block number in the file."""
    unwritten: bool = False
    """Given to the file and never written: it reads as zeros, and the blocks hold what was there before."""
    is_tree: bool = False
    """A block of the map itself, which holds nothing of the file."""


def runs_of(read: Reader, fs: Superblock, inode: Inode) -> Iterator[Run]:
    """Yield the runs in the order of the file. Raises `DoubtError`.

    Ends for any content: a tree of extents has no more leaves than the file system has blocks. The older map has up to
    1,024^3 entries: a caller who does not claim the blocks stops behind the inode's size.
    """
    if not inode.has_blocks:
        return iter(())
    return _Extents(read, fs, inode).runs() if inode.has_extents else _Pointers(read, fs, inode).runs()


def _check_within(fs: Superblock, inode: Inode, start: int, count: int) -> None:
    if not fs.first_block <= start < start + count <= fs.blocks:
        raise DoubtError(f"inode {inode.number} refers to blocks beyond the end of the file system")


class _Extents:
    """The tree of extents of an inode."""

    def __init__(self, read: Reader, fs: Superblock, inode: Inode) -> None:
        self._read = read
        self._fs = fs
        self._inode = inode

    def runs(self) -> Iterator[Run]:
        raw = self._inode.map
        depth = _HEADER.unpack_from(raw)[3]
        if depth > _DEEPEST:
            raise self._damaged()
        yield from self._node(raw, depth, _IN_INODE, 0, _LOGICAL_END)

    def _node(self, raw: bytes, depth: int, most: int, low: int, high: int) -> Iterator[Run]:
        """Yield what a node leads to; its file blocks must lie from `low` to below `high`."""
        magic, entries, room, own_depth = _HEADER.unpack_from(raw)
        if magic != _MAGIC or own_depth != depth or not entries <= room <= most:
            raise self._damaged()
        if depth == 0:
            yield from self._leaf(raw, entries, low, high)
            return
        places = [_INDEX.unpack_from(raw, _HEADER_LENGTH + _ENTRY_LENGTH * i) for i in range(entries)]
        firsts = [place[0] for place in places]
        if not places or firsts[0] < low or firsts[-1] >= high:
            raise self._damaged()
        for (first, block_low, block_high), behind in zip(places, [*firsts[1:], high], strict=True):
            if first >= behind:
                raise self._damaged()
            block = block_low | block_high << 32
            _check_within(self._fs, self._inode, block, 1)
            yield Run(block, 1, first, is_tree=True)
            yield from self._child(block, depth - 1, first, behind)

    def _child(self, block: int, depth: int, low: int, high: int) -> Iterator[Run]:
        size = self._fs.block_size
        raw = self._read(block * size, size)
        most = (size - _HEADER_LENGTH) // _ENTRY_LENGTH
        entries, room = _HEADER.unpack_from(raw)[1:3]
        # An empty node would cost a read and explain nothing; the kernel leaves none either.
        if entries == 0 or room > most:
            raise self._damaged()
        if self._fs.has_checksums:
            tail = _HEADER_LENGTH + _ENTRY_LENGTH * room
            # Four bytes are left in every size of block, even behind the most entries.
            stored = int.from_bytes(raw[tail : tail + 4], "little")
            if checksum(raw[:tail], seed_of(self._fs, self._inode)) != stored:
                raise DoubtError(f"an extent block of inode {self._inode.number} has a wrong checksum")
        yield from self._node(raw, depth, most, low, high)

    def _leaf(self, raw: bytes, entries: int, low: int, high: int) -> Iterator[Run]:
        for number in range(entries):
            logical, length, start_high, start_low = _EXTENT.unpack_from(raw, _HEADER_LENGTH + _ENTRY_LENGTH * number)
            unwritten = length > _LONGEST
            count = length - _LONGEST if unwritten else length
            if count == 0 or not low <= logical < logical + count <= high:
                raise self._damaged()
            start = start_low | start_high << 32
            _check_within(self._fs, self._inode, start, count)
            yield Run(start, count, logical, unwritten=unwritten)
            low = logical + count

    def _damaged(self) -> DoubtError:
        return DoubtError(f"the extent tree of inode {self._inode.number} is damaged")


class _Pointers:
    """The map of twelve direct blocks and one tree of indirect blocks each with one, two and three levels."""

    def __init__(self, read: Reader, fs: Superblock, inode: Inode) -> None:
        self._read = read
        self._fs = fs
        self._inode = inode
        self._fan = fs.block_size // 4

    def runs(self) -> Iterator[Run]:
        pointers = struct.unpack("<15I", self._inode.map)
        yield from self._join(pointers[:_DIRECT], 0)
        logical = _DIRECT
        for levels, pointer in enumerate(pointers[_DIRECT:], 1):
            yield from self._tree(pointer, levels, logical)
            logical += self._fan**levels

    def _tree(self, block: int, levels: int, logical: int) -> Iterator[Run]:
        if block == 0:
            return
        _check_within(self._fs, self._inode, block, 1)
        yield Run(block, 1, logical, is_tree=True)
        size = self._fs.block_size
        pointers = struct.unpack(f"<{self._fan}I", self._read(block * size, size))
        if levels == 1:
            yield from self._join(pointers, logical)
            return
        step = self._fan ** (levels - 1)
        for number, pointer in enumerate(pointers):
            yield from self._tree(pointer, levels - 1, logical + number * step)

    def _join(self, pointers: tuple[int, ...], logical: int) -> Iterator[Run]:
        """Yield a run for pointers that count up; zero is a hole."""
        start = count = first = 0
        for number, pointer in enumerate(pointers):
            if count and pointer == start + count:
                count += 1
                continue
            if count:
                _check_within(self._fs, self._inode, start, count)
                yield Run(start, count, first)
            start, count, first = pointer, int(pointer != 0), logical + number
        if count:
            _check_within(self._fs, self._inode, start, count)
            yield Run(start, count, first)
