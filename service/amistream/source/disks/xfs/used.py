"""The used blocks of xfs: all that its allocation groups do not list as free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amistream.source.disks.facts import MOST_EXTENTS, TOO_MANY, UsedBlocks
from amistream.source.disks.reading import DoubtError, window
from amistream.source.disks.xfs.allocation import read_free_blocks
from amistream.source.disks.xfs.log import check_clean
from amistream.source.disks.xfs.superblock import read_superblock
from amistream.values import Extent

if TYPE_CHECKING:
    from amistream.source.disks.reading import Reader


def used_blocks(read: Reader, size: int, *, frozen: bool) -> UsedBlocks:
    """Find the used blocks of the xfs within `size` bytes.

    `frozen`: the caller froze it, so that everything is in its place. Its log then reads like that of a file system
    that was not unmounted, and its counter of free blocks is not the last one.
    """
    superblock = read_superblock(read, size)
    read = window(read, 0, superblock.size)
    newest = None if frozen else check_clean(read, superblock)
    used: list[Extent] = []
    end = free = counted = 0
    for number in range(superblock.groups):
        start = number * superblock.group_blocks
        group_read = window(read, start * superblock.block_size, superblock.blocks_of(number) * superblock.block_size)
        group = read_free_blocks(group_read, superblock, number, newest)
        for first, behind in group:
            used.append(_extent(end, start + first, superblock.block_size))
            end = start + behind
        free += group.count
        counted += group.count + group.reserved
        if len(used) > MOST_EXTENTS:
            raise DoubtError(TOO_MANY)
    if end < superblock.blocks:
        used.append(_extent(end, superblock.blocks, superblock.block_size))
    if not frozen and superblock.has_summed_counter and counted != superblock.free_blocks:
        raise DoubtError(f"its groups count {counted} free blocks, and its superblock {superblock.free_blocks}")
    return UsedBlocks(
        extents=tuple(used), size=superblock.size, free=free * superblock.block_size, keeps_preallocated=True
    )


def _extent(first: int, behind: int, block_size: int) -> Extent:
    return Extent(offset=first * block_size, length=(behind - first) * block_size)
