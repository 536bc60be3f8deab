"""The port between the pipeline and a place that keeps bundles. Every adapter passes the same contract tests.

Contract: names are bare file names. Nothing that exists is ever replaced: `put` and `commit` of a name that is
taken raise `StoreError` with code `store.exists`, unless what is there has the very same bytes. Once `put` or
`commit` returns, the bytes are safe there. Failures are `StoreError`; each adapter repeats what is worth repeating,
so a caller never does.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

OnBytes = Callable[[int], None]
"""Called with each number of bytes that was handed to the wire or disk, repeats included."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a place says of an object: its size and, where it keeps one, its checksum (see `Store.checksum`)."""

    size: int
    checksum: str | None

    def is_the(self, size: int, *checksums: str) -> bool:
        """Whether this is the object of `size` bytes and one of the checksums; where none is told, the size must do."""
        # Some S3-compatible stores leave the number of chunks off a composite checksum.
        known = {*checksums, *(checksum.partition("-")[0] for checksum in checksums)}
        return self.size == size and (self.checksum is None or self.checksum in known)


def whole_checksum(sha1: bytes) -> str:
    """The checksum of an object that was stored in one piece: its SHA-1 in base64."""
    return base64.b64encode(sha1).decode()


async def find(store: Store, name: str, size: int) -> Stored | None:
    """What is stored under `name`, or None; read for its checksum only where it has this size.

    Who may write to a place may put a file of any size under a part's name, and reading that takes hours.
    """
    found = await store.stat(name, read=False)
    return await store.stat(name) if found is not None and found == Stored(size, None) else found


class Store(Protocol):
    """One destination of one job."""

    location: str
    """For people and for the result: `s3://bucket/prefix` or a directory, without a trailing slash."""

    async def open(self) -> None:
        """Make the place ready, or raise `StoreError`; called once, before the first `put`."""

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        """What `stat` will show once `data` is stored under `name`: its SHA-1 in base64, or one made from it."""

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        """Store `data`, whose SHA-1 is given so that it is never computed again. `data` may be reused afterwards."""

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        """Store the manifest: the moment from which a bundle exists here."""

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        """What is stored under `name`, or None. Where the place keeps no checksum the object is read, and the checksum
        is that of the whole; without `read` none is told then. What is larger than any part is not read, and shows a
        checksum that nothing has. Where the size is known, ask `find`.
        """

    async def read(self, name: str, start: int, length: int) -> bytes:
        """The `length` bytes of the object from `start` on; fewer where it ends before. Absent is a `StoreError`."""

    async def names(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`, sorted."""

    async def delete(self, name: str) -> None:
        """Remove `name` and what an unfinished `put` of it left; absent is well.

        A name that `put` or `commit` found taken is somebody else's and stays.
        """

    async def remove(self, name: str, size: int, *checksums: str) -> None:
        """Remove `name` if it is the object of this size and one of these checksums, and what an unfinished `put` of it
        left here. Anything else under that name is somebody else's and stays; absent is well.
        """

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        """Remove what this job's puts left behind when their process died midway.

        `unfinished` are the names to look for, with their checksums.
        """

    async def close(self) -> None:
        """Let go of the place; with nothing stored, remove what `open` made."""
