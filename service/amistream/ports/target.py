"""The contract of a target: where an unbundled image is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class Sink(Protocol):
    """Takes the bytes of one image through two threads. All calls block. Failures are `JobError`."""

    def gather(self, offset: int, data: memoryview) -> Iterator[Any]:
        """Take data of the image, in ascending order, and yield batches for `write`. Gaps are zeros.

        Runs on the thread that produces the data. Each `data` stays valid until `write` has returned for its batch.
        """

    def rest(self) -> Iterator[Any]:
        """Yield the last batches, after all data was gathered."""

    def write(self, gathered: Any) -> None:
        """Write one batch. Runs on a second thread, which may wait for the disk."""

    def stop(self) -> None:
        """Release a thread that is blocked in any other call. From any thread."""


class Target(Sink, Protocol):
    """Takes one image: `open`, then the bytes, then `commit`; or `abandon` if anything fails.

    Failures of `open` are `RefusedError`.
    """

    name: str
    """Path or `-`, for messages and for the result."""

    def open(self, size: int, least: int) -> None:
        """Prepare for an image of `size` bytes, with at least about `least` bytes of data."""

    def commit(self) -> None:
        """Synchronise the image to the disk and give it its name. Called once the image was proved."""

    def abandon(self) -> str:
        """Undo `open`, even if it failed. Never raises. Returns a sentence on what stays behind, or ''."""
