"""Where a file's blocks are, as its inode says: a tree of extents (ext4), or of indirect blocks (ext2, ext3). Pure.

Both kinds have blocks of their own, the map blocks, as soon as the inode's 60 bytes are not enough. Their number
depends on the file's pieces alone, so a layout can make room for them before it knows their content.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from amistream.source.tree.checksums import crc32c
from amistream.source.tree.profiles import BLOCK

Piece = tuple[int, int, int]
"""A run of a file's blocks: place in the file, place in the image, blocks."""

LONGEST_EXTENT = 32_768
_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_ROOT_OF_ONE = struct.Struct("<HHHHIIHHI")
_INDEX = struct.Struct("<IIHH")
_MAGIC = 0xF30A
_IN_INODE, _IN_BLOCK = 4, (BLOCK - _HEADER.size) // _EXTENT.size

DIRECT = 12
"""Blocks that an inode without extents refers to itself."""
_POINTERS = BLOCK // 4


def extent_blocks(extents: int) -> int:
    """Map blocks of a file with so many extents."""
    total = 0
    while extents > _IN_INODE:
        extents = -(-extents // _IN_BLOCK)
        total += extents
    return total


class ExtentMap:
    """The extents of one inode: leaves first, then each level of indexes, the inode's own last."""

    def __init__(self, pieces: Sequence[Piece], places: Sequence[int]) -> None:
        """`places` are the map blocks' in the image: `extent_blocks` of them."""
        self._nodes: list[bytes] = []
        depth = 0
        level = [
            (logical, _EXTENT.pack(logical, count, place >> 32, place & 0xFFFFFFFF)) for logical, place, count in pieces
        ]
        while len(level) > _IN_INODE:
            above = []
            for at in range(0, len(level), _IN_BLOCK):
                node = level[at : at + _IN_BLOCK]
                place = places[len(self._nodes)]
                self._nodes.append(_node(node, _IN_BLOCK, depth))
                above.append((node[0][0], _INDEX.pack(node[0][0], place & 0xFFFFFFFF, place >> 32, 0)))
            level, depth = above, depth + 1
        self.root = _node(level, _IN_INODE, depth)

    def block(self, number: int, seed: int | None) -> bytes:
        """Map block `number`; `seed` is the inode's, for a checksum at the end."""
        packed = self._nodes[number].ljust(BLOCK, b"\0")
        if seed is None:
            return packed
        return packed[:-4] + struct.pack("<I", crc32c(seed, packed[:-4]))


def extent_root(piece: Piece) -> bytes:
    """The root that `ExtentMap` makes of a single piece, which is all that most files have."""
    logical, place, count = piece
    return _ROOT_OF_ONE.pack(_MAGIC, 1, _IN_INODE, 0, 0, logical, count, place >> 32, place & 0xFFFFFFFF)


def _node(entries: Iterable[tuple[int, bytes]], most: int, depth: int) -> bytes:
    packed = [entry for _, entry in entries]
    return _HEADER.pack(_MAGIC, len(packed), most, depth, 0) + b"".join(packed)


@dataclass(frozen=True, slots=True)
class _Indirect:
    """A map block that covers the file's blocks from `start` on, `span` of them for each of its pointers."""

    start: int
    span: int

    @property
    def end(self) -> int:
        return self.start + self.span * _POINTERS

    def child(self, slot: int) -> _Indirect:
        return _Indirect(self.start + slot * self.span, self.span // _POINTERS)


_TREES = (
    _Indirect(DIRECT, 1),
    _Indirect(DIRECT + _POINTERS, _POINTERS),
    _Indirect(DIRECT + _POINTERS + _POINTERS**2, _POINTERS**2),
)
MOST_INDIRECT = _TREES[-1].end
"""Blocks of the largest file without extents."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A map block that is needed, and where it is referred to: by the inode, or in a slot of another one."""

    covers: _Indirect
    parent: int
    slot: int


_INODE = -1


def _indirect_nodes(runs: Sequence[tuple[int, int]]) -> list[_Node]:
    """The map blocks of a file with data in `runs`, ascending (place in the file, blocks); each before those below."""
    ends = [start + count for start, count in runs]
    nodes: list[_Node] = []
    waiting = [
        _Node(tree, _INODE, slot)
        for slot, tree in reversed(list(enumerate(_TREES)))
        if next(_slots(tree, runs, ends), None) is not None
    ]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if node.covers.span > 1:
            slots = list(_slots(node.covers, runs, ends))
            waiting += [_Node(node.covers.child(slot), len(nodes) - 1, slot) for slot in reversed(slots)]
    return nodes


def _slots(covers: _Indirect, runs: Sequence[tuple[int, int]], ends: Sequence[int]) -> Iterator[int]:
    """The slots of a map block that have data behind them."""
    at = covers.start
    while at < covers.end:
        run = bisect_right(ends, at)
        if run == len(runs) or runs[run][0] >= covers.end:
            return
        slot = (max(runs[run][0], at) - covers.start) // covers.span
        yield slot
        at = covers.start + (slot + 1) * covers.span


def indirect_blocks(runs: Sequence[tuple[int, int]]) -> int:
    """Map blocks of a file without extents."""
    return len(_indirect_nodes(runs))


class IndirectMap:
    """The pointers of one inode without extents."""

    def __init__(self, pieces: Sequence[Piece], places: Sequence[int]) -> None:
        self._pieces = pieces
        self._starts = [piece[0] for piece in pieces]
        self._nodes = _indirect_nodes(_runs(pieces))
        self._below: dict[int, dict[int, int]] = {}
        """For each map block, and the inode, the map blocks that it refers to: by slot."""
        for node, place in zip(self._nodes, places, strict=True):
            self._below.setdefault(node.parent, {})[node.slot] = place
        trees = self._below.get(_INODE, {})
        self.root = self._pointers(0, DIRECT) + struct.pack("<3I", *(trees.get(slot, 0) for slot in range(3)))

    def block(self, number: int, seed: int | None) -> bytes:
        """Map block `number`. These have no checksum, whatever the `seed`."""
        del seed
        covers = self._nodes[number].covers
        if covers.span == 1:
            return self._pointers(covers.start, _POINTERS)
        pointers = [0] * _POINTERS
        for slot, place in self._below[number].items():
            pointers[slot] = place
        return struct.pack(f"<{_POINTERS}I", *pointers)

    def _pointers(self, start: int, count: int) -> bytes:
        pointers = [0] * count
        piece = max(0, bisect_right(self._starts, start) - 1)
        while piece < len(self._pieces):
            logical, place, length = self._pieces[piece]
            if logical >= start + count:
                break
            first, end = max(logical, start), min(logical + length, start + count)
            if first < end:
                pointers[first - start : end - start] = range(place + first - logical, place + end - logical)
            piece += 1
        return struct.pack(f"<{count}I", *pointers)


def _runs(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    return [(logical, count) for logical, _, count in pieces]
