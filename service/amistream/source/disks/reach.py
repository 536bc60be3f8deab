"""Finds how far a disk reaches by its own tables: its partitions, or the file system that it is.

A disk that reaches beyond the end of its file was cut short, or is the first of several files.
"""

from __future__ import annotations

from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.signatures import identify


def bytes_reached(read: Reader, size: int) -> int:
    """The bytes of a disk by its tables, `size` of which are there; 0 if there are none."""
    try:
        found = identify(read, size)
    except DoubtError:
        found = None  # nothing tells which of its marks are left over
    return max(read_table(read, size).reach, found.size or 0 if found else 0)
