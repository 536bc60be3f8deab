"""The superblock: size, shape, state and features of a file system.

`read_superblock` refuses one whose checksum or numbers are wrong, so every product of them is bounded by the size. It
takes any state and any feature, since a mounted file system has a name too. `check_settled` refuses those whose free
blocks cannot be known.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from amistream.source.disks.ext4.checksums import START, checksum
from amistream.source.disks.ext4.features import feature_names, kind_of, not_understood
from amistream.source.disks.ext4.mark import LENGTH, OFFSET, is_superblock
from amistream.source.disks.reading import DoubtError, NotUnderstoodError, Reader

_LARGEST_BLOCK_LOG: Final = 6
"""64 KiB."""
_LARGEST_USED_BLOCK: Final = 4096
_LARGEST_CLUSTER_LOG: Final = 20
"""1 GiB is 2^20 blocks of 1 KiB: the largest cluster that mke2fs makes is far smaller."""
_SMALLEST_GROUP: Final = 256
"""As in mke2fs. The number of groups, and with it the work, is bounded by it."""
_WIDE_DESCRIPTOR: Final = 64
_STATE_CLEAN: Final = 1
_STATE_ERRORS: Final = 2
_OLD_INODE_SIZE: Final = 128
_OLD_FIRST_INODE: Final = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """Numbers of a superblock; blocks and clusters are counted from the start of the file system."""

    features: frozenset[str]
    label: str
    uuid: str
    state: int
    block_size: int
    cluster_ratio: int
    """Blocks of a cluster, the unit of the block bitmaps; 1 without bigalloc."""
    blocks: int
    first_block: int
    """The first block of group 0: 1 where a block has 1 KiB, since the superblock lies behind the boot sector."""
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    inode_size: int
    first_inode: int
    """The first inode that is not reserved."""
    descriptor_size: int
    free_blocks: int
    free_inodes: int
    reserved_descriptor_blocks: int
    first_meta_group: int
    backup_groups: tuple[int, int]
    """The groups with a copy of the superblock, for sparse_super2."""
    journal_inode: int
    mmp_block: int
    seed: int
    """All checksums of metadata_csum but the superblock's begin with it."""
    raw_uuid: bytes

    @property
    def kind(self) -> str:
        return kind_of(self.features)

    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    @property
    def has_checksums(self) -> bool:
        return "metadata_csum" in self.features

    @property
    def has_descriptor_checksums(self) -> bool:
        """Only then a group may be uninitialised, and the end of an inode table be marked as never used."""
        return self.has_checksums or "uninit_bg" in self.features

    def group_start(self, group: int) -> int:
        return self.first_block + group * self.blocks_per_group

    def group_blocks(self, group: int) -> int:
        """Number of blocks of a group: the last one may be shorter."""
        return min(self.blocks_per_group, self.blocks - self.group_start(group))


def read_superblock(read: Reader) -> Superblock:
    """Read the superblock and check its checksum and numbers. Raises `DoubtError`."""
    raw = read(OFFSET, LENGTH)
    if not is_superblock(raw):
        raise DoubtError("its superblock has no magic number")
    features = feature_names(*struct.unpack_from("<3I", raw, 0x5C))
    # In the first revision these fields did not exist, nor did any feature.
    revised = _u32(raw, 0x4C) != 0
    if not revised and features:
        raise DoubtError("its superblock is of the revision without features, and has some")
    _check_checksum(raw, features)
    wide = "64bit" in features
    block_log = _u32(raw, 0x18)
    cluster_log = _u32(raw, 0x1C) if "bigalloc" in features else block_log
    if not block_log <= cluster_log <= _LARGEST_CLUSTER_LOG or block_log > _LARGEST_BLOCK_LOG:
        raise DoubtError("its superblock has an impossible size of blocks or clusters")
    seeded = "metadata_csum_seed" in features
    found = Superblock(
        features=features,
        label=raw[0x78:0x88].split(b"\0")[0].decode(errors="replace"),
        uuid=str(UUID(bytes=raw[0x68:0x78])),
        state=_u16(raw, 0x3A),
        block_size=1024 << block_log,
        cluster_ratio=1 << cluster_log - block_log,
        blocks=_u32(raw, 0x04) | (_u32(raw, 0x150) << 32 if wide else 0),
        first_block=_u32(raw, 0x14),
        blocks_per_group=_u32(raw, 0x20),
        inodes=_u32(raw, 0x00),
        inodes_per_group=_u32(raw, 0x28),
        inode_size=_u16(raw, 0x58) if revised else _OLD_INODE_SIZE,
        first_inode=_u32(raw, 0x54) if revised else _OLD_FIRST_INODE,
        descriptor_size=_u16(raw, 0xFE) if wide else 32,
        free_blocks=_u32(raw, 0x0C) | (_u32(raw, 0x158) << 32 if wide else 0),
        free_inodes=_u32(raw, 0x10),
        reserved_descriptor_blocks=_u16(raw, 0xCE) if "resize_inode" in features else 0,
        first_meta_group=_u32(raw, 0x104) if "meta_bg" in features else 0,
        backup_groups=(_u32(raw, 0x24C), _u32(raw, 0x250)),
        journal_inode=_u32(raw, 0xE0) if "has_journal" in features else 0,
        mmp_block=_u64(raw, 0x168) if "mmp" in features else 0,
        seed=_u32(raw, 0x270) if seeded else checksum(raw[0x68:0x78], START),
        raw_uuid=raw[0x68:0x78],
    )
    _check_shape(found, clusters_per_group=_u32(raw, 0x24))
    return found


def check_settled(fs: Superblock) -> None:
    """Refuse a file system that is mounted, crashed, erroneous, or of a kind that is not understood here."""
    if names := not_understood(fs.features):
        raise NotUnderstoodError(f"it has features that are not understood ({', '.join(names)})")
    if "needs_recovery" in fs.features:
        raise DoubtError("it is mounted or was not unmounted (its journal has to be replayed)")
    if fs.state & _STATE_ERRORS:
        raise DoubtError("the kernel found errors in it (run e2fsck)")
    if fs.state != _STATE_CLEAN:
        raise DoubtError("it is mounted or was not unmounted (it is not marked as clean)")
    if "has_journal" in fs.features and not fs.journal_inode:
        raise NotUnderstoodError("its journal lies on another device")
    if fs.block_size > _LARGEST_USED_BLOCK:
        raise NotUnderstoodError(f"its blocks of {fs.block_size} bytes are larger than a page of memory")


def _check_checksum(raw: bytes, features: frozenset[str]) -> None:
    if "metadata_csum" not in features:
        if "metadata_csum_seed" in features:
            raise DoubtError("its superblock has a seed for checksums, and no checksums")
        return
    if "uninit_bg" in features:
        raise DoubtError("its superblock asks for two kinds of checksums")
    if raw[0x175] != 1 or checksum(raw[:0x3FC], START) != _u32(raw, 0x3FC):
        raise DoubtError("its superblock has a wrong checksum")


def _check_shape(fs: Superblock, *, clusters_per_group: int) -> None:
    """Check that the numbers agree, each before it divides another."""
    first_block = 1 if fs.block_size == OFFSET and fs.cluster_ratio == 1 else 0
    if fs.first_block != first_block or fs.blocks <= first_block:
        raise DoubtError("its superblock has an impossible number of blocks")
    if fs.cluster_ratio > 1 and clusters_per_group * fs.cluster_ratio != fs.blocks_per_group:
        raise DoubtError("its superblock has groups that are no whole number of clusters")
    most = fs.block_size * 8
    # A checksum of a bitmap covers whole bytes.
    if not _SMALLEST_GROUP <= fs.blocks_per_group <= most * fs.cluster_ratio or fs.blocks_per_group % (
        8 * fs.cluster_ratio
    ):
        raise DoubtError("its superblock has an impossible size of groups")
    if not 0 < fs.inodes_per_group <= most or fs.inodes_per_group % 8:
        raise DoubtError("its superblock has an impossible number of inodes in a group")
    if fs.inodes_per_group * fs.groups != fs.inodes:
        raise DoubtError("its superblock has a number of inodes that does not fit its groups")
    if fs.free_blocks > fs.blocks or fs.free_inodes > fs.inodes:
        raise DoubtError("its superblock has more free blocks or inodes than it has in all")
    if fs.journal_inode > fs.inodes or fs.mmp_block >= fs.blocks:
        raise DoubtError("its superblock refers to places beyond its end")
    _check_inodes(fs)
    _check_descriptors(fs)


def _check_inodes(fs: Superblock) -> None:
    if fs.inode_size.bit_count() != 1 or not _OLD_INODE_SIZE <= fs.inode_size <= fs.block_size:
        raise DoubtError("its superblock has an impossible size of inodes")
    if not _OLD_FIRST_INODE <= fs.first_inode <= fs.inodes:
        raise DoubtError("its superblock has an impossible first inode")


def _check_descriptors(fs: Superblock) -> None:
    size = fs.descriptor_size
    if "64bit" in fs.features and (size.bit_count() != 1 or not _WIDE_DESCRIPTOR <= size <= fs.block_size):
        raise DoubtError("its superblock has an impossible size of group descriptors")
    if "meta_bg" in fs.features:
        if fs.reserved_descriptor_blocks:
            raise DoubtError("its superblock has two ways to grow that exclude each other")
        if fs.first_meta_group > -(-fs.groups * size // fs.block_size):
            raise DoubtError("its superblock has an impossible first meta group")
    if fs.reserved_descriptor_blocks > fs.block_size // 4:
        raise DoubtError("its superblock reserves too many blocks for descriptors")


def _u16(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 2], "little")


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _u64(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
