"""Read: the volume's bytes, in order, into buffers that the caller owns, with the kernel reading ahead.

It asks the kernel for the bytes that come next before it needs them, so that a cold disk and the processor work at
once.
"""

from __future__ import annotations

from amistream.source.volume import Volume
from amistream.values import MIB

READ_AHEAD = 16 * MIB


class Read:
    """The first stage: calls come one at a time, from any thread."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._offset = 0
        self._announced = 0

    @property
    def offset(self) -> int:
        """Bytes of the volume read so far."""
        return self._offset

    def read(self, buffer: memoryview) -> tuple[memoryview, bool]:
        """Fill `buffer` with what comes next; returns the filled part and whether it is the last.

        Raises `SourceError` when the volume cannot be read or ends before its size.
        """
        wanted = min(len(buffer), self._volume.size - self._offset)
        ahead = min(self._offset + wanted + READ_AHEAD, self._volume.size)
        if ahead - self._announced >= READ_AHEAD // 4 or ahead == self._volume.size != self._announced:
            self._volume.will_need(max(self._announced, self._offset), ahead - self._announced)
            self._announced = ahead
        view = buffer[:wanted]
        self._volume.read_into(self._offset, view)
        self._offset += wanted
        return view, self._offset == self._volume.size
