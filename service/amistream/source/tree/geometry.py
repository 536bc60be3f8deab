"""The fixed parts of a file system: its groups, the copies of its superblock, its bitmaps and inode tables. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from amistream.source.tree.profiles import (
    BLOCK,
    DESCRIPTOR,
    FLEX,
    GROUP,
    INODES_RESERVED,
    MOST_RESERVED_BLOCKS,
    Profile,
)

Run = tuple[int, int]
"""First block, blocks."""

BYTES_PER_INODE = 16384
"""One inode for so many bytes of the file system, as mke2fs makes them, if the tree does not need more."""
SPARE_INODES = 1024
MOST_INODES_PER_GROUP = GROUP
_GROWTH = 1024
"""The file system may later grow so many times: there is room for its descriptors."""
_SMALLEST_LAST_GROUP = 50
"""Blocks beyond its own tables that make a last group worth having."""
SMALLEST = 4096
"""Blocks of the smallest file system that is made here: it has to have a journal."""


class NoRoomError(Exception):
    """The tree needs more than the file system has: `needed` bytes, or inodes."""

    def __init__(self, needed: int, *, inodes: bool = False) -> None:
        super().__init__(needed)
        self.needed = needed
        self.inodes = inodes


class FileTooLargeError(Exception):
    """A file is larger than this kind of file system can have it, holes included: `row`, and `most` bytes."""

    def __init__(self, row: int, most: int) -> None:
        super().__init__(row, most)
        self.row = row
        self.most = most


class TooManyLinksError(Exception):
    """A directory has more subdirectories than this kind of file system can count: `row`."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


@dataclass(frozen=True)
class Geometry:
    """The shape of a file system of `blocks` blocks. The image may be larger: a last group may be too small."""

    profile: Profile
    blocks: int
    inodes_per_group: int

    @property
    def groups(self) -> int:
        return -(-self.blocks // GROUP)

    @property
    def inodes(self) -> int:
        return self.groups * self.inodes_per_group

    @property
    def descriptor_blocks(self) -> int:
        return -(-self.groups * DESCRIPTOR // BLOCK)

    @cached_property
    def reserved_descriptors(self) -> int:
        return _reserved_descriptors(self.blocks)

    @property
    def table_blocks(self) -> int:
        return self.inodes_per_group // self.profile.inodes_per_block

    @property
    def super_blocks(self) -> int:
        """Blocks of a superblock's copy: itself, the descriptors, and the place for more of them."""
        return 1 + self.descriptor_blocks + self.reserved_descriptors

    @cached_property
    def super_groups(self) -> tuple[int, ...]:
        return tuple(group for group in range(self.groups) if has_super(group))

    def group_size(self, group: int) -> int:
        return min(GROUP, self.blocks - group * GROUP)

    @cached_property
    def places(self) -> tuple[list[int], list[int], list[int]]:
        """The first blocks of each group's block bitmap, inode bitmap and inode table."""
        together = FLEX if self.profile.ext4 else 1
        places: tuple[list[int], list[int], list[int]] = ([], [], [])
        for first in range(0, self.groups, together):
            groups = range(first, min(first + together, self.groups))
            gaps = [self._gap(group) for group in groups]
            for found, blocks in zip(places, (1, 1, self.table_blocks), strict=True):
                found += [_take(gaps, blocks) for _ in groups]
        return places

    @cached_property
    def free(self) -> list[Run]:
        """The runs that are left for everything else, ascending."""
        taken = [(group * GROUP, self.super_blocks) for group in self.super_groups]
        block_bitmaps, inode_bitmaps, tables = self.places
        taken += [(place, 1) for place in (*block_bitmaps, *inode_bitmaps)]
        taken += [(place, self.table_blocks) for place in tables]
        free = []
        at = 0
        for start, count in sorted(taken):
            if start > at:
                free.append((at, start - at))
            at = start + count
        if self.blocks > at:
            free.append((at, self.blocks - at))
        return free

    def _gap(self, group: int) -> list[int]:
        """Start and end of a group's blocks behind the copy of the superblock."""
        start = group * GROUP
        return [start + (self.super_blocks if has_super(group) else 0), start + self.group_size(group)]


def _take(gaps: list[list[int]], blocks: int) -> int:
    gap = next(gap for gap in gaps if gap[1] - gap[0] >= blocks)
    gap[0] += blocks
    return gap[0] - blocks


def has_super(group: int) -> bool:
    """True for the groups with a copy of the superblock: 0, 1, and the powers of 3, 5 and 7."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _reserved_descriptors(blocks: int) -> int:
    per_block = BLOCK // DESCRIPTOR
    now = -(-blocks // GROUP)
    descriptors = -(-now // per_block)
    later = -(-min(blocks * _GROWTH, 2**32 - 1) // GROUP)
    return max(0, min(-(-later // per_block) - descriptors, MOST_RESERVED_BLOCKS - descriptors))


def make_geometry(profile: Profile, blocks: int, inodes: int) -> Geometry:
    """The geometry for `inodes` used inodes, the reserved ones among them. Raises `NoRoomError`."""
    if blocks < SMALLEST:
        raise NoRoomError(SMALLEST * BLOCK)
    while True:
        groups = -(-blocks // GROUP)
        wanted = max(blocks * BLOCK // BYTES_PER_INODE, inodes + SPARE_INODES, INODES_RESERVED + 1)
        step = max(8, profile.inodes_per_block)
        per_group = -(-wanted // groups)
        per_group = -(-per_group // step) * step
        if per_group > MOST_INODES_PER_GROUP:
            per_group = MOST_INODES_PER_GROUP
            if per_group * groups < inodes:
                raise NoRoomError(inodes, inodes=True)
        geometry = Geometry(profile, blocks, per_group)
        last = groups - 1
        overhead = 2 + geometry.table_blocks + (geometry.super_blocks if has_super(last) else 0)
        if geometry.group_size(last) >= overhead + _SMALLEST_LAST_GROUP:
            return geometry
        if last == 0:
            raise NoRoomError((overhead + _SMALLEST_LAST_GROUP) * BLOCK)
        blocks = last * GROUP
