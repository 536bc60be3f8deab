"""Makes the bytes before and behind a bare file system on a disk that a BIOS boots: a table, and GRUB 2.

All ids come from the file system's UUID, so the same file system and the same GRUB give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from uuid import UUID, uuid5

from amistream.source.disks import gpt, mbr
from amistream.source.disks.facts import TableKind
from amistream.source.disks.loader import BLOCK, CORE_AT, LAST_BLOCK_AT
from amistream.source.disks.mbr import SECTOR
from amistream.source.disks.partition_types import PROTECTIVE
from amistream.values import MIB

_PARAMETERS_END = 0x5A
"""The boot sector's bytes from 3 up to here belong to a floppy disk's file system."""
_BOOT_DRIVE_AT, _DRIVE_CHECK_AT = 0x64, 0x66
"""The drive to boot from, 0xff for the one that the BIOS names, and the jump over the check of its number."""
_CORE_SEGMENT = 0x820
_LINUX, _BIOS_BOOT = 1, 14
"""Numbers of the partitions, as in the cloud images of Debian and Ubuntu."""
_LINUX_TYPE = 0x83
_LINUX_GUID = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_BIOS_BOOT_GUID = UUID("21686148-6449-6e6f-744e-656564454649")
_ENTRIES = 128
_MOST_SECTORS = 0xFFFFFFFF
MBR_LIMIT = _MOST_SECTORS * SECTOR
"""The largest partition of an MBR, in bytes: one sector less than 2 TiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrubImages:
    """The two files of GRUB that a BIOS loads."""

    boot: bytes
    core: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BootArea:
    head: bytes
    tail: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Sizes before and behind the file system, and the sectors that the core may take."""

    head: int
    tail: int
    core: int
    core_end: int


_LAYOUTS = {
    # Where all tools of today begin a disk.
    TableKind.MBR: _Layout(head=MIB, tail=0, core=1, core_end=MIB // SECTOR),
    # The second MiB is GRUB's partition; behind the file system is the table's copy.
    TableKind.GPT: _Layout(head=2 * MIB, tail=MIB, core=MIB // SECTOR, core_end=2 * MIB // SECTOR),
}


def core_limit(kind: TableKind) -> int:
    """The largest core that fits, in bytes."""
    layout = _LAYOUTS[kind]
    return (layout.core_end - layout.core) * SECTOR


def partition_uuid(kind: TableKind, file_system: UUID) -> str:
    """The PARTUUID that the file system gets."""
    if kind is TableKind.GPT:
        return str(_id(file_system, "partition"))
    return f"{_disk_id(file_system):08x}-{_LINUX:02x}"


def boot_area_size(kind: TableKind) -> int:
    """Bytes of both pieces of a boot area."""
    layout = _LAYOUTS.get(kind)
    return layout.head + layout.tail if layout else 0


def boot_area(kind: TableKind, size: int, file_system: UUID, grub: GrubImages) -> BootArea:
    """The bytes that make a disk of a file system of `size` bytes. The core must fit."""
    layout = _LAYOUTS[kind]
    head, tail = bytearray(layout.head), bytearray(-size % SECTOR + layout.tail)
    disk = (layout.head + size + len(tail)) // SECTOR
    if kind is TableKind.GPT:
        head[:SECTOR] = _boot_sector(grub.boot, layout.core, 0, (PROTECTIVE, 1, min(disk - 1, _MOST_SECTORS)))
        _write_gpt(head, tail, file_system, layout, disk)
    else:
        entry = (_LINUX_TYPE, layout.head // SECTOR, disk - layout.head // SECTOR)
        head[:SECTOR] = _boot_sector(grub.boot, layout.core, _disk_id(file_system), entry)
    _write_core(head, grub.core, layout.core)
    return BootArea(head=bytes(head), tail=bytes(tail))


def _boot_sector(boot: bytes, core: int, disk_id: int, entry: tuple[int, int, int]) -> bytes:
    """GRUB's first sector, with a table of one entry: type, first sector, sectors."""
    sector = bytearray(boot[: mbr.BOOT_CODE].ljust(SECTOR, b"\0"))
    sector[3:_PARAMETERS_END] = bytes(_PARAMETERS_END - 3)
    struct.pack_into("<Q", sector, CORE_AT, core)
    sector[_BOOT_DRIVE_AT] = 0xFF
    sector[_DRIVE_CHECK_AT : _DRIVE_CHECK_AT + 2] = b"\x90\x90"
    struct.pack_into("<I", sector, mbr.BOOT_CODE, disk_id)
    kind, first, sectors = entry
    mbr.ENTRY.pack_into(sector, mbr.TABLE, 0 if kind == PROTECTIVE else mbr.ACTIVE, kind, first, sectors)
    sector[-2:] = mbr.MARK
    return bytes(sector)


def _write_core(head: bytearray, core: bytes, first: int) -> None:
    """The core, and in its first sector where the others are."""
    place = first * SECTOR
    head[place : place + len(core)] = core
    BLOCK.pack_into(head, place + LAST_BLOCK_AT, first + 1, -(-len(core) // SECTOR) - 1, _CORE_SEGMENT)


def _write_gpt(head: bytearray, tail: bytearray, file_system: UUID, layout: _Layout, disk: int) -> None:
    """Both copies of the table of a disk of `disk` sectors."""
    entries = bytearray(_ENTRIES * gpt.ENTRY.size)
    for number, kind, name, first, end in (
        (_LINUX, _LINUX_GUID, "partition", layout.head // SECTOR, disk - layout.tail // SECTOR),
        (_BIOS_BOOT, _BIOS_BOOT_GUID, "grub", layout.core, layout.core_end),
    ):
        fields = (kind.bytes_le, _id(file_system, name).bytes_le, first, end - 1, 0, b"")
        gpt.ENTRY.pack_into(entries, (number - 1) * gpt.ENTRY.size, *fields)
    array, last = len(entries) // SECTOR, disk - 1
    checksum, disk_id = zlib.crc32(entries), _id(file_system, "disk").bytes_le

    def header(own: int, other: int, entries_at: int) -> bytes:
        fields = (gpt.MARK, gpt.REVISION, gpt.HEADER.size)
        usable = (2 + array, last - array - 1)
        rest = (own, other, *usable, disk_id, entries_at, _ENTRIES, gpt.ENTRY.size, checksum)
        return gpt.HEADER.pack(*fields, zlib.crc32(gpt.HEADER.pack(*fields, 0, *rest)), *rest).ljust(SECTOR, b"\0")

    head[SECTOR : (2 + array) * SECTOR] = header(1, last, 2) + entries
    tail[-(array + 1) * SECTOR :] = entries + header(last, 1, last - array)


def _id(file_system: UUID, name: str) -> UUID:
    return uuid5(file_system, f"amistream {name}")


def _disk_id(file_system: UUID) -> int:
    return int.from_bytes(_id(file_system, "disk").bytes[:4]) or 1
