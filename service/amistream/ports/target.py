"""The contract of a target: where an unbundled image is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class Target(Protocol):
    """One image's way out: `open`; the image by way of two threads; `commit` or, if anything fails, `abandon`."""

    name: str

    def open(self, size: int, least: int) -> None:
        """Make ready for an image of `size` bytes of which at least about `least` hold data."""

    def gather(self, offset: int, data: memoryview) -> Iterator[Any]:
        """Take bytes of the image, ascending, from the thread that made them, and yield what `write` is to have.

        What is passed over are zeros.
        """

    def rest(self) -> Iterator[Any]:
        """The image was gathered: yield what is still held."""

    def write(self, gathered: Any) -> None:
        """Send it on its way, on a thread that may wait."""

    def commit(self) -> None:
        """The image was proved: have it on the disk, under its name."""

    def abandon(self) -> str:
        """Undo `open`, which may have failed; returns what cannot be undone, in words, or ''. Does not raise."""

    def stop(self) -> None:
        """Let a thread go that is blocked in any of the others. From any thread."""
