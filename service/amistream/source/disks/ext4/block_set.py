"""Sets of blocks of one file system, as integers of bits: bit 0 is the first block.

Tests and changes of a whole run are then single operations, and a set takes an eighth of a byte for each block. An
operation copies the integer, and a group with clusters may have millions of blocks: so each integer has some thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError

_PIECE: Final = 32768
"""Blocks of one integer: a whole group of most file systems. A multiple of 8, as the size of a group is."""
_ONES: Final = re.compile("1+")


class BlockSet:
    """A set of blocks. Runs that are given must lie within the file system."""

    def __init__(self, fs: Superblock) -> None:
        self._first = fs.first_block
        self._per_group = fs.blocks_per_group
        # A group may be longer than the file system.
        pieces = -(-min(fs.blocks_per_group, fs.blocks) // _PIECE)
        self._pieces = [[0] * pieces for _ in range(fs.groups)]

    def add(self, start: int, count: int) -> None:
        for pieces, index, bits in self._parts(start, count):
            pieces[index] |= bits

    def claim(self, start: int, count: int) -> None:
        """Add blocks that must not be in the set yet. Raises `DoubtError`."""
        for pieces, index, bits in self._parts(start, count):
            if pieces[index] & bits:
                raise DoubtError(f"its blocks from {start} on belong to two owners")
            pieces[index] |= bits

    def of_group(self, number: int) -> int:
        """The blocks of one group; bit 0 is its first block."""
        pieces = self._pieces[number]
        return pieces[0] if len(pieces) == 1 else int.from_bytes(b"".join(map(_bytes, pieces)), "little")

    def by_group(self) -> list[int]:
        return [self.of_group(number) for number in range(len(self._pieces))]

    def _parts(self, start: int, count: int) -> Iterator[tuple[list[int], int, int]]:
        """Yield the pieces of a group, the number of the one that a part of the run lies in, and the part's bits."""
        group, at = divmod(start - self._first, self._per_group)
        while count:
            index, within = divmod(at, _PIECE)
            part = min(count, self._per_group - at, _PIECE - within)
            yield self._pieces[group], index, ((1 << part) - 1) << within
            at, count = at + part, count - part
            if at == self._per_group:
                group, at = group + 1, 0


def _bytes(piece: int) -> bytes:
    return piece.to_bytes(_PIECE // 8, "little")


def runs_of_bits(bits: int, *, joined_gap: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the runs of set bits as (first, behind); runs with at most `joined_gap` clear bits between them as one."""
    # Python makes the text in one pass; its regular expressions are the fastest search for runs in it.
    text = f"{bits:b}"[::-1]
    pattern = re.compile(f"1+(?:0{{1,{joined_gap}}}1+)*") if joined_gap else _ONES
    for found in pattern.finditer(text):
        yield found.span()
