"""Inodes: each a file, a directory or another object, with its place in the inode table of a group."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from amistream.source.disks.ext4.checksums import checksum
from amistream.source.disks.ext4.groups import Group, read_group
from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError, Reader

ROOT: Final = 2
RESIZE: Final = 7

REGULAR: Final = 0x8000
SYMLINK: Final = 0xA000
_KIND: Final = 0xF000
_SPECIAL: Final = frozenset({0x1000, 0x2000, 0x6000, 0xC000})
"""Pipes, devices and sockets."""

_EXTENTS: Final = 0x80000
_INLINE: Final = 0x10000000
_MAP_LENGTH: Final = 60
_FIELDS: Final = struct.Struct("<2HI18xH4xI4x60s4x2I6xH")
"""Mode, owner, size, links, flags, map, attribute block, high halves of the size and of the attribute block."""
_OLD_SIZE: Final = 128
_CHECKSUM_LOW: Final = 124
_CHECKSUM_HIGH: Final = 130


@dataclass(slots=True, kw_only=True)
class Inode:
    """An inode whose checksum is right. It does not change."""

    number: int
    mode: int
    size: int
    links: int
    flags: int
    map: bytes
    """The root of the extent tree, the pointers to blocks, or the content itself (60 bytes)."""
    attribute_block: int
    """The block with extended attributes that do not fit into the inode; 0 for none."""
    raw: bytes

    @property
    def kind(self) -> int:
        return self.mode & _KIND

    @property
    def has_extents(self) -> bool:
        return bool(self.flags & _EXTENTS)

    @property
    def is_inline(self) -> bool:
        """The content is in the inode: in `map`, and what does not fit there in the attribute `system.data`."""
        return bool(self.flags & _INLINE)

    @property
    def has_blocks(self) -> bool:
        """Its map leads to blocks. A short symbolic link has its target there, and a device its number."""
        if self.is_inline or self.kind in _SPECIAL:
            return False
        return self.kind != SYMLINK or self.has_extents or self.size >= _MAP_LENGTH


def read_inode(read: Reader, fs: Superblock, number: int) -> Inode:
    """Read the inode of that number, in use or not. Raises `DoubtError`."""
    if not 1 <= number <= fs.inodes:
        raise DoubtError(f"its tables refer to inode {number}, and it has {fs.inodes}")
    group, index = divmod(number - 1, fs.inodes_per_group)
    return parse_inode(fs, number, read(inode_offset(fs, read_group(read, fs, group), index), fs.inode_size))


def inode_offset(fs: Superblock, group: Group, index: int) -> int:
    return group.inode_table * fs.block_size + index * fs.inode_size


def parse_inode(fs: Superblock, number: int, raw: bytes) -> Inode:
    """Check the inode's checksum and take its fields."""
    if fs.has_checksums:
        _check_checksum(fs, number, raw)
    mode, _, size, links, flags, block_map, attributes, size_high, attributes_high = _FIELDS.unpack_from(raw)
    # Of other kinds, that field once meant something else.
    has_high_size = mode & _KIND == REGULAR or "large_dir" in fs.features
    return Inode(
        number=number,
        mode=mode,
        size=size | (size_high << 32 if has_high_size else 0),
        links=links,
        flags=flags,
        map=block_map,
        attribute_block=attributes | (attributes_high << 32 if "64bit" in fs.features else 0),
        raw=raw,
    )


def seed_of(fs: Superblock, inode: Inode) -> int:
    """The checksums of the blocks that belong to an inode begin with its number and generation."""
    return checksum(inode.number.to_bytes(4, "little") + inode.raw[100:104], fs.seed)


def _check_checksum(fs: Superblock, number: int, raw: bytes) -> None:
    stored = int.from_bytes(raw[_CHECKSUM_LOW : _CHECKSUM_LOW + 2], "little")
    covered = [number.to_bytes(4, "little"), raw[100:104], raw[:_CHECKSUM_LOW], b"\0\0"]
    wide = len(raw) > _OLD_SIZE and int.from_bytes(raw[_OLD_SIZE : _OLD_SIZE + 2], "little") >= 4  # noqa: PLR2004
    if wide:
        stored |= int.from_bytes(raw[_CHECKSUM_HIGH : _CHECKSUM_HIGH + 2], "little") << 16
        covered += [raw[_CHECKSUM_LOW + 2 : _CHECKSUM_HIGH], b"\0\0", raw[_CHECKSUM_HIGH + 2 :]]
    else:
        covered.append(raw[_CHECKSUM_LOW + 2 :])
    expected = checksum(b"".join(covered), fs.seed)
    # mke2fs leaves reserved inodes that are not used all zeros.
    if stored != (expected if wide else expected & 0xFFFF) and any(raw):
        raise DoubtError(f"inode {number} has a wrong checksum")
