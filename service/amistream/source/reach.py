"""Finds how far a disk reaches by its own tables: partitions of MBR and GPT, or a bare ext2/3/4 or xfs file system.

A disk that reaches beyond the end of its file was cut short, or is the first of several files.

Pure: bytes in, values out.
"""

from __future__ import annotations

import struct

from amistream.values import KIB

_SECTOR_SIZES = (512, 4 * KIB)
_BOOT_MARK = b"\x55\xaa"
_PARTITION = struct.Struct("<B3xB3xII")
"""Status, type, first sector and sectors."""
_STATUSES = (0, 0x80)
_WHOLE_DISK = 0xEE
"""The type of the entry that stands for a GPT; its size means nothing."""
_GPT = struct.Struct("<8s24xQ")
"""Mark, and the sector of the copy at the disk's end."""
_EXT = struct.Struct("<4xI16xI28xH38xI")
"""Blocks, size of a block (1 KiB shifted), mark, features."""
_EXT_PLACE, _EXT_MARK, _EXT_MOST_SHIFT = KIB, 0xEF53, 6
_EXT_64_BIT, _EXT_HIGH_BLOCKS = 0x80, 0x150
_XFS = struct.Struct(">4sIQ")
"""Mark, size of a block, blocks."""


def bytes_reached(head: bytes) -> int:
    """The bytes of a disk by the tables in its first bytes `head`; 0 if there are none."""
    return max(_partitions(head), _gpt(head), _ext(head), _xfs(head))


def _partitions(head: bytes) -> int:
    if head[510:512] != _BOOT_MARK:
        return 0
    entries = list(_PARTITION.iter_unpack(head[446:510]))
    if any(status not in _STATUSES for status, *_ in entries):
        return 0  # a file system's boot sector has code there
    ends = (first + count for _, kind, first, count in entries if kind not in (0, _WHOLE_DISK) and first)
    return 512 * max(ends, default=0)


def _gpt(head: bytes) -> int:
    for sector in _SECTOR_SIZES:
        if head.startswith(b"EFI PART", sector):
            _, copy = _GPT.unpack_from(head, sector)
            return int(copy + 1) * sector
    return 0


def _ext(head: bytes) -> int:
    if len(head) < _EXT_PLACE + KIB:
        return 0
    blocks, shift, mark, features = _EXT.unpack_from(head, _EXT_PLACE)
    if mark != _EXT_MARK or shift > _EXT_MOST_SHIFT:
        return 0
    if features & _EXT_64_BIT:
        blocks += int.from_bytes(head[_EXT_PLACE + _EXT_HIGH_BLOCKS :][:4], "little") << 32
    return int(blocks << 10 + shift)


def _xfs(head: bytes) -> int:
    if len(head) < _XFS.size:
        return 0
    mark, block, blocks = _XFS.unpack_from(head)
    return int(block * blocks) if mark == b"XFSB" else 0
