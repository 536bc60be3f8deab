"""The contract of a volume: a run of bytes that the reading stage can read."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from amistream.values import Extent


class Kind(StrEnum):
    IMAGE_FILE = "image file"
    BLOCK_DEVICE = "block device"
    CONVERTED_IMAGE = "image of a virtual machine"
    STREAM = "stream"
    TREE = "directory tree"
    SNAPSHOT = "EBS snapshot"


class Readable(Protocol):
    """A run of `size` bytes. Its calls block: use them on threads.

    `read_into` may be called from several threads at once. Failures are `SourceError`.
    """

    size: int

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill the whole buffer from `offset` on. Returns True when all of it was in memory already."""

    def will_need(self, offset: int, length: int) -> None:
        """Announce the bytes that are read next. Does not wait."""


class Volume(Readable, Protocol):
    """The bytes of a source, open from its construction until `close`."""

    path: Path
    kind: Kind
    mtime: int
    """Seconds since 1970, for the archive's header."""
    identity: os.stat_result
    """State of the file, device or pipe when it was opened, whatever has its name now."""

    def extents(self) -> tuple[Extent, ...]:
        """List the parts that hold data, ascending; everything else reads as zeros. One extent if nothing is known."""

    def check_unchanged(self) -> None:
        """Raise `SourceError` if the volume was written to since it was opened."""

    def interrupt(self) -> None:
        """Make a read that waits for another program, and every later one, raise `SourceError`. From any thread."""

    def rewind(self) -> None:
        """Prepare for reading from the start again, also after `interrupt`. No read may be in progress."""

    def close(self) -> None:
        """Release everything that the volume holds. Called once, with no read in progress."""
