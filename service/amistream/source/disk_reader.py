"""Reads a volume for the parsers of `disks`."""

from __future__ import annotations

from amistream.ports.volume import Readable
from amistream.source.disks.reading import DoubtError, Reader


def reader_of(volume: Readable) -> Reader:
    """The function that the parsers take. Raises `SourceError` where the volume cannot be read."""

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > volume.size:
            raise DoubtError(f"its tables refer to byte {offset + length}, and the disk ends at byte {volume.size}")
        data = bytearray(length)
        volume.read_into(offset, memoryview(data))
        return bytes(data)

    return read
