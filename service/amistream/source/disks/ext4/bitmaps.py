"""The bitmaps of a group: which of its blocks and inodes are used. Each is an integer; bit 0 is the first of the group.

Checked are the checksum, where there is one, and the descriptor's count of free ones.
"""

from __future__ import annotations

from amistream.source.disks.ext4.checksums import checksum
from amistream.source.disks.ext4.groups import Group
from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError, Reader


def block_bitmap(read: Reader, fs: Superblock, group: Group, fixed: int) -> int:
    """The used blocks of a group. `fixed` are the blocks that belong to the file system itself.

    The bitmap on disk is one of clusters: in a used cluster, all blocks count as used. Raises `DoubtError`.
    """
    blocks = fs.group_blocks(group.number)
    clusters = -(-blocks // fs.cluster_ratio)
    if group.has_block_bitmap:
        raw = read(group.block_bitmap * fs.block_size, fs.block_size)
        covered = fs.blocks_per_group // fs.cluster_ratio // 8
        if not _is_right(fs, raw[:covered], group.block_bitmap_checksum):
            raise DoubtError(f"the block bitmap of group {group.number} has a wrong checksum")
        bits = int.from_bytes(raw, "little")
        _check_padding(fs, group, bits >> clusters, len(raw) * 8 - clusters)
        bits &= (1 << clusters) - 1
    else:
        bits = _in_clusters(fixed, fs.cluster_ratio)
    if clusters - bits.bit_count() != group.free_clusters:
        raise DoubtError(
            f"the block bitmap of group {group.number} has another number of free blocks than its descriptor"
        )
    return _in_blocks(bits, fs.cluster_ratio) & (1 << blocks) - 1


def inode_bitmap(read: Reader, fs: Superblock, group: Group) -> int:
    """The used inodes of a group. Raises `DoubtError`."""
    bits = 0
    if group.has_inodes:
        raw = read(group.inode_bitmap * fs.block_size, fs.block_size)[: fs.inodes_per_group // 8]
        if not _is_right(fs, raw, group.inode_bitmap_checksum):
            raise DoubtError(f"the inode bitmap of group {group.number} has a wrong checksum")
        bits = int.from_bytes(raw, "little")
    if fs.inodes_per_group - bits.bit_count() != group.free_inodes:
        raise DoubtError(
            f"the inode bitmap of group {group.number} has another number of free inodes than its descriptor"
        )
    if bits.bit_length() > group.used_inodes:
        raise DoubtError(f"group {group.number} uses inodes that its descriptor calls unused")
    return bits


def _is_right(fs: Superblock, raw: bytes, stored: int) -> bool:
    if not fs.has_checksums:
        return True
    found = checksum(raw, fs.seed)
    # A descriptor of 32 bytes has room for the lower half only.
    return stored == (found if "64bit" in fs.features else found & 0xFFFF)


def _check_padding(fs: Superblock, group: Group, padding: int, length: int) -> None:
    """Bits behind the last block of the file system are set, so that nobody takes them for free blocks."""
    if group.number == fs.groups - 1 and padding != (1 << length) - 1:
        raise DoubtError("its last block bitmap has free blocks behind the end of the file system")


def _in_blocks(clusters: int, ratio: int) -> int:
    """Repeat every bit `ratio` times."""
    if ratio == 1:
        return clusters
    return int(f"{clusters:b}".replace("1", "1" * ratio).replace("0", "0" * ratio), 2)


def _in_clusters(blocks: int, ratio: int) -> int:
    """Join `ratio` bits each to one that is set if any of them was."""
    if ratio == 1:
        return blocks
    text = f"{blocks:b}"
    text = text.zfill(-(-len(text) // ratio) * ratio)
    return int("".join("1" if "1" in text[i : i + ratio] else "0" for i in range(0, len(text), ratio)), 2)
