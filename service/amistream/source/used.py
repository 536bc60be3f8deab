"""A view of a volume that shows its used blocks alone: all other bytes read as zeros, and are never read.

The archive's extents are joined over small gaps and rounded to whole blocks, so that there are few of them. In free
blocks of a file system such a gap holds deleted files, and must not be read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from amistream.ports.volume import Readable
from amistream.values import Extent


class UsedView:
    """The used blocks of a volume, which stays the caller's. Calls may come from several threads at once."""

    def __init__(self, volume: Readable, used: Sequence[Extent]) -> None:
        """`used` ascend and do not touch."""
        self.size = volume.size
        self._volume = volume
        self._used = used

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        in_memory, done = True, 0
        for start, end in self._within(offset, len(buffer)):
            buffer[done:start] = bytes(start - done)
            in_memory &= self._volume.read_into(offset + start, buffer[start:end])
            done = end
        buffer[done:] = bytes(len(buffer) - done)
        return in_memory

    def will_need(self, offset: int, length: int) -> None:
        for start, end in self._within(offset, length):
            self._volume.will_need(offset + start, end - start)

    def _within(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The used ranges in a range of the volume, as positions within it."""
        index = bisect_right(self._used, offset, key=lambda each: each.end)
        while index < len(self._used) and self._used[index].offset < offset + length:
            extent = self._used[index]
            yield max(extent.offset - offset, 0), min(extent.end - offset, length)
            index += 1
