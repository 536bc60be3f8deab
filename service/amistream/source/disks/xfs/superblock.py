"""The superblock of xfs: the geometry by which everything else is found, and the features.

Versions 4 and 5 are read. Version 5 has a checksum in each block of metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amistream.source.disks.reading import DoubtError, NotUnderstoodError
from amistream.source.disks.xfs.checksum import has_checksum
from amistream.source.disks.xfs.head import HEAD, MAGIC, Fields, parse_head

if TYPE_CHECKING:
    from amistream.source.disks.reading import Reader

_LARGEST_SECTOR, _LARGEST_BLOCK = 32 * 1024, 64 * 1024
_FEWEST_GROUP_BLOCKS = 64
"""The kernel refuses smaller groups."""
_FEATURES = struct.Struct(">III")
_FEATURES_AT, _CHECKSUM_AT, _METADATA_UUID_AT = 212, 224, 248

_KNOWN_READ_ONLY = 0x0F
"""Trees of free inodes, owners and shared blocks, and counts of inode trees: they take blocks, as files do."""
_KNOWN_INCOMPATIBLE = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""Kinds in directories, sparse inodes, a UUID of its own, big times and extent counts, exchanges, parents."""
_KNOWN_LOG = 0x1
"""Extended attributes as operations of the log; a clean log has none of them."""
_NEEDS_REPAIR, _OWN_METADATA_UUID = 0x10, 0x4
_VERSION_5 = 5
# Of version 4, in the word of version and flags, and in the second word of flags.
_SHARED = 0x200
_LAZY_COUNTERS = 0x2
_KNOWN_FLAGS = _LAZY_COUNTERS | 0x8 | 0x80 | 0x200
"""With attributes of version 2, 32-bit project numbers, and kinds in directories."""


_UNREADABLE_BY_GRUB = {0x40: "exchange", 0x80: "parent"}
"""Features with which GRUB, up to 2.12, finds no xfs. Names as `mkfs.xfs` has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that are used, checked against each other and against the size of the volume."""

    has_checksums: bool
    """Version 5: each block of metadata has a checksum, its own place, and the file system's UUID."""
    block_size: int
    sector_size: int
    blocks: int
    group_blocks: int
    groups: int
    uuid: bytes
    metadata_uuid: bytes
    """The UUID that blocks of metadata repeat: the first one, where `uuid` was changed later."""
    log_offset: int | None
    """Bytes; None where the log is on another device."""
    log_size: int
    free_blocks: int
    has_summed_counter: bool
    """`free_blocks` is the sum of what the groups count; it is right after an unmount only."""

    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    def blocks_of(self, group: int) -> int:
        """The length of an allocation group: the last one takes what is left."""
        return min(self.group_blocks, self.blocks - group * self.group_blocks)


def unreadable_by_grub(read: Reader) -> list[str]:
    """The features for which GRUB does not read a file system whose superblock has been checked."""
    head = read(0, HEAD)
    if parse_head(head).version_and_flags & 0xF != _VERSION_5:
        return []
    _, incompatible, _ = _FEATURES.unpack_from(head, _FEATURES_AT)
    return [name for bit, name in _UNREADABLE_BY_GRUB.items() if incompatible & bit]


def read_superblock(read: Reader, size: int) -> Superblock:
    """Read and check the superblock of a file system within `size` bytes."""
    head = read(0, HEAD)
    fields = parse_head(head)
    version = fields.version_and_flags & 0xF
    block, sector = fields.block_size, fields.sector_size
    _require(fields.magic == MAGIC, "its superblock does not begin as one of xfs")
    _require(version in {4, _VERSION_5}, f"it is xfs of version {version}, which is not known here")
    _require(_is_power(sector, HEAD, _LARGEST_SECTOR), f"its superblock gives sectors of {sector} bytes")
    _require(_is_power(block, sector, _LARGEST_BLOCK), f"its superblock gives blocks of {block} bytes")
    has_checksums = version == _VERSION_5
    if has_checksums:
        _require(has_checksum(read(0, sector), _CHECKSUM_AT), "its superblock has a wrong checksum")
        metadata_uuid = _check_features(head, fields.uuid)
    else:
        _require(not fields.version_and_flags & _SHARED, "it is marked as shared, which is not known here")
        _require_known("flags", fields.more_flags, _KNOWN_FLAGS)
        metadata_uuid = fields.uuid
    _require(not fields.in_progress, "mkfs.xfs or xfs_copy did not end on it")
    _require(not fields.realtime_blocks and not fields.realtime_extents, "it has a realtime device, which is not read")
    blocks, group_blocks, groups = fields.blocks, fields.group_blocks, fields.groups
    _require(
        group_blocks >= _FEWEST_GROUP_BLOCKS
        and (groups - 1) * group_blocks < blocks <= groups * group_blocks
        and fields.group_bits == (group_blocks - 1).bit_length(),
        f"{groups} allocation groups of {group_blocks} blocks do not make its {blocks} blocks",
    )
    _require(blocks * block <= size, f"it has {blocks * block} bytes, and only {size} are there")
    return Superblock(
        has_checksums=has_checksums,
        block_size=block,
        sector_size=sector,
        blocks=blocks,
        group_blocks=group_blocks,
        groups=groups,
        uuid=fields.uuid,
        metadata_uuid=metadata_uuid,
        log_offset=_log_offset(fields),
        log_size=fields.log_blocks * block,
        free_blocks=fields.free_blocks,
        has_summed_counter=has_checksums or bool(fields.more_flags & _LAZY_COUNTERS),
    )


def _check_features(head: bytes, uuid: bytes) -> bytes:
    """Check the features of version 5, and return the UUID of the blocks of metadata."""
    read_only, incompatible, log = _FEATURES.unpack_from(head, _FEATURES_AT)
    _require(not incompatible & _NEEDS_REPAIR, "it needs xfs_repair, its superblock says")
    _require_known("features", read_only, _KNOWN_READ_ONLY)
    _require_known("features", incompatible, _KNOWN_INCOMPATIBLE)
    _require_known("features of its log", log, _KNOWN_LOG)
    return head[_METADATA_UUID_AT:][:16] if incompatible & _OWN_METADATA_UUID else uuid


def _log_offset(fields: Fields) -> int | None:
    """The place of the log, which is within one allocation group; its address has the group in the upper bits."""
    if not fields.log_start:
        return None
    group, start = divmod(fields.log_start, 1 << fields.group_bits)
    first = group * fields.group_blocks + start
    last = first + fields.log_blocks
    _require(start + fields.log_blocks <= fields.group_blocks and last <= fields.blocks, "its log is not within it")
    return first * fields.block_size


def _is_power(number: int, least: int, most: int) -> bool:
    return least <= number <= most and number.bit_count() == 1


def _require_known(what: str, bits: int, known: int) -> None:
    if bits & ~known:
        raise NotUnderstoodError(f"it has {what} that are not known here ({bits & ~known:#x})")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DoubtError(otherwise)
