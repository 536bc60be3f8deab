"""Reads the partition table of a disk: an MBR with its extended partition, a GPT, both, or none.

No entry is trusted that ends beyond the disk, overlaps another one or a table, or that two tables describe differently.
All bytes outside of trusted partitions are to be kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from amistream.source.disks.facts import Partition, PartitionTable, TableKind
from amistream.source.disks.gpt import Gpt, has_mark, read_gpt
from amistream.source.disks.mbr import FIRST_LOGICAL, SECTOR, BootRecord, as_partition, parse_boot_record, read_chain
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.signatures import identify


def read_table(read: Reader, size: int) -> PartitionTable:
    """The partition table of a disk of `size` bytes. Raises `DoubtError` only if `read` does."""
    record = parse_boot_record(read(0, SECTOR)) if size >= SECTOR else None
    if record is None:
        stray = ("the disk has a GPT, but no boot record that stands for it",) if has_mark(read, size) else ()
        return PartitionTable(kind=TableKind.NONE, doubts=stray)
    if record.protects_gpt:
        return _gpt_table(read, size, record)
    return _mbr_table(read, size, record)


def _gpt_table(read: Reader, size: int, record: BootRecord) -> PartitionTable:
    gpt = read_gpt(read, size)
    if gpt is None:
        return PartitionTable(
            kind=TableKind.PROTECTIVE,
            disk_id=record.disk_id,
            doubts=("the boot record stands for a GPT, of which no header is right",),
        )
    doubt = gpt.doubt or _hybrid_doubt(record, gpt) or _file_system_doubt(read, size)
    partitions = _judge(gpt.partitions, size, [(0, SECTOR), *gpt.tables])
    return _table(
        kind=TableKind.HYBRID if record.others else TableKind.GPT,
        sector_size=gpt.sector_size,
        disk_id=gpt.disk_id,
        partitions=partitions,
        doubt=doubt,
        notes=gpt.notes,
        reach=gpt.reach,
    )


def _mbr_table(read: Reader, size: int, record: BootRecord) -> PartitionTable:
    doubt = _file_system_doubt(read, size)
    if doubt and not record.entries:
        return PartitionTable(kind=TableKind.NONE)  # its own boot code, with a mark but no table
    notes = ["the disk has a GPT, but its boot record does not stand for it"] if has_mark(read, size) else []
    if notes and (gpt := read_gpt(read, size)) and gpt.partitions:
        doubt = doubt or notes[0]  # two tables that are right: nothing here shows which of them is in use
    primary = _judge((as_partition(each, record.disk_id) for each in record.entries), size, [(0, SECTOR)])
    partitions = [*primary]
    number = FIRST_LOGICAL
    for extended in (each for each in primary if each.extended and each.trusted):
        chain = read_chain(read, extended, record.disk_id, number)
        number += len(chain.partitions)
        tables = [(place, place + SECTOR) for place in chain.records]
        logical = _judge(chain.partitions, extended.end, tables, f"extended partition {extended.number}")
        partitions += _doubted(logical, chain.doubt)
        notes += [chain.doubt] if chain.doubt else []
    return _table(
        kind=TableKind.MBR,
        sector_size=SECTOR,
        disk_id=record.disk_id,
        partitions=partitions,
        doubt=doubt,
        notes=notes,
        # A partition from sector 0 on is that of an ISO image, which may be rounded up.
        reach=max((each.end for each in partitions if each.offset), default=0),
    )


def _table(
    *,
    kind: TableKind,
    sector_size: int,
    disk_id: str,
    partitions: Iterable[Partition],
    doubt: str,
    notes: Iterable[str],
    reach: int,
) -> PartitionTable:
    """The table with all its sentences, each once; `doubt` goes for every entry."""
    judged = _doubted(partitions, doubt)
    sentences = [doubt, *notes, *(each.doubt for each in judged)]
    return PartitionTable(
        kind=kind,
        sector_size=sector_size,
        disk_id=disk_id,
        partitions=judged,
        doubts=tuple(dict.fromkeys(filter(None, sentences))),
        reach=reach,
    )


def _judge(
    partitions: Iterable[Partition], end: int, tables: Iterable[tuple[int, int]], whole: str = "the disk"
) -> tuple[Partition, ...]:
    """Add their doubts to partitions that pass the `end` of the `whole`, overlap each other, or overlap `tables`."""
    judged = {each.number: each for each in partitions}
    ranges = [(each.offset, each.end, each.number) for each in judged.values()]
    ranges += [(start, stop, 0) for start, stop in tables]
    furthest, last = 0, 0
    for start, stop, number in sorted(ranges):
        if stop > end and number:
            _doubt(judged, number, f"partition {number} ends at byte {stop}, and {whole} at byte {end}")
        if start < furthest:
            for one, other in ((number, last), (last, number)):
                named = f"partition {other}" if other else "a partition table"
                _doubt(judged, one, f"partition {one} overlaps {named}")
        if stop > furthest:
            furthest, last = stop, number
    return tuple(judged.values())


def _doubt(judged: dict[int, Partition], number: int, doubt: str) -> None:
    if number in judged and judged[number].trusted:
        judged[number] = replace(judged[number], doubt=doubt)


def _doubted(partitions: Iterable[Partition], doubt: str) -> tuple[Partition, ...]:
    return tuple(replace(each, doubt=each.doubt or doubt) for each in partitions)


def _hybrid_doubt(record: BootRecord, gpt: Gpt) -> str:
    known = {(each.offset, each.size) for each in gpt.partitions}
    for each in record.others:
        if (each.first * gpt.sector_size, each.sectors * gpt.sector_size) not in known:
            return f"entry {each.number} of the boot record is no partition of the GPT"
    return ""


def _file_system_doubt(read: Reader, size: int) -> str:
    try:
        found = identify(read, size)
    except DoubtError as error:
        return f"the disk has a partition table, and from its first byte on {error}"
    return f"the disk has a partition table, and from its first byte on it is marked as {found.kind}" if found else ""
