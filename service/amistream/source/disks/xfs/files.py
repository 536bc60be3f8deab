"""The files of an xfs file system, read without mounting it.

A `Tree` of `source.disks.files`. Directories are read from their start to their end, without their index. A file system
whose log has to be replayed is read as it is: what the log holds is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from amistream.source.disks.files import Kind, Node, read_runs
from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.xfs.inodes import (
    LOCAL,
    SYMLINK,
    Inode,
    Run,
    block_offset,
    read_inode,
    read_layout,
    runs_of,
)
from amistream.values import GIB, MIB

LARGEST_DIRECTORY: Final = 64 * MIB
_DATA_END: Final = 32 * GIB
"""In a directory: entries stand below this byte, its index above."""
_REMEMBERED: Final = 16
_SINGLE: Final = (b"XD2B", b"XDB3")
"""A directory of one block, whose index is at the block's end."""
_SEVERAL: Final = (b"XD2D", b"XDD3")
_HEADERS: Final = {False: 16, True: 64}
_LINK_MAGIC, _LINK_HEADER = b"XSLM", 56
_UNUSED: Final = b"\xff\xff"
_ENTRY: Final = 9
"""Bytes of an entry before its name: inode, length of the name."""


class XfsTree:
    """All calls raise `DoubtError` where the tables are damaged, or not understood."""

    def __init__(self, read: Reader, size: int) -> None:
        """`size` bytes hold the file system. Raises `DoubtError`."""
        self._read = read
        self._layout = read_layout(read, size)
        self.root = self._layout.root
        self._remembered: dict[int, tuple[Inode, list[Run]]] = {}

    def node(self, number: int) -> Node:
        inode, _ = self._inode(number)
        return Node(
            number=number,
            kind=Kind.of(inode.kind),
            size=inode.size,
            has_attributes=inode.has_attributes,
        )

    def entries(self, directory: Node) -> Iterator[tuple[str, int]]:
        inode, runs = self._inode(directory.number)
        if inode.way == LOCAL:
            yield from self._short_entries(inode)
            return
        block, size = self._layout.directory_block, self._layout.fs.block_size
        if sum(run.blocks for run in runs) * size > LARGEST_DIRECTORY:
            raise DoubtError(f"the directory in inode {inode.number} is too large")
        for run in runs:
            for start in range(run.logical * size, min((run.logical + run.blocks) * size, _DATA_END), size):
                # Every run need not begin at a block of the directory, which may be several of the file system's.
                if start % block == 0:
                    yield from self._block_entries(self._from_blocks(runs, start, block), inode.number)

    def content(self, file: Node, offset: int, length: int) -> bytes:
        inode, runs = self._inode(file.number)
        length = max(0, min(length, inode.size - offset))
        if inode.way == LOCAL:
            if inode.size > len(inode.fork):
                raise DoubtError(f"inode {inode.number} is damaged")
            return inode.fork[offset : offset + length]
        if inode.kind == SYMLINK and self._layout.fs.has_checksums:
            return self._link(inode, runs)[offset : offset + length]
        return self._from_blocks(runs, offset, length)

    def _link(self, inode: Inode, runs: list[Run]) -> bytes:
        """The target of a link that has blocks, each of which has a header."""
        size = self._layout.fs.block_size
        count = sum(run.blocks for run in runs)
        if count * size > 2 * MIB:
            raise DoubtError(f"inode {inode.number} is damaged")
        blocks = [self._from_blocks(runs, number * size, size) for number in range(count)]
        if any(not block.startswith(_LINK_MAGIC) for block in blocks):
            raise DoubtError(f"inode {inode.number} is damaged")
        return b"".join(block[_LINK_HEADER:] for block in blocks)[: inode.size]

    def _from_blocks(self, runs: list[Run], offset: int, length: int) -> bytes:
        """Blocks that are not in `runs` read as zeros."""
        return read_runs(runs, self._layout.fs.block_size, offset, length, self._read_run)

    def _read_run(self, run: Run, inside: int, length: int) -> bytes:
        return self._read(block_offset(self._layout, run.start) + inside, length)

    def _short_entries(self, inode: Inode) -> Iterator[tuple[str, int]]:
        """The entries of a directory in its inode: a count, the parent, then each with 4 or 8 bytes of a number."""
        raw = inode.fork
        count, large = raw[0], raw[1] > 0
        width = 8 if large else 4
        count = max(count, raw[1]) if large else count
        place = 2 + width
        for _ in range(count):
            head = place + 3
            length = raw[place] if place < len(raw) else 0
            behind = head + length + self._layout.has_types
            if not length or behind + width > len(raw):
                raise DoubtError(f"the directory in inode {inode.number} is damaged")
            yield _text(raw[head : head + length]), int.from_bytes(raw[behind : behind + width])
            place = behind + width

    def _block_entries(self, block: bytes, number: int) -> Iterator[tuple[str, int]]:
        """The entries of one block of a directory, with gaps between them."""
        place, end = _HEADERS[self._layout.fs.has_checksums], len(block)
        if block.startswith(_SINGLE):
            (count,) = struct.unpack_from(">I", block, end - 8)
            end -= 8 + 8 * count
            if end < place:
                raise DoubtError(f"the directory in inode {number} is damaged")
        elif not block.startswith(_SEVERAL):
            raise DoubtError(f"the directory in inode {number} is damaged")
        while place < end:
            if block[place : place + 2] == _UNUSED:
                length = int.from_bytes(block[place + 2 : place + 4])
            else:
                named = block[place + 8] if place + _ENTRY <= end else 0
                length = _ENTRY + named + self._layout.has_types + 2
                length += -length % 8
                if named and place + length <= end:
                    name = block[place + _ENTRY : place + _ENTRY + named]
                    yield _text(name), int.from_bytes(block[place : place + 8])
                else:
                    length = 0
            if length < 8 or length % 8 or place + length > end:  # noqa: PLR2004 - all begin at a multiple of 8
                raise DoubtError(f"the directory in inode {number} is damaged")
            place += length

    def _inode(self, number: int) -> tuple[Inode, list[Run]]:
        if number not in self._remembered:
            inode = read_inode(self._read, self._layout, number)
            runs = runs_of(self._read, self._layout, inode) if Kind.of(inode.kind) is not Kind.OTHER else []
            while len(self._remembered) >= _REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[number] = (inode, runs)
        return self._remembered[number]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
