"""Extended attributes as ext2, ext3 and ext4 keep them: within the inode, and in a block that inodes share. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from amistream.source.tree.checksums import crc32c
from amistream.source.tree.profiles import BLOCK, Profile
from amistream.source.tree.records import ALL_ONES, EXTRA_SIZE, OLD_INODE
from amistream.values import Buffer

MOST_SHARING = 1024
"""Inodes that may refer to one block."""
_MAGIC = struct.pack("<I", 0xEA020000)
_ENTRY = struct.Struct("<BBHIII")
_HEADER = 32
_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_SECURITY = 6
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_ACL_OF_KERNEL, _ACL_ON_DISK = 2, 1
_ACL_HEADER = 4
_ACL_ENTRY = struct.Struct("<HHI")
_WITH_ID = {2, 8}
"""Tags of the entries for a named user and a named group."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute in the disk's form."""

    index: int
    """Number of the prefix that the name has lost."""
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        return _ENTRY.size + _padded(len(self.name)) + _padded(len(self.value))


def on_disk(name: bytes, value: bytes) -> Attribute | None:
    """An attribute as the kernel returned it, in the disk's form; None if there is none for it."""
    if index := _ACLS.get(name):
        acl = _acl_on_disk(value)
        return Attribute(index, b"", acl) if acl is not None else None
    for prefix, index in _PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return Attribute(index, name[len(prefix) :], value)
    return None


def of_kernel(attribute: Attribute) -> tuple[bytes, bytes]:
    """Name and value of an attribute as the kernel takes them."""
    for name, index in _ACLS.items():
        if index == attribute.index:
            return name, _acl_of_kernel(attribute.value)
    prefix = next(prefix for prefix, index in _PREFIXES if index == attribute.index)
    return prefix + attribute.name, attribute.value


def _acl_of_kernel(value: bytes) -> bytes:
    packed, at = [struct.pack("<I", _ACL_OF_KERNEL)], _ACL_HEADER
    while at < len(value):
        tag, permissions = struct.unpack_from("<HH", value, at)
        at += 4
        owner = ALL_ONES
        if tag in _WITH_ID:
            (owner,) = struct.unpack_from("<I", value, at)
            at += 4
        packed.append(_ACL_ENTRY.pack(tag, permissions, owner))
    return b"".join(packed)


def _acl_on_disk(value: bytes) -> bytes | None:
    entries = value[_ACL_HEADER:]
    if (
        len(value) < _ACL_HEADER
        or len(entries) % _ACL_ENTRY.size
        or struct.unpack_from("<I", value)[0] != _ACL_OF_KERNEL
    ):
        return None
    packed = [struct.pack("<I", _ACL_ON_DISK)]
    for tag, permissions, owner in _ACL_ENTRY.iter_unpack(entries):
        packed.append(struct.pack("<HH", tag, permissions))
        if tag in _WITH_ID:
            packed.append(struct.pack("<I", owner))
    return b"".join(packed)


class AttributeSet:
    """The attributes of one inode or of many: those kept within the inode, and the rest for a block."""

    def __init__(self, attributes: Sequence[Attribute], profile: Profile) -> None:
        """`attributes` fit (`fitting`)."""
        inner, outer = _divided(attributes, profile)
        self.inline = _pack_inline(inner, profile) if inner else b""
        self._outer = sorted(outer, key=lambda each: (each.index, len(each.name), each.name))

    @property
    def needs_block(self) -> bool:
        return bool(self._outer)

    def block(self, references: int, seed: int | None, number: int) -> bytes:
        """The block with the rest; with `seed` it has a checksum, which its `number` goes into."""
        packed = bytearray(self._block)
        struct.pack_into("<I", packed, 4, references)
        if seed is not None:
            struct.pack_into("<I", packed, 16, crc32c(crc32c(seed, struct.pack("<Q", number)), packed))
        return bytes(packed)

    @cached_property
    def _block(self) -> bytes:
        packed = bytearray(BLOCK)
        packed[:4] = _MAGIC
        hashes = [_entry_hash(each) for each in self._outer]
        whole = 0
        for each in hashes:
            whole = (whole << 16 | whole >> 16) & ALL_ONES ^ each
        struct.pack_into("<II", packed, 8, 1, 0 if 0 in hashes else whole)
        _place(packed, _HEADER, self._outer, hashes)
        return bytes(packed)


def fitting(attributes: Sequence[Attribute], profile: Profile) -> tuple[list[Attribute], list[Attribute]]:
    """The attributes that there is a place for, and those that there is none for."""
    if not profile.is_ext:
        return list(attributes), []
    kept: list[Attribute] = []
    dropped: list[Attribute] = []
    for each in sorted(attributes, key=lambda each: each.index != _SECURITY):
        try:
            _divided([*kept, each], profile)
        except OverflowError:
            dropped.append(each)
        else:
            kept.append(each)
    return kept, dropped


def _divided(attributes: Sequence[Attribute], profile: Profile) -> tuple[list[Attribute], list[Attribute]]:
    """Attributes for the inode, those of `security.` first, and for the block. Raises OverflowError."""
    inner: list[Attribute] = []
    outer: list[Attribute] = []
    free = _inline_room(profile)
    left = BLOCK - _HEADER - 4
    for each in sorted(attributes, key=lambda each: each.index != _SECURITY):
        if each.size <= free:
            inner.append(each)
            free -= each.size
        elif each.size <= left:
            outer.append(each)
            left -= each.size
        else:
            raise OverflowError
    return inner, outer


def _inline_room(profile: Profile) -> int:
    """Bytes for entries and values, without the mark in front and the four zero bytes that end the entries."""
    return max(0, profile.inode_size - OLD_INODE - EXTRA_SIZE - len(_MAGIC) - 4)


def _pack_inline(attributes: Sequence[Attribute], profile: Profile) -> bytes:
    size = _inline_room(profile) + 4
    packed = bytearray(size)
    _place(packed, 0, attributes, [0] * len(attributes))
    return _MAGIC + packed


def _place(packed: bytearray, start: int, attributes: Sequence[Attribute], hashes: Sequence[int]) -> None:
    """Enter entries from `start` on, and values from the end down; a value's offset counts from the first byte."""
    end = len(packed)
    for each, checksum in zip(attributes, hashes, strict=True):
        offset = 0
        if each.value:
            end -= _padded(len(each.value))
            packed[end : end + len(each.value)] = each.value
            offset = end
        _ENTRY.pack_into(packed, start, len(each.name), each.index, offset, 0, len(each.value), checksum)
        start += _ENTRY.size
        packed[start : start + len(each.name)] = each.name
        start += _padded(len(each.name))


def _entry_hash(attribute: Attribute) -> int:
    value = 0
    for byte in attribute.name:
        value = (value << 5 | value >> 27) & ALL_ONES ^ byte
    padded: Buffer = attribute.value.ljust(_padded(len(attribute.value)), b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        value = (value << 16 | value >> 16) & ALL_ONES ^ word
    return value


def _padded(length: int) -> int:
    return length + 3 & ~3
