"""The extended attributes that an inode holds itself, behind its fields."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from amistream.source.disks.ext4.inodes import Inode
from amistream.source.disks.reading import DoubtError

_OLD_SIZE: Final = 128
_MAGIC: Final = b"\x00\x00\x02\xea"
_ENTRY: Final = struct.Struct("<BBHII4x")
"""Length of the name, index of its prefix, offset of the value, inode of the value, its size."""
_SYSTEM: Final = 7
"""The index of `system.`, under which content that is in the inode stands."""


def has_attributes(inode: Inode) -> bool:
    """The inode has any extended attribute but its own content."""
    return bool(inode.attribute_block) or any(index != _SYSTEM for index, _, _ in _attributes(inode))


def find_attribute(inode: Inode, name: str) -> bytes:
    """The value of `system.NAME`; empty if there is none. Raises `DoubtError`."""
    wanted = (_SYSTEM, name.encode())
    return next((value for index, each, value in _attributes(inode) if (index, each) == wanted), b"")


def _attributes(inode: Inode) -> Iterator[tuple[int, bytes, bytes]]:
    """Each attribute: the index of its prefix, the rest of its name, its value. Offsets count from the first entry."""
    extra = int.from_bytes(inode.raw[_OLD_SIZE : _OLD_SIZE + 2], "little")
    start = _OLD_SIZE + extra
    if len(inode.raw) == _OLD_SIZE or inode.raw[start : start + 4] != _MAGIC:
        return
    area = inode.raw[start + 4 :]
    place = 0
    while area[place : place + 4].strip(b"\0"):
        if place + _ENTRY.size > len(area):
            raise DoubtError(f"the extended attributes of inode {inode.number} are damaged")
        length, index, offset, elsewhere, size = _ENTRY.unpack_from(area, place)
        name = area[place + _ENTRY.size : place + _ENTRY.size + length]
        if elsewhere:
            offset = size = 0
        if len(name) < length or offset + size > len(area):
            raise DoubtError(f"the extended attributes of inode {inode.number} are damaged")
        yield index, name, area[offset : offset + size]
        place += _ENTRY.size + length + -length % 4
