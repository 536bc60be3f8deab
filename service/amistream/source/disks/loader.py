"""Finds the boot loader of a disk by its first sector: GRUB 2 or GRUB legacy with the place of its core, another, none.

GRUB's first sector holds the number of the sector at which its core begins. The core lies in the gap between table and
first partition, in a BIOS boot partition, or, with a block list, in a file within a partition. That of GRUB legacy is
its stage 1.5, which finds stage 2 by the name of its file, or stage 2 itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from amistream.source.disks.facts import Partition, PartitionTable
from amistream.source.disks.mbr import BOOT_CODE, MARK, SECTOR
from amistream.source.disks.partition_types import BIOS_BOOT, EFI_SYSTEM
from amistream.source.disks.reading import Reader

GRUB_WORD, GRUB_2_WORD_AT = b"GRUB", 0x180
CORE_AT = 0x5C
"""Place of the core's first sector, 8 bytes, in the first sector of GRUB 2."""
BLOCK = struct.Struct("<QHH")
LAST_BLOCK_AT, _FIRST_BLOCK_AT = 500, 256
"""The list of the core's further sectors grows downwards: first sector, sectors, segment. Code stands below it."""
_MOST_SECTORS = 4096
"""A core of 2 MiB; one with all modules that boot from a disk has 200 KiB."""
_ZEROS = bytes(4096)
"""A damaged core is found by a run of zeros: that of GRUB 2 is compressed, and GRUB legacy's has none either."""


@dataclass(frozen=True, slots=True)
class _Form:
    """The places of a GRUB's fields, in its first sector and in that of its core."""

    core_at: struct.Struct
    place: int
    word: bytes
    """The core's first sector prints it."""
    block: struct.Struct
    last_block_at: int


class LoaderKind(StrEnum):
    GRUB_2 = "GRUB 2"
    GRUB_LEGACY = "GRUB legacy"
    OTHER = "other"
    """Boot code that is not known here."""
    NONE = "none"
    """A BIOS boots nothing from the disk."""


class CorePlace(StrEnum):
    GAP = "gap"
    """Outside of all partitions."""
    BIOS_BOOT = "BIOS boot partition"
    BLOCK_LIST = "block list"
    """Within another partition or a bare file system: it moves when the file is written anew."""
    OUTSIDE = "outside"
    """Beyond the disk's end."""


_FORMS = {
    LoaderKind.GRUB_2: _Form(struct.Struct("<Q"), CORE_AT, b"loading", BLOCK, LAST_BLOCK_AT),
    LoaderKind.GRUB_LEGACY: _Form(struct.Struct("<I"), 0x44, b"Loading stage", struct.Struct("<IHH"), 504),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The core of GRUB, which its first sector loads."""

    offset: int
    place: CorePlace
    partition: int | None
    """The number of the partition in which it lies; None for the gap and a bare file system."""
    whole: bool
    """The core is there, as far as can be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootLoader:
    """The way in which a disk boots."""

    kind: LoaderKind
    """The boot code that a BIOS finds."""
    core: Core | None
    """Of both kinds of GRUB."""
    efi_partition: int | None
    """The number of the EFI system partition, from which UEFI boots."""


def find_loader(read: Reader, table: PartitionTable, size: int) -> BootLoader:
    """The boot loader of a disk of `size` bytes."""
    sector = read(0, SECTOR) if size >= SECTOR else b""
    kind = _kind(sector)
    efi = next((each.number for each in table.partitions if each.type_name == EFI_SYSTEM), None)
    core = _core(read, table, size, sector, _FORMS[kind]) if kind in _FORMS else None
    return BootLoader(kind=kind, core=core, efi_partition=efi)


def _kind(sector: bytes) -> LoaderKind:
    code = sector[:BOOT_CODE]
    if not sector.endswith(MARK) or not any(code):
        return LoaderKind.NONE
    if code.startswith(GRUB_WORD, GRUB_2_WORD_AT):
        return LoaderKind.GRUB_2
    return LoaderKind.GRUB_LEGACY if GRUB_WORD in code else LoaderKind.OTHER


def _core(read: Reader, table: PartitionTable, size: int, sector: bytes, form: _Form) -> Core:
    offset = SECTOR * form.core_at.unpack_from(sector, form.place)[0]
    partition = next((each for each in table.partitions if _holds(each, offset)), None)
    if not 0 < offset <= size - SECTOR:
        place = CorePlace.OUTSIDE
    elif partition is None:
        place = CorePlace.GAP if table.partitions else CorePlace.BLOCK_LIST
    else:
        place = CorePlace.BIOS_BOOT if partition.type_name == BIOS_BOOT else CorePlace.BLOCK_LIST
    return Core(
        offset=offset,
        place=place,
        partition=partition.number if partition else None,
        whole=place is not CorePlace.OUTSIDE and _is_whole(read, size, offset, form),
    )


def _holds(partition: Partition, offset: int) -> bool:
    return not partition.extended and partition.offset <= offset < partition.end


def _is_whole(read: Reader, size: int, offset: int, form: _Form) -> bool:
    """The core begins as one, and all sectors of its list are there; a damaged one has zeros in them."""
    first = read(offset, SECTOR)
    if form.word not in first:
        return False
    sectors = 0
    start: int
    count: int
    for place in range(form.last_block_at, _FIRST_BLOCK_AT, -form.block.size):
        start, count, _ = form.block.unpack_from(first, place)
        sectors += count
        if not count:
            return sectors > 0
        if sectors > _MOST_SECTORS or SECTOR * (start + count) > size:
            return False
        if _ZEROS in read(SECTOR * start, SECTOR * count):
            return False
    return False
