"""Parses a GPT: both of its headers, with every checksum (UEFI specification, section 5.3)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace

from amistream.source.disks.facts import Partition
from amistream.source.disks.ids import guid_text, label_text
from amistream.source.disks.partition_types import gpt_type_name
from amistream.source.disks.reading import Reader
from amistream.values import KIB

_SECTOR_SIZES = (512, 4 * KIB)
MARK = b"EFI PART"

HEADER = struct.Struct("<8sIII4xQQQQ16sQIII")
"""Mark, revision, size, checksum, own sector, the other header's, first and last usable one, GUID, entries."""
REVISION = 0x10000
CHECKSUM = slice(16, 20)
ENTRY = struct.Struct("<16s16sQQQ72s")
"""Type, GUID, first and last sector, attributes, name."""
_MOST_ENTRIES = 1024
"""sgdisk makes 128, and Linux shows 256 partitions of a disk at most."""
_BOOTABLE = 1 << 2
"""The attribute of a partition that a BIOS should boot."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header whose checksums are right."""

    own: int
    other: int
    first_usable: int
    last_usable: int
    disk_id: str
    array: int
    """Sector of the entries."""
    entries: bytes

    def tables(self, sector: int) -> tuple[tuple[int, int], ...]:
        """The ranges of bytes that it and its entries take."""
        start = self.array * sector
        return (self.own * sector, (self.own + 1) * sector), (start, start + len(self.entries))

    def says_as(self, other: Header) -> bool:
        """True if both describe the same partitions."""
        ours, theirs = ((each.disk_id, each.first_usable, each.last_usable, each.entries) for each in (self, other))
        return ours == theirs


@dataclass(frozen=True, slots=True)
class Gpt:
    sector_size: int
    disk_id: str
    partitions: tuple[Partition, ...]
    """Entries outside of the usable sectors have their doubt."""
    tables: tuple[tuple[int, int], ...]
    """The ranges of bytes that hold headers and entries."""
    notes: tuple[str, ...]
    """Sentences about its headers that leave its entries right."""
    doubt: str
    """The sentence that says why no entry is trusted."""
    reach: int


def has_mark(read: Reader, size: int) -> bool:
    """A GPT begins on the disk, whether it is right or not."""
    return any(size >= 2 * sector and read(sector, len(MARK)) == MARK for sector in _SECTOR_SIZES)


def read_gpt(read: Reader, size: int) -> Gpt | None:
    """The table of a disk of `size` bytes: its first header, else its last one; None if neither is right."""
    for sector in _SECTOR_SIZES:
        if header := read_header(read, size, sector, 1):
            return _with_second(read, size, sector, header)
    for sector in _SECTOR_SIZES:
        if header := read_header(read, size, sector, size // sector - 1):
            note = "the first header of the GPT is damaged, and the second one was used"
            return _table(header, sector, notes=(note,))
    return None


def _with_second(read: Reader, size: int, sector: int, header: Header) -> Gpt:
    second = read_header(read, size, sector, header.other)
    reach = (header.other + 1) * sector
    if reach > size:
        return _table(header, sector, notes=(f"the GPT ends at byte {reach}, and the disk at byte {size}",))
    if second is None:
        return _table(header, sector, notes=("the second header of the GPT is damaged or missing",))
    if not header.says_as(second):
        return _table(header, sector, second=second, doubt="the two headers of the GPT contradict each other")
    if header.other != size // sector - 1:
        note = "the second header of the GPT is not in the disk's last sector: the disk has grown since"
        return _table(header, sector, second=second, notes=(note,))
    return _table(header, sector, second=second)


def read_header(read: Reader, size: int, sector: int, place: int) -> Header | None:
    """The header in sector `place` of a disk; None if it is not right."""
    if not 0 < place < size // sector:
        return None
    raw = read(place * sector, sector)
    mark, revision, length, checksum, own, other, first, last, guid, array, count, entry, entries_checksum = (
        HEADER.unpack_from(raw)
    )
    if mark != MARK or revision != REVISION or not HEADER.size <= length <= sector or own != place:
        return None
    # Linux reads entries of this size only.
    if header_checksum(raw[:length]) != checksum or entry != ENTRY.size or not 0 < count <= _MOST_ENTRIES:
        return None
    if not 0 < array <= size // sector or (array * sector + count * entry) > size:
        return None
    entries = read(array * sector, count * entry)
    if zlib.crc32(entries) != entries_checksum:
        return None
    return Header(own, other, first, last, guid_text(guid), array, entries)


def header_checksum(header: bytes | bytearray) -> int:
    """The checksum of a header, which counts its own field as zeros."""
    blank = bytearray(header)
    blank[CHECKSUM] = bytes(4)
    return zlib.crc32(blank)


def _table(
    header: Header, sector: int, *, second: Header | None = None, notes: tuple[str, ...] = (), doubt: str = ""
) -> Gpt:
    partitions = []
    for number, fields in enumerate(ENTRY.iter_unpack(header.entries), 1):
        type_id, guid, first, last, attributes, name = fields
        if not any(type_id):
            continue
        partition = Partition(
            number=number,
            offset=first * sector,
            size=max(0, last + 1 - first) * sector,
            type_id=guid_text(type_id),
            type_name=gpt_type_name(guid_text(type_id)),
            name=label_text(name, "utf-16-le"),
            uuid=guid_text(guid),
            bootable=bool(attributes & _BOOTABLE),
        )
        if not header.first_usable <= first <= last <= header.last_usable:
            outside = f"partition {number} is not within the sectors that the GPT calls usable"
            partition = replace(partition, doubt=outside)
        partitions.append(partition)
    return Gpt(
        sector_size=sector,
        disk_id=header.disk_id,
        partitions=tuple(partitions),
        tables=(*header.tables(sector), *(second.tables(sector) if second else ())),
        notes=notes,
        doubt=doubt,
        reach=(max(header.own, header.other) + 1) * sector,
    )
