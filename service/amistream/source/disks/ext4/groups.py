"""Group descriptors: where they lie, what they say, and which blocks of a group are taken from the beginning."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from amistream.source.disks.ext4.checksums import checksum, crc16
from amistream.source.disks.ext4.mark import OFFSET
from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError, Reader

_NO_INODES: Final = 1
_NO_BITMAP: Final = 2
_TABLE_ZEROED: Final = 4
_CHECKSUM_AT: Final = 0x1E
_WIDE: Final = 64
_LARGEST_READ: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The descriptor of one block group. Counts of blocks are in clusters."""

    number: int
    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_clusters: int
    free_inodes: int
    used_inodes: int
    """Inodes of the table up to the last that was ever used; all of them where the file system does not record it."""
    has_block_bitmap: bool
    """Otherwise nothing but its fixed blocks is used, and the bitmap on disk means nothing."""
    has_inodes: bool
    """Otherwise no inode is used, and the bitmap on disk means nothing."""
    block_bitmap_checksum: int
    inode_bitmap_checksum: int


def read_groups(read: Reader, fs: Superblock) -> list[Group]:
    """Read and check all descriptors. Raises `DoubtError`."""
    table = b"".join(read(start * fs.block_size, count * fs.block_size) for start, count in _table_runs(fs))
    size = fs.descriptor_size
    return [_group(fs, number, table[number * size : (number + 1) * size]) for number in range(fs.groups)]


def read_group(read: Reader, fs: Superblock, number: int) -> Group:
    """Read and check one descriptor. Raises `DoubtError`."""
    size, per_block = fs.descriptor_size, fs.block_size // fs.descriptor_size
    if not 0 <= number < fs.groups:
        raise DoubtError(f"its tables refer to group {number}, and it has {fs.groups}")
    block = _descriptor_block(fs, number // per_block)
    return _group(fs, number, read(block * fs.block_size + number % per_block * size, size))


def has_superblock(fs: Superblock, number: int) -> bool:
    """Tell whether the group begins with a copy of the superblock and the descriptors."""
    if number == 0:
        return True
    if "sparse_super2" in fs.features:
        return number in fs.backup_groups
    if "sparse_super" not in fs.features or number == 1:
        return True
    return any(_is_power(number, base) for base in (3, 5, 7))


def fixed_runs(fs: Superblock, group: Group) -> Iterator[tuple[int, int]]:
    """Blocks (start, count) that belong to the group since it was made: copies, bitmaps and inode table.

    With flex_bg its bitmaps and table may lie in another group.
    """
    start = fs.group_start(group.number)
    if copies := _copied_blocks(fs, group.number):
        yield start, copies
    yield group.block_bitmap, 1
    yield group.inode_bitmap, 1
    yield group.inode_table, inode_table_blocks(fs)


def inode_table_blocks(fs: Superblock) -> int:
    return -(-fs.inodes_per_group * fs.inode_size // fs.block_size)


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _descriptor_blocks(fs: Superblock) -> int:
    return -(-fs.groups // (fs.block_size // fs.descriptor_size))


def _superblock_block(fs: Superblock) -> int:
    """The block that holds the first superblock: with bigalloc, group 0 begins a block before it."""
    return OFFSET // fs.block_size


def _descriptor_block(fs: Superblock, index: int) -> int:
    """The place of the `index`-th block of descriptors: after the superblock, or in the groups that it describes."""
    if "meta_bg" not in fs.features or index < fs.first_meta_group:
        return _superblock_block(fs) + 1 + index
    number = index * (fs.block_size // fs.descriptor_size)
    start = _superblock_block(fs) if number == 0 else fs.group_start(number)
    return start + has_superblock(fs, number)


def _table_runs(fs: Superblock) -> Iterator[tuple[int, int]]:
    """Yield the runs of blocks that hold the descriptors, none longer than one read should be."""
    blocks = [_descriptor_block(fs, index) for index in range(_descriptor_blocks(fs))]
    start = blocks[0]
    for block, following in pairwise([*blocks, -1]):
        if following != block + 1 or (following - start) * fs.block_size >= _LARGEST_READ:
            yield start, block + 1 - start
            start = following


def _copied_blocks(fs: Superblock, number: int) -> int:
    """Count the blocks at the group's start for superblock, descriptors, and descriptors of a larger file system."""
    copy = has_superblock(fs, number)
    # With bigalloc and blocks of 1 KiB the boot sector's block comes first.
    count = _superblock_block(fs) - fs.first_block + 1 if number == 0 else int(copy)
    per_block = fs.block_size // fs.descriptor_size
    if "meta_bg" not in fs.features:
        return count + (_descriptor_blocks(fs) + fs.reserved_descriptor_blocks if copy else 0)
    if number // per_block < fs.first_meta_group:
        return count + (fs.first_meta_group if copy else 0)
    return count + (number % per_block in {0, 1, per_block - 1})


def _group(fs: Superblock, number: int, raw: bytes) -> Group:
    _check_checksum(fs, number, raw)
    high = raw[32:] if fs.descriptor_size >= _WIDE else bytes(32)
    low_fields = struct.unpack_from("<3I4H4x4H", raw)
    high_fields = struct.unpack_from("<3I4H4x2H", high)
    # The order on disk: block bitmap, inode bitmap, inode table, free blocks, free inodes, directories, flags (unused
    # inodes in the high half), exclusion bitmap, checksums of the block and the inode bitmap, unused inodes.
    block_bitmap, inode_bitmap, inode_table = (low_fields[i] | high_fields[i] << 32 for i in range(3))
    free_clusters, free_inodes = (low_fields[i] | high_fields[i] << 16 for i in (3, 4))
    flags, unused_inodes = low_fields[6], low_fields[9] | high_fields[6] << 16
    has_block_bitmap, has_inodes = not flags & _NO_BITMAP, not flags & _NO_INODES
    if flags & ~(_NO_INODES | _NO_BITMAP | _TABLE_ZEROED):
        raise DoubtError(f"the descriptor of group {number} has unknown flags")
    if not fs.has_descriptor_checksums:
        if not (has_block_bitmap and has_inodes):
            raise DoubtError(f"the descriptor of group {number} has flags that need checksums")
        unused_inodes = 0
    if unused_inodes > fs.inodes_per_group or (not has_inodes and unused_inodes != fs.inodes_per_group):
        raise DoubtError(f"the descriptor of group {number} has an impossible number of unused inodes")
    group = Group(
        number=number,
        block_bitmap=block_bitmap,
        inode_bitmap=inode_bitmap,
        inode_table=inode_table,
        free_clusters=free_clusters,
        free_inodes=free_inodes,
        used_inodes=fs.inodes_per_group - unused_inodes,
        has_block_bitmap=has_block_bitmap,
        has_inodes=has_inodes,
        block_bitmap_checksum=low_fields[7] | high_fields[7] << 16,
        inode_bitmap_checksum=low_fields[8] | high_fields[8] << 16,
    )
    _check_places(fs, group)
    return group


def _check_checksum(fs: Superblock, number: int, raw: bytes) -> None:
    if not fs.has_descriptor_checksums:
        return
    before, behind = raw[:_CHECKSUM_AT], raw[_CHECKSUM_AT + 2 :]
    counted = number.to_bytes(4, "little")
    if fs.has_checksums:
        expected = checksum(counted + before + b"\0\0" + behind, fs.seed) & 0xFFFF
    else:
        expected = crc16(fs.raw_uuid + counted + before + behind)
    if expected != int.from_bytes(raw[_CHECKSUM_AT : _CHECKSUM_AT + 2], "little"):
        raise DoubtError(f"the descriptor of group {number} has a wrong checksum")


def _check_places(fs: Superblock, group: Group) -> None:
    """Check that bitmaps and table lie in the file system, and in their own group where flex_bg lets them nowhere else.

    That nothing else claims these blocks is checked with the blocks of all other owners.
    """
    low, high = fs.first_block, fs.blocks
    if "flex_bg" not in fs.features:
        low = fs.group_start(group.number)
        high = low + fs.group_blocks(group.number)
    for start, count in ((group.block_bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, inode_table_blocks(fs))):
        if not low <= start <= start + count <= high:
            raise DoubtError(f"the descriptor of group {group.number} refers to blocks where none of its own can be")
