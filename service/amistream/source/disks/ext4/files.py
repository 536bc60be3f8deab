"""The files of an ext2, ext3 or ext4 file system, read without mounting it.

A `Tree` of `source.disks.files`. Directories are read from their start to their end, whether they have an index or not.
A file system whose journal has to be replayed is read as it is: what the journal holds is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from amistream.source.disks.ext4.attributes import find_attribute, has_attributes
from amistream.source.disks.ext4.inodes import ROOT, Inode, read_inode
from amistream.source.disks.ext4.runs import Run, runs_of
from amistream.source.disks.ext4.superblock import read_superblock
from amistream.source.disks.files import Kind, Node, read_runs
from amistream.source.disks.reading import DoubtError, Reader
from amistream.values import MIB

LARGEST_DIRECTORY: Final = 64 * MIB
MOST_RUNS: Final = 50_000
_PIECE: Final = 1 * MIB
_ENCRYPTED: Final = 0x800
_REMEMBERED: Final = 16
"""Inodes with their runs that are kept: a directory or file is read in pieces."""
_ENTRY: Final = 8
"""Bytes of a directory's entry before its name: inode, length, length of the name, type."""
_INLINE_PARENT: Final = 4
"""Bytes of the parent's number, with which a directory in its inode begins."""


class Ext4Tree:
    """All calls raise `DoubtError` where the tables are damaged, or not understood."""

    root = ROOT

    def __init__(self, read: Reader, size: int) -> None:
        """`size` bytes hold the file system. Raises `DoubtError`."""
        self._read = read
        self._fs = read_superblock(read)
        if self._fs.size > size:
            raise DoubtError(f"it has {self._fs.size} bytes, of which {size} are here")
        if "compression" in self._fs.features or "journal_dev" in self._fs.features:
            raise DoubtError("it has features that are not understood")
        self._remembered: dict[int, tuple[Inode, list[Run]]] = {}

    def node(self, number: int) -> Node:
        inode, _ = self._inode(number)
        return Node(
            number=number,
            kind=Kind.of(inode.kind),
            size=inode.size,
            has_attributes=has_attributes(inode),
        )

    def entries(self, directory: Node) -> Iterator[tuple[str, int]]:
        inode, _ = self._inode(directory.number)
        if inode.flags & _ENCRYPTED:
            raise DoubtError(f"the directory in inode {inode.number} is encrypted")
        if inode.size > LARGEST_DIRECTORY:
            raise DoubtError(f"the directory in inode {inode.number} has {inode.size} bytes")
        if inode.is_inline:
            yield from self._entries(inode.map[_INLINE_PARENT:], inode.number)
            yield from self._entries(find_attribute(inode, "data"), inode.number)
            return
        block = self._fs.block_size
        for start in range(0, inode.size, _PIECE):
            piece = self.content(directory, start, _PIECE)
            for offset in range(0, len(piece), block):
                yield from self._entries(piece[offset : offset + block], inode.number)

    def content(self, file: Node, offset: int, length: int) -> bytes:
        inode, runs = self._inode(file.number)
        if inode.flags & _ENCRYPTED:
            raise DoubtError(f"the content of inode {inode.number} is encrypted")
        length = max(0, min(length, inode.size - offset))
        if not inode.has_blocks:
            held = inode.map + (find_attribute(inode, "data") if inode.is_inline else b"")
            if inode.size > len(held):
                raise DoubtError(f"inode {inode.number} has {inode.size} bytes, of which {len(held)} are in it")
            return held[: inode.size][offset : offset + length]
        return self._from_blocks(runs, offset, length)

    def _from_blocks(self, runs: list[Run], offset: int, length: int) -> bytes:
        """Blocks that are not in `runs` read as zeros."""
        return read_runs(runs, self._fs.block_size, offset, length, self._read_run)

    def _read_run(self, run: Run, inside: int, length: int) -> bytes:
        return self._read(run.start * self._fs.block_size + inside, length)

    def _entries(self, block: bytes, number: int) -> Iterator[tuple[str, int]]:
        """The entries of one block of a directory; those of an index, and of its checksum, name no inode."""
        place = 0
        while place + _ENTRY <= len(block):
            inode = int.from_bytes(block[place : place + 4], "little")
            length = int.from_bytes(block[place + 4 : place + 6], "little")
            if length in (0, 0xFFFF) and len(block) == 0x10000:  # noqa: PLR2004 - one entry fills 64 KiB
                length = len(block)
            name = block[place + _ENTRY : place + _ENTRY + block[place + 6]]
            if length < _ENTRY or length % 4 or place + length > len(block):
                raise DoubtError(f"the directory in inode {number} is damaged")
            if inode:
                if not 0 < len(name) <= length - _ENTRY:
                    raise DoubtError(f"the directory in inode {number} is damaged")
                yield name.decode("utf-8", "surrogateescape"), inode
            place += length

    def _written_runs(self, inode: Inode) -> list[Run]:
        """The runs that hold the inode's content. Preallocated ones are none of it: they hold what was deleted."""
        runs: list[Run] = []
        end = -(-inode.size // self._fs.block_size)
        for count, run in enumerate(runs_of(self._read, self._fs, inode)):
            if count == MOST_RUNS:
                raise DoubtError(f"inode {inode.number} has more than {MOST_RUNS} runs of blocks")
            if run.logical >= end:
                break
            if not run.is_tree and not run.unwritten:
                runs.append(run)
        return runs

    def _inode(self, number: int) -> tuple[Inode, list[Run]]:
        if number not in self._remembered:
            inode = read_inode(self._read, self._fs, number)
            runs = self._written_runs(inode)
            while len(self._remembered) >= _REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[number] = (inode, runs)
        return self._remembered[number]
