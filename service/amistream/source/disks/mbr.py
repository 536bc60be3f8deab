"""Parses the boot record of a disk (MBR) and the chain of its extended partition."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from amistream.source.disks.facts import Partition
from amistream.source.disks.partition_types import EXTENDED, PROTECTIVE, mbr_type_name
from amistream.source.disks.reading import DoubtError, Reader

SECTOR = 512
BOOT_CODE = 440
"""Bytes of code at the disk's start; the disk's id follows, then the table."""

MARK = b"\x55\xaa"
TABLE = 446
"""Place of the four entries."""
ENTRY = struct.Struct("<B3xB3xII")
"""Status, type, first sector and sectors."""
ACTIVE = 0x80
_MOST_LOGICAL = 256
"""Links of a chain that are followed. Linux names 60 partitions at most, fdisk writes no more."""
FIRST_LOGICAL = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry that is not empty. `first` and `sectors` as they stand there."""

    number: int
    active: bool
    kind: int
    first: int
    sectors: int


@dataclass(frozen=True, slots=True)
class BootRecord:
    disk_id: str
    entries: tuple[Entry, ...]

    @property
    def protects_gpt(self) -> bool:
        """It stands for a GPT by the rule of Linux: an entry of that type begins at sector 1."""
        return any(each.kind == PROTECTIVE and each.first == 1 for each in self.entries)

    @property
    def others(self) -> tuple[Entry, ...]:
        """The entries besides the one that stands for a GPT."""
        return tuple(each for each in self.entries if each.kind != PROTECTIVE)


@dataclass(frozen=True, slots=True)
class Chain:
    """The logical partitions of an extended one."""

    partitions: tuple[Partition, ...]
    records: tuple[int, ...]
    """The bytes at which its boot records begin."""
    doubt: str
    """The sentence that says why none of them is trusted."""


def parse_boot_record(sector: bytes) -> BootRecord | None:
    """The table in a disk's first sector; None without its mark, and for the boot sector of a file system."""
    if sector[510:] != MARK:
        return None
    entries = [ENTRY.unpack_from(sector, TABLE + ENTRY.size * index) for index in range(4)]
    if any(status not in {0, ACTIVE} for status, *_ in entries):
        return None  # a file system's boot sector has code there
    return BootRecord(
        disk_id=f"{int.from_bytes(sector[BOOT_CODE:][:4], 'little'):08x}",
        entries=tuple(
            Entry(number=number, active=status == ACTIVE, kind=kind, first=first, sectors=sectors)
            for number, (status, kind, first, sectors) in enumerate(entries, 1)
            if kind and sectors
        ),
    )


def as_partition(entry: Entry, disk_id: str, *, number: int = 0, base: int = 0) -> Partition:
    """The partition of an entry whose first sector counts from `base` on; `number` if it is a logical one."""
    number = number or entry.number
    return Partition(
        number=number,
        offset=SECTOR * (base + entry.first),
        size=SECTOR * entry.sectors,
        type_id=f"{entry.kind:#x}",
        type_name=mbr_type_name(entry.kind),
        uuid=f"{disk_id}-{number:02x}" if int(disk_id, 16) else "",
        bootable=entry.active,
        extended=entry.kind in EXTENDED and number < FIRST_LOGICAL,
    )


def read_chain(read: Reader, extended: Partition, disk_id: str, number: int = FIRST_LOGICAL) -> Chain:
    """The logical partitions within `extended`, numbered from `number` on."""
    partitions: list[Partition] = []
    records: list[int] = []
    doubt = ""
    try:
        for record, entry in _links(read, extended):
            records.append(record)
            if entry:
                base = record // SECTOR
                partitions.append(as_partition(entry, disk_id, number=number + len(partitions), base=base))
    except DoubtError as error:
        doubt = f"the chain of extended partition {extended.number} is broken: {error}"
    return Chain(tuple(partitions), tuple(records), doubt)


def _links(read: Reader, extended: Partition) -> Iterator[tuple[int, Entry | None]]:
    """Yield the place of each boot record of the chain, and its partition. Raises `DoubtError` where it breaks."""
    first = place = extended.offset // SECTOR
    seen: set[int] = set()
    while True:
        if not extended.offset <= SECTOR * place < extended.end:
            raise DoubtError(f"it leads to sector {place}, outside of that partition")
        if place in seen:
            raise DoubtError(f"it leads back to sector {place}")
        if len(seen) == _MOST_LOGICAL:
            raise DoubtError(f"it has more than {_MOST_LOGICAL} links")
        seen.add(place)
        record = parse_boot_record(read(SECTOR * place, SECTOR))
        if record is None:
            raise DoubtError(f"sector {place} holds no table")
        links = [each for each in record.entries if each.kind in EXTENDED]
        data = [each for each in record.entries if each.kind not in EXTENDED]
        if len(links) > 1 or len(data) > 1:
            raise DoubtError(f"the table in sector {place} has {len(record.entries)} entries")
        yield SECTOR * place, data[0] if data else None
        if not links:
            return
        place = first + links[0].first
