"""Rewrites a partition table for another size of the last partition: few fields, and no id, change."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from amistream.source.disks import gpt, mbr
from amistream.source.disks.facts import Partition
from amistream.source.disks.mbr import SECTOR
from amistream.source.disks.partition_types import PROTECTIVE
from amistream.source.disks.reading import DoubtError, Reader

_COUNT = struct.Struct("<I")
_COUNT_AT = 12
"""Place of the sectors in an entry of the boot record."""
_MOST_SECTORS = 0xFFFFFFFF
_LAST = struct.Struct("<Q")
_LAST_AT = 40
"""Place of the last sector in an entry of a GPT."""
_OWN, _OTHER, _LAST_USABLE, _ARRAY, _CHECKSUM_OF_ENTRIES = 4, 5, 7, 9, 12
"""The fields of a header that change, or differ in its copy, by their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Bytes that differ from those of the disk at hand."""

    offset: int
    data: bytes


def resized_mbr(root: Partition, end: int) -> Iterator[Written]:
    """The change that makes the primary partition `root` end where the disk does."""
    yield _count(root.number - 1, (end - root.offset) // SECTOR)


def gpt_tail(read: Reader, size: int) -> int:
    """Bytes of the table's copy at the end of a disk."""
    return _padded(_header(read, size).entries) + SECTOR


def resized_gpt(read: Reader, size: int, root: Partition, end: int) -> Iterator[Written]:
    """The changes that make `root` the end of a disk of `end` bytes, but for the table's copy behind it."""
    header, last = _header(read, size), end // SECTOR - 1
    entries = bytearray(header.entries)
    copy = (end - SECTOR - _padded(entries)) // SECTOR
    _LAST.pack_into(entries, (root.number - 1) * gpt.ENTRY.size + _LAST_AT, copy - 1)
    changed = {_LAST_USABLE: copy - 1, _CHECKSUM_OF_ENTRIES: zlib.crc32(entries)}
    raw = read(header.own * SECTOR, SECTOR)
    yield _protection(read, last)
    yield Written(offset=header.own * SECTOR, data=_changed(raw, {**changed, _OTHER: last}))
    yield Written(offset=header.array * SECTOR, data=bytes(entries))
    second = _changed(raw, {**changed, _OWN: last, _OTHER: header.own, _ARRAY: copy})
    yield Written(offset=copy * SECTOR, data=bytes(entries).ljust(_padded(entries), b"\0") + second)


def _header(read: Reader, size: int) -> gpt.Header:
    header = gpt.read_header(read, size, SECTOR, 1)
    if header is None:
        raise DoubtError("the first header of its GPT is not right")
    return header


def _padded(entries: bytes | bytearray) -> int:
    return -(-len(entries) // SECTOR) * SECTOR


def _changed(sector: bytes, changed: dict[int, int]) -> bytes:
    """The sector of a header with other fields, and its new checksum. Bytes behind the known fields stay."""
    fields, made = list(gpt.HEADER.unpack_from(sector)), bytearray(sector)
    for number, value in changed.items():
        fields[number] = value
    gpt.HEADER.pack_into(made, 0, *fields)
    _, _, length, *_ = fields
    made[gpt.CHECKSUM] = gpt.header_checksum(made[:length]).to_bytes(4, "little")
    return bytes(made)


def _protection(read: Reader, sectors: int) -> Written:
    """The size of the entry that stands for the GPT, from its first sector on."""
    record = mbr.parse_boot_record(read(0, SECTOR))
    number = next(each.number for each in record.entries if each.kind == PROTECTIVE) if record else 1
    return _count(number - 1, min(sectors, _MOST_SECTORS))


def _count(index: int, sectors: int) -> Written:
    place = mbr.TABLE + index * mbr.ENTRY.size + _COUNT_AT
    return Written(offset=place, data=_COUNT.pack(sectors))
