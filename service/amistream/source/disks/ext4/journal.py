"""The state of the journal: with transactions in it, the bitmaps on disk are not the last ones.

The superblock has a flag for that too (`needs_recovery`); this finds the copy in which only one of them is right.
"""

from __future__ import annotations

import struct
from typing import Final

from amistream.source.disks.ext4.inodes import read_inode
from amistream.source.disks.ext4.runs import runs_of
from amistream.source.disks.ext4.superblock import Superblock
from amistream.source.disks.reading import DoubtError, Reader

_MAGIC: Final = 0xC03B3998
_SUPERBLOCKS: Final = frozenset({3, 4})
"""Types of the journal's first block, in its two versions."""
_HEADER: Final = struct.Struct(">2I20xII")
"""Magic, type, the first block with transactions (0 for none), and the error for which the journal was given up."""


def check_journal(read: Reader, fs: Superblock) -> None:
    """Refuse a file system whose journal must be replayed first. Raises `DoubtError`."""
    if not fs.journal_inode:
        return
    runs = runs_of(read, fs, read_inode(read, fs, fs.journal_inode))
    first = next((run for run in runs if not run.is_tree), None)
    if first is None or first.logical != 0 or first.unwritten:
        raise DoubtError("its journal has no first block")
    magic, kind, start, error = _HEADER.unpack_from(read(first.start * fs.block_size, fs.block_size))
    if magic != _MAGIC or kind not in _SUPERBLOCKS:
        raise DoubtError("its journal begins with no superblock")
    if start or error:
        raise DoubtError("its journal has to be replayed")
