"""The contract of a volume: a run of bytes that the reading stage can read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Protocol

from amistream.values import Extent


class Kind(StrEnum):
    IMAGE_FILE = "image file"
    BLOCK_DEVICE = "block device"
    CONVERTED_IMAGE = "image in another form"
    STREAM = "stream"


class Volume(Protocol):
    """A run of `size` bytes. `read_into` may be called from several threads."""

    path: Path
    kind: Kind
    size: int
    mtime: int
    """Seconds since 1970, for the archive's header."""

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill the whole buffer from `offset` on; says whether all of it was in memory. Raises `SourceError`."""

    def will_need(self, offset: int, length: int) -> None:
        """Tell the kernel what comes next."""

    def extents(self) -> tuple[Extent, ...]:
        """Where data is; the rest reads as zeros. One extent for all where nothing is known."""

    def check_unchanged(self) -> None:
        """Raise `SourceError` when the volume is not what it was when it was opened."""

    def interrupt(self) -> None:
        """Make a read that waits for another program, and every later one, raise `SourceError`. From any thread."""

    def close(self) -> None: ...
