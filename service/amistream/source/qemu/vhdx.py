"""Checks a VHDX: a disk with a parent, and a file that ends before its table or blocks (MS-VHDX).

QEMU refuses a parent without saying so, and reads a table behind the file's end as zeros, so that blocks become holes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from amistream.errors import RefusedError
from amistream.source.file import FileVolume
from amistream.source.qemu.headers import cut_short, read_range
from amistream.values import KIB, MIB, quoted

_REGIONS = (192 * KIB, 256 * KIB)
"""The region table and its copy."""
_REGION = struct.Struct("<16sQII")
"""Identity, offset, length, and 1 for a region that a reader must know."""
_BLOCK_TABLE = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_ITEM = struct.Struct("<16sIIII")
"""Identity, offset in the region, length, and flags."""
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_HAS_PARENT = 1 << 1
_MOST_ITEMS = 2047
_STATE, _STORED = 7, 6
"""Bits of an entry that are its state, and that of a block with a place in the file."""
_LARGEST_TABLE = 32 * MIB


def check_vhdx(file: FileVolume) -> None:
    """Raise `RefusedError` for a disk with a parent, and for an image that is cut short.

    Regions that are not found are left to QEMU, which refuses the image.
    """
    regions = dict(_regions(file))
    offset, _ = regions.get(_METADATA, (0, 0))
    parameters = dict(_items(file, offset)).get(_FILE_PARAMETERS, 0)
    if not parameters:
        return
    block_size, flags = struct.unpack("<II", read_range(file, offset + parameters, 8))
    if flags & _HAS_PARENT:
        path = quoted(file.path)
        raise RefusedError(
            "source.elsewhere",
            f"cannot bundle {file.path}: it is a differencing VHDX, with only the changes to another disk, its parent",
            hint=f"make one image of both, on Windows: Convert-VHD -Path {path} -DestinationPath WHOLE.vhdx -VHDType "
            "Dynamic",
            field="source",
        )
    table, length = regions.get(_BLOCK_TABLE, (0, 0))
    end = table + length
    for (entry,) in struct.iter_unpack("<Q", read_range(file, table, min(length, _LARGEST_TABLE) // 8 * 8)):
        if entry & _STATE == _STORED:
            end = max(end, (entry >> 20) * MIB + block_size)
    if end > file.size:
        raise cut_short(file, end - file.size)


def _regions(file: FileVolume) -> Iterator[tuple[bytes, tuple[int, int]]]:
    for place in _REGIONS:
        head = read_range(file, place, 16)
        if head.startswith(b"regi"):
            (count,) = struct.unpack_from("<I", head, 8)
            for index in range(min(count, _MOST_ITEMS)):
                entry = read_range(file, place + 16 + index * _REGION.size, _REGION.size)
                identity, offset, length, _ = _REGION.unpack(entry)
                yield identity, (offset, length)
            return


def _items(file: FileVolume, place: int) -> Iterator[tuple[bytes, int]]:
    (count,) = struct.unpack("<H", read_range(file, place + 10, 2))
    for index in range(min(count, _MOST_ITEMS)):
        identity, offset, *_ = _ITEM.unpack(read_range(file, place + 32 * (index + 1), _ITEM.size))
        yield identity, offset
