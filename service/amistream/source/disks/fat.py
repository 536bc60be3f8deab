"""Recognises FAT and exFAT: their boot sectors, and the label in their root directory."""

from __future__ import annotations

import struct

from amistream.source.disks.facts import FileSystem
from amistream.source.disks.ids import label_text
from amistream.source.disks.reading import Reader
from amistream.values import KIB

_BOOT_SECTOR = 512
_FAT = struct.Struct("<11xHBHBHHBH8xII")
"""Bytes a sector, sectors a cluster, reserved ones, tables, root entries, sectors, medium, sectors of a
table; then those of larger ones: sectors, sectors of a table."""
_NAMES = (b"FAT12   ", b"FAT16   ", b"FAT     ", b"MSDOS")
_MEDIA = (0xF0, *range(0xF8, 0x100))
_NO_LABEL = "NO NAME"
_ENTRY, _MOST_ROOT = 32, 16 * KIB
"""Bytes of a directory's entry, and of a root directory that are read for the label, which stands first."""
_LABEL, _LONG_NAME, _DELETED = 0x08, 0x0F, 0xE5
_EXFAT = struct.Struct("<72xQ8xI4xII4xBB")
"""Sectors, first sector of clusters, root's cluster, serial number (at 100), shifts of sector and cluster."""
_EXFAT_SECTORS, _EXFAT_CLUSTER = range(9, 13), 25
"""Shifts: sectors of 512 to 4096 bytes, clusters of 32 MiB at most."""
_EXFAT_LABEL, _EXFAT_LONGEST = 0x83, 11


def identify_vfat(read: Reader, size: int) -> FileSystem | None:
    if size < _BOOT_SECTOR:
        return None
    block = read(0, _BOOT_SECTOR)
    sector, cluster, reserved, tables, entries, few, medium, table, many, large_table = _FAT.unpack_from(block)
    wide = block.startswith(b"FAT32   ", 82)
    if not wide and not block.startswith(_NAMES, 54):
        return None
    sane = _power_of_two(sector, 512, 4096) and _power_of_two(cluster, 1, 128) and reserved and tables
    if not sane or medium not in _MEDIA:
        return None
    place = 67 if wide else 39
    serial = int.from_bytes(block[place : place + 4], "little")
    root = reserved + tables * (table or large_table)
    length = entries * _ENTRY
    if wide:
        root += (int.from_bytes(block[44:48], "little") - 2) * cluster
        length = sector * cluster
    label = _root_label(read, size, root * sector, length)
    if label is None:
        label = label_text(block[place + 4 : place + 15], "latin-1")
    return FileSystem(
        kind="vfat",
        size=(few or many) * sector,
        uuid=_serial_text(serial),
        label="" if label == _NO_LABEL else label,
    )


def _root_label(read: Reader, size: int, start: int, length: int) -> str | None:
    """The label in the root directory; None without one."""
    length = min(length, _MOST_ROOT, size - start)
    if start < 0 or length < _ENTRY:
        return None
    directory = read(start, length)
    for place in range(0, length - _ENTRY + 1, _ENTRY):
        first, attributes = directory[place], directory[place + 11]
        if first == 0:
            return None
        if first != _DELETED and attributes & _LONG_NAME != _LONG_NAME and attributes & _LABEL:
            return label_text(directory[place : place + 11], "latin-1")
    return None


def identify_exfat(read: Reader, size: int) -> FileSystem | None:
    if size < _BOOT_SECTOR:
        return None
    block = read(0, _BOOT_SECTOR)
    if not block.startswith(b"EXFAT   ", 3):
        return None
    sectors, heap, root, serial, shift, cluster_shift = _EXFAT.unpack_from(block)
    if shift not in _EXFAT_SECTORS or shift + cluster_shift > _EXFAT_CLUSTER:
        return None
    length = 1 << shift + cluster_shift
    start = (heap << shift) + (root - 2) * length
    return FileSystem(
        kind="exfat",
        size=sectors << shift,
        uuid=_serial_text(serial),
        label=_exfat_label(read, size, start, length),
    )


def _exfat_label(read: Reader, size: int, start: int, length: int) -> str:
    length = min(length, _MOST_ROOT, size - start)
    if start < 0 or length < _ENTRY:
        return ""
    directory = read(start, length)
    for place in range(0, length - _ENTRY + 1, _ENTRY):
        kind, count = directory[place], directory[place + 1]
        if kind == 0:
            return ""
        if kind == _EXFAT_LABEL and count <= _EXFAT_LONGEST:
            return label_text(directory[place + 2 : place + 2 + 2 * count], "utf-16-le")
    return ""


def _serial_text(serial: int) -> str:
    return f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"


def _power_of_two(value: int, least: int, most: int) -> bool:
    return least <= value <= most and value & value - 1 == 0
