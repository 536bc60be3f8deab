"""Read: the volume's data, extent by extent, into buffers that the caller owns, with the kernel reading ahead.

Data on a disk is announced to the kernel before it is read, so that disk and processor work at the same time. Data in
memory is not, since an announcement costs a tenth of reading. Gaps between the extents are holes: they are neither read
nor passed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amistream.ports.volume import Readable
from amistream.values import MIB, Extent

READ_AHEAD = 16 * MIB
_ANNOUNCED_AT_ONCE = 4 * MIB


class Read:
    """The first stage. Calls come one at a time, from any thread."""

    def __init__(
        self,
        volume: Readable,
        extents: Sequence[Extent] | None = None,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        """`extents` ascend and do not touch; None means the whole volume. `at_end` is called behind the last read."""
        whole = (Extent(offset=0, length=volume.size),) if volume.size else ()
        self._volume = volume
        self._at_end = at_end
        self._now = _Cursor(whole if extents is None else extents)
        self._ahead = _Cursor(self._now.extents)
        self._on_disk = False
        """Some data was read from the disk: from then on data is announced to the kernel."""

    @property
    def offset(self) -> int:
        """The position in the volume; its size once everything is read."""
        return self._volume.size if self._now.ended else self._now.position

    def read(self, buffer: memoryview) -> tuple[memoryview, bool]:
        """Fill `buffer` with the next data; returns the filled part, and whether it is the last.

        Raises `SourceError` when the volume cannot be read or ends before its size.
        """
        self._announce(len(buffer))
        filled = 0
        while filled < len(buffer) and not self._now.ended:
            offset, length = self._now.run(len(buffer) - filled)
            in_memory = self._volume.read_into(offset, buffer[filled : filled + length])
            self._on_disk = self._on_disk or not in_memory
            self._now.advance(length)
            filled += length
        if self._now.ended:
            self._at_end()
        return buffer[:filled], self._now.ended

    def _announce(self, wanted: int) -> None:
        """Announce data up to `READ_AHEAD` bytes ahead of the reading, a few MiB at a time."""
        if not self._on_disk:
            return
        if self._ahead.taken < self._now.taken:
            self._ahead.catch_up(self._now)
        missing = self._now.taken + wanted + READ_AHEAD - self._ahead.taken
        if missing < _ANNOUNCED_AT_ONCE:
            return
        while missing > 0 and not self._ahead.ended:
            offset, length = self._ahead.run(missing)
            self._volume.will_need(offset, length)
            self._ahead.advance(length)
            missing -= length


class _Cursor:
    """A place in a list of extents."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.extents = extents
        self.taken = 0
        self._index = 0
        self._inside = 0

    @property
    def ended(self) -> bool:
        return self._index == len(self.extents)

    @property
    def position(self) -> int:
        return self.extents[self._index].offset + self._inside

    def run(self, most: int) -> tuple[int, int]:
        """Offset and length of the next `most` bytes at most, within one extent."""
        return self.position, min(most, self.extents[self._index].end - self.position)

    def catch_up(self, other: _Cursor) -> None:
        """Move to the position of `other`, a cursor in the same list."""
        self.taken, self._index, self._inside = other.taken, other._index, other._inside

    def advance(self, length: int) -> None:
        self.taken += length
        self._inside += length
        if self._inside == self.extents[self._index].length:
            self._index += 1
            self._inside = 0
