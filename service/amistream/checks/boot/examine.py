"""Looks at a disk and finds what will keep its AMI from booting, or its instances from being reached.

Everything is read from the image, without mounting it. `failed` is certain. Where something cannot be told, a finding
says so; a disk that is damaged, or made to mislead, costs bounded time and memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from amistream.checks.boot.disk import Disk
from amistream.checks.boot.faults import guarded
from amistream.checks.boot.table import check_table
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.facts import TableKind
from amistream.source.disks.reading import DoubtError, Reader
from amistream.values import GIB

MOST_SECONDS = 20
MOST_READ = 2 * GIB
_PIECE = 4096


def examine_boot(read: Reader, size: int, wanted: Wanted) -> list[Observation]:
    """Check the disk of `size` bytes that `read` gives. No finding: nothing was found that is wrong."""
    disk = Disk(_bounded(read), size)
    return list(dict.fromkeys(guarded("the disk", lambda: _examine(disk, wanted))))


def _examine(disk: Disk, wanted: Wanted) -> Iterator[Observation]:
    yield from guarded("the partition table", lambda: check_table(disk, wanted))
    if disk.table.kind is TableKind.NONE and not disk.is_bare and not wanted.paravirtual:
        return
    from amistream.checks.boot.contents import examine_contents  # noqa: PLC0415 - long, and for nothing so far

    yield from examine_contents(disk, wanted)


def _bounded(read: Reader) -> Reader:
    """The reader, until it has read for too long or too much."""
    end = time.monotonic() + MOST_SECONDS
    total = 0

    def read_within(offset: int, length: int) -> bytes:
        nonlocal total
        total += length + _PIECE
        if total > MOST_READ or time.monotonic() > end:
            raise DoubtError("its tables are so intricate that looking further would take too long")
        return read(offset, length)

    return read_within
