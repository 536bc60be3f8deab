"""Maps a disk: its partitions, what they hold, and the free blocks of it, which may be left out.

Kept are gaps, boot areas, the tails behind file systems, and every partition that has no map of its blocks or is in any
doubt. Only blocks that ext2, ext3, ext4 or xfs do not use are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from amistream.source.disks.facts import (
    MOST_EXTENTS,
    TOO_MANY,
    FileSystem,
    Partition,
    PartitionTable,
    TableKind,
    UsedBlocks,
)
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import DoubtError, NotUnderstoodError, Reader, window
from amistream.source.disks.signatures import identify
from amistream.values import Extent, LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A partition, or the whole of a disk without a table. Offset and size in bytes."""

    offset: int
    size: int
    partition: Partition | None = None
    trusted: bool = True
    """The partition table is right about it."""
    file_system: FileSystem | None = None
    used: UsedBlocks | None = None
    """None: all bytes are kept."""
    doubt: str = ""
    """The clause that says why its file system is not trusted."""
    understood: bool = True
    """A repair of the file system may take the doubt away."""

    @property
    def kind(self) -> str:
        """The file system's kind, or '' for content that is not known."""
        return self.file_system.kind if self.file_system else ""

    def bytes_of(self, extents: Iterable[Extent]) -> int:
        """Bytes of the extents that lie in this area."""
        end = self.offset + self.size
        return sum(max(0, min(each.end, end) - max(each.offset, self.offset)) for each in extents)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMap:
    """A disk of `size` bytes, and its areas in the order of the table."""

    size: int
    table: PartitionTable
    areas: tuple[Area, ...]

    def used(self, data: Iterable[Extent]) -> tuple[Extent, ...]:
        """The ranges to read, given the ascending extents outside of which the disk has holes."""
        return tuple(_common(_merged(self._kept()), data))

    def left_out(self, used: Iterable[Extent]) -> LeftOut:
        """The bytes outside of `used`, the ranges to read, by what they are."""
        maps = [area.used for area in self.areas if area.used]
        unused = sum(each.size - _length(each.extents) for each in maps)
        preallocated = sum(each.preallocated for each in maps)
        unused_inodes = sum(each.unused_inodes for each in maps)
        return LeftOut(
            holes=self.size - unused - _length(used),
            free=unused - preallocated - unused_inodes,
            preallocated=preallocated,
            unused_inodes=unused_inodes,
        )

    def _kept(self) -> Iterator[tuple[int, int]]:
        """Start and end of all but the blocks that file systems do not use, ascending."""
        settled = 0
        # Areas with a map do not overlap any other: the table would not be trusted.
        for area in sorted(self.areas, key=lambda each: each.offset):
            if area.used:
                yield settled, area.offset
                yield from ((area.offset + each.offset, area.offset + each.end) for each in area.used.extents)
                settled = area.offset + area.used.size
        yield settled, self.size


def map_disk(read: Reader, size: int, *, sector_size: int | None = None, frozen: Collection[int] = ()) -> DiskMap:
    """Map a disk of `size` bytes. `sector_size`: that of the device; None for an image.

    `frozen`: the offsets of the file systems that the caller has frozen. Never raises `DoubtError`; an error of `read`
    passes through.
    """
    table = _table(read, size, sector_size)
    areas = [
        Area(offset=each.offset, size=each.size, partition=each, trusted=each.trusted)
        for each in table.partitions
        if not each.extended
    ]
    if not table.partitions:
        areas = [Area(offset=0, size=size, trusted=not table.doubts)]
    return DiskMap(
        size=size,
        table=table,
        areas=tuple(_bounded(_examined(read, size, each, frozen=each.offset in frozen) for each in areas)),
    )


def _bounded(areas: Iterable[Area]) -> Iterator[Area]:
    """The areas, without the maps of those with which they all would have too many extents."""
    extents = 0
    for area in areas:
        extents += len(area.used.extents) if area.used else 0
        too_many = area.used and extents > MOST_EXTENTS
        yield replace(area, used=None, doubt=TOO_MANY) if too_many else area


def _table(read: Reader, size: int, sector_size: int | None) -> PartitionTable:
    try:
        table = read_table(read, size)
    except DoubtError as error:
        return PartitionTable(kind=TableKind.NONE, doubts=(str(error),))
    if not table.partitions or sector_size in {None, table.sector_size}:
        return table
    # A table counts sectors, and an MBR does not say of what size.
    doubt = f"the disk has sectors of {sector_size} bytes, and its table was read as one for {table.sector_size}"
    partitions = tuple(replace(each, doubt=each.doubt or doubt) for each in table.partitions)
    return replace(table, partitions=partitions, doubts=(*table.doubts, doubt))


def _examined(read: Reader, size: int, area: Area, *, frozen: bool) -> Area:
    """The area with its file system and, if there is no doubt, its used blocks."""
    if area.offset + area.size > size:
        return area
    within, file_system = window(read, area.offset, area.size), None
    try:
        file_system = identify(within, area.size)
        used = _used_blocks(within, area.size, file_system, frozen=frozen) if file_system and area.trusted else None
    except DoubtError as error:
        understood = not isinstance(error, NotUnderstoodError)
        return replace(area, file_system=file_system, doubt=str(error), understood=understood)
    return replace(area, file_system=file_system, used=used)


def _used_blocks(read: Reader, size: int, file_system: FileSystem, *, frozen: bool) -> UsedBlocks | None:
    """The used blocks of a file system; None for a kind whose blocks cannot be found. Raises `DoubtError`."""
    if file_system.kind in {"ext2", "ext3", "ext4"}:
        from amistream.source.disks.ext4 import used as ext4  # noqa: PLC0415 - a reader is loaded by its first volume

        used = ext4.used_blocks(read, size)
    elif file_system.kind == "xfs":
        from amistream.source.disks.xfs import used as xfs  # noqa: PLC0415 - as above

        used = xfs.used_blocks(read, size, frozen=frozen)
    else:
        return None
    if used.size > size:
        raise DoubtError(f"it has {used.size} bytes, and its partition {size}")
    return used


def _merged(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending ranges without empty ones, those that touch as one."""
    start = end = 0
    for each_start, each_end in ranges:
        if each_start > end:
            if end > start:
                yield start, end
            start = each_start
        end = max(end, each_end)
    if end > start:
        yield start, end


def _common(ranges: Iterable[tuple[int, int]], extents: Iterable[Extent]) -> Iterator[Extent]:
    """The bytes that lie in one of the `ranges` and in one of the `extents`; both ascend."""
    left, right = iter(ranges), iter(extents)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        start, end = max(one[0], other.offset), min(one[1], other.end)
        if start < end:
            yield Extent(offset=start, length=end - start)
        if one[1] < other.end:
            one = next(left, None)
        else:
            other = next(right, None)


def _length(extents: Iterable[Extent]) -> int:
    return sum(extent.length for extent in extents)
