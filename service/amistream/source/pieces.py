"""A volume that is put together: its pieces come from other volumes, from memory, or are zeros."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from amistream.ports.volume import Readable, Volume
from amistream.source.extents import join_extents
from amistream.values import Extent


class Source(Readable, Protocol):
    """A run of bytes that pieces are taken from; a volume is one."""

    def extents(self) -> tuple[Extent, ...]:
        """The parts that hold data, ascending; everything else reads as zeros."""


class Memory:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        buffer[:] = self._data[offset : offset + len(buffer)]
        return True

    def will_need(self, offset: int, length: int) -> None:
        """Do nothing: they are there."""

    def extents(self) -> tuple[Extent, ...]:
        return (Extent(offset=0, length=self.size),)


class Zeros:
    """Any number of zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read_into(self, offset: int, buffer: memoryview) -> bool:  # noqa: ARG002 - all are equal
        buffer[:] = bytes(len(buffer))
        return True

    def will_need(self, offset: int, length: int) -> None:
        """Do nothing."""

    def extents(self) -> tuple[Extent, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of a source from `start` on."""

    source: Source
    start: int
    size: int


def whole(source: Source) -> Piece:
    return Piece(source, 0, source.size)


class PiecedVolume:
    """Pieces in a row. It stands for `inner`, the volume that one of them is made of, and closes it."""

    def __init__(self, inner: Volume, pieces: Iterable[Piece]) -> None:
        self.inner = inner
        self.path, self.kind, self.mtime, self.identity = inner.path, inner.kind, inner.mtime, inner.identity
        self._pieces = [piece for piece in pieces if piece.size]
        self._ends = list(accumulate(piece.size for piece in self._pieces))
        self.size = self._ends[-1]

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        in_memory, done = True, 0
        for piece, start, count in self._within(offset, len(buffer)):
            in_memory &= piece.source.read_into(start, buffer[done : done + count])
            done += count
        return in_memory

    def will_need(self, offset: int, length: int) -> None:
        for piece, start, count in self._within(offset, length):
            piece.source.will_need(start, count)

    def extents(self) -> tuple[Extent, ...]:
        return join_extents(self._data(), self.size)

    def check_unchanged(self) -> None:
        self.inner.check_unchanged()

    def interrupt(self) -> None:
        self.inner.interrupt()

    def rewind(self) -> None:
        self.inner.rewind()

    def close(self) -> None:
        self.inner.close()

    def _within(self, offset: int, length: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces of a range: each with the place in its source, and the number of bytes."""
        end = min(offset + length, self.size)
        index = bisect_right(self._ends, offset)
        while offset < end:
            piece, stop = self._pieces[index], self._ends[index]
            count = min(stop, end) - offset
            yield piece, piece.start + piece.size - (stop - offset), count
            offset += count
            index += 1

    def _data(self) -> Iterator[Extent]:
        for piece, stop in zip(self._pieces, self._ends, strict=True):
            start, end = piece.start, piece.start + piece.size
            moved = stop - end
            for each in piece.source.extents():
                first, last = max(each.offset, start), min(each.end, end)
                if first < last:
                    yield Extent(offset=first + moved, length=last - first)
