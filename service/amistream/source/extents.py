"""Finds the extents of a volume: the ranges with data. Holes between them read as zeros and are not read at all.

Extents come from lseek(2), SEEK_DATA and SEEK_HOLE. Each costs 24 bytes of header in the archive and a read of its own,
so small gaps are joined: they are read with their neighbours, as zeros.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from amistream.values import KIB, Extent

WORTHWHILE_GAP = 64 * KIB
"""Measured on a used file system: joining smaller gaps leaves 1,174 of 18,193 extents, with 7 % more data."""

ALIGNMENT = 4 * KIB
"""Extents begin and end on multiples of this (or at the volume's end): of tar's 512 and of disk blocks."""


def find_data(descriptor: int, size: int) -> tuple[Extent, ...]:
    """The extents of an open file of `size` bytes, joined and aligned; a single one where holes are unknown."""
    return join_extents(_seek_data(descriptor, size), size)


def join_extents(found: Iterable[Extent], size: int) -> tuple[Extent, ...]:
    """Ascending extents, rounded outwards to `ALIGNMENT` within `size`, gaps under `WORTHWHILE_GAP` closed."""
    joined: list[Extent] = []
    for extent in found:
        start = extent.offset // ALIGNMENT * ALIGNMENT
        end = min(-(-extent.end // ALIGNMENT) * ALIGNMENT, size)
        if joined and start - joined[-1].end < WORTHWHILE_GAP:
            start = joined.pop().offset
        joined.append(Extent(offset=start, length=end - start))
    return tuple(joined)


def _seek_data(descriptor: int, size: int) -> Iterator[Extent]:
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            # Not every file system and device reports holes.
            yield Extent(offset=position, length=size - position)
            return
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield Extent(offset=start, length=position - start)
