"""Read: the volume's bytes in order, announced to the kernel in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.errors import SourceError
from amistream.ports.volume import Kind
from amistream.stages.read import READ_AHEAD, Read
from amistream.values import MIB, Extent


class RecordingVolume:
    """A volume whose bytes depend on their offset; it records all calls."""

    def __init__(self, size: int, *, fails_at: int | None = None, in_memory: int = 0) -> None:
        self.path = Path("/recorded")
        self.identity = Path("/dev/null").stat()
        self.kind = Kind.IMAGE_FILE
        self.size = size
        self.mtime = 0
        self.reads: list[tuple[int, int]] = []
        self.announced: list[tuple[int, int]] = []
        self._fails_at = fails_at
        self._in_memory = in_memory

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        self.reads.append((offset, len(buffer)))
        if self._fails_at is not None and offset + len(buffer) > self._fails_at:
            raise SourceError("source.read_error", f"cannot read at {offset}")
        if len(buffer) < 4096:
            buffer[:] = bytes((offset + place) % 251 for place in range(len(buffer)))
        return offset + len(buffer) <= self._in_memory

    def interrupt(self) -> None:
        pass

    def rewind(self) -> None:
        pass

    def will_need(self, offset: int, length: int) -> None:
        assert self.reads_end() <= offset, "announced after it was read"
        self.announced.append((offset, length))

    def extents(self) -> tuple[Extent, ...]:
        return (Extent(offset=0, length=self.size),)

    def check_unchanged(self) -> None:
        """Do nothing: the volume never changes."""

    def close(self) -> None:
        """Release nothing."""

    def reads_end(self) -> int:
        return self.reads[-1][0] + self.reads[-1][1] if self.reads else 0


def read_all(volume: RecordingVolume, block_size: int) -> bytes:
    reader = Read(volume)
    buffer = memoryview(bytearray(block_size))
    data = b""
    while True:
        view, last = reader.read(buffer)
        assert view.obj is buffer.obj
        data += view
        assert reader.offset == len(data)
        if last:
            return data
        assert len(view) == block_size


@settings(deadline=None)
@given(size=st.integers(0, 3000), block_size=st.integers(1, 1000))
def test_every_byte_once(size: int, block_size: int) -> None:
    """Every byte is read once, in order, in full blocks but for the last, which is reported as such."""
    volume = RecordingVolume(size)
    assert read_all(volume, block_size) == bytes(place % 251 for place in range(size))
    assert len(volume.reads) == -(-size // block_size)


@settings(deadline=None)
@given(size=st.integers(0, 100 * MIB), block_size=st.integers(64 * 1024, 64 * MIB))
def test_read_ahead(size: int, block_size: int) -> None:
    """From a disk every byte behind the first block is announced once, far enough ahead of its reading."""
    volume = RecordingVolume(size)
    reader = Read(volume)
    buffer = memoryview(bytearray(block_size))
    _, last = reader.read(buffer)
    assert volume.announced == []
    covered = reader.offset
    while not last:
        _, last = reader.read(buffer)
        for offset, length in volume.announced:
            assert offset == covered
            assert length > 0
            covered += length
        volume.announced.clear()
        assert covered <= size
        assert covered >= min(size, reader.offset + READ_AHEAD * 3 // 4)
    assert covered == size


def test_nothing_to_announce_in_memory() -> None:
    """Nothing is announced until a read had to wait for the disk."""
    volume = RecordingVolume(256 * MIB, in_memory=100 * MIB)
    reader = Read(volume)
    buffer = memoryview(bytearray(2 * MIB))
    while reader.offset < 100 * MIB:
        reader.read(buffer)
    assert volume.announced == []
    while not reader.read(buffer)[1]:
        pass
    assert volume.announced[0][0] == 102 * MIB
    assert sum(length for _, length in volume.announced) == 154 * MIB


def test_few_announcements() -> None:
    """Small blocks do not cost a system call each: announcements are a quarter of the read-ahead apart."""
    volume = RecordingVolume(64 * MIB)
    reader = Read(volume)
    buffer = memoryview(bytearray(64 * 1024))
    while not reader.read(buffer)[1]:
        pass
    assert len(volume.announced) <= 64 * MIB // (READ_AHEAD // 4)


def test_failure() -> None:
    """A failed read is raised, and the bytes before it count."""
    volume = RecordingVolume(3000, fails_at=1500)
    reader = Read(volume)
    buffer = memoryview(bytearray(1000))
    reader.read(buffer)
    with pytest.raises(SourceError, match="cannot read at 1000"):
        reader.read(buffer)
    assert reader.offset == 1000
