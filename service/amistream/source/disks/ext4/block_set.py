"""Sets of blocks of one file system, as one integer per group: bit 0 is the group's first block.

Tests and changes of a whole run are then single operations, and a set takes an eighth of a byte for each block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError

_ONES: Final = re.compile("1+")


class BlockSet:
    """A set of blocks. Runs that are given must lie within the file system."""

    def __init__(self, fs: Superblock) -> None:
        self.groups = [0] * fs.groups
        """One integer of bits for each group."""
        self._first = fs.first_block
        self._per_group = fs.blocks_per_group

    def add(self, start: int, count: int) -> None:
        for group, bits in self._parts(start, count):
            self.groups[group] |= bits

    def claim(self, start: int, count: int) -> None:
        """Add blocks that must not be in the set yet. Raises `DoubtError`."""
        for group, bits in self._parts(start, count):
            if self.groups[group] & bits:
                raise DoubtError(f"its blocks from {start} on belong to two owners")
            self.groups[group] |= bits

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        group, at = divmod(start - self._first, self._per_group)
        while count:
            part = min(count, self._per_group - at)
            yield group, ((1 << part) - 1) << at
            group, at, count = group + 1, 0, count - part


def runs_of_bits(bits: int, *, joined_gap: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the runs of set bits as (first, behind); runs with at most `joined_gap` clear bits between them as one."""
    # Python makes the text in one pass; its regular expressions are the fastest search for runs in it.
    text = f"{bits:b}"[::-1]
    pattern = re.compile(f"1+(?:0{{1,{joined_gap}}}1+)*") if joined_gap else _ONES
    for found in pattern.finditer(text):
        yield found.span()
