"""The contract of a store: a place that takes the parts and the manifest of a bundle.

Names are bare file names. Nothing that exists is ever replaced: `put` and `commit` of a taken name raise `StoreError`
with code `store.exists`, unless the object there has the very same bytes. Once `put` or `commit` returns, the bytes are
durable. Failures are `StoreError`; each adapter repeats requests that are worth repeating, so a caller never does.
Every adapter passes the same contract tests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from amistream.location import S3Location
from amistream.ports.unanswered import Unanswered
from amistream.values import KIB, MIB, Buffer

PIECE = 16 * MIB
"""Bytes that are read at once to compare a whole object."""

Identity = tuple[int, int]
"""A directory's device and inode: another one under the same path has others."""
OnBytes = Callable[[int], None]
"""Called with each number of bytes that was handed to the wire or disk, repeats included."""
NO_CHECKSUM = "-"
"""Equals no real checksum, so such an object never counts as ours."""
LARGEST_CLAIM = 16 * KIB
"""Bytes of a claim that are read: a larger object is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The job that stored an object, by its name on all hosts, and the run of that job, by its id on one host.

    `request` is a digest of the job's request, '' in a mark of an older version.
    """

    job: str
    run: str
    request: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """Size of a stored object and, where the store keeps one, its checksum (see `Store.checksum`).

    `mark` is that of the named job that stored it, where the store keeps marks.
    """

    size: int
    checksum: str | None
    mark: Mark | None = field(default=None, compare=False)

    def is_the(self, size: int, *checksums: str) -> bool:
        """Compare with an object of `size` bytes and one of the checksums; without a known one the size decides."""
        # Some S3-compatible stores leave the number of chunks off a composite checksum.
        known = {*checksums, *(checksum.partition("-")[0] for checksum in checksums)}
        return self.size == size and (self.checksum is None or self.checksum in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClaim:
    """A claim as it was read or put. `version` is another one after each change; a `text` that is too long is empty.

    `made_at` is known of one that was read.
    """

    name: str
    text: bytes
    version: str
    made_at: datetime | None = field(default=None, compare=False)


def sha1_of(data: Buffer) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def whole_checksum(sha1: bytes) -> str:
    """The checksum of an object that was stored in one piece: its SHA-1 in base64."""
    return base64.b64encode(sha1).decode()


async def find(store: Store, name: str, size: int, progress: Callable[[], object] = lambda: None) -> Stored | None:
    """Stat `name`, and read the object for its checksum only if it has this size. Calls `progress` for each piece.

    Anybody who may write to the store may put a file of any size under a part's name, and reading that takes hours.
    """
    found = await store.stat(name, read=False)
    if found != Stored(size, None):
        return found
    return Stored(size, whole_checksum(await read_sha1(store, name, size, progress)))


async def read_sha1(store: Store, name: str, size: int, progress: Callable[[], object] = lambda: None) -> bytes:
    """Read the object's first `size` bytes for their SHA-1. Calls `progress` for each piece."""
    digest = hashlib.sha1(usedforsecurity=False)
    for start in range(0, size, PIECE):
        piece = await store.read(name, start, min(PIECE, size - start))
        await asyncio.to_thread(digest.update, piece)
        progress()
    return digest.digest()


class PartStore(Protocol):
    """A store as the data path sees it."""

    location: str
    """For people and for the result: `s3://bucket/prefix` or a directory, without a trailing slash."""

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        """Compute the checksum that `stat` returns once `data` is stored: its SHA-1 in base64, or one made from it."""

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        """Store `data`, whose SHA-1 is given so that it is not computed again. `data` may be reused afterwards."""


class Store(PartStore, Protocol):
    """One destination of one job."""

    @property
    def made_place(self) -> Identity | None:
        """The place that `open`, or that of an earlier run, made: `close` removes it again if it is empty."""

    @property
    def unanswered(self) -> Unanswered:
        """The requests to make an object here that were given up without an answer."""

    @property
    def keeps_marks(self) -> bool:
        """Each object that a named job stores here shows its `Mark`."""

    async def open(self, *, made_place: Identity | None = None) -> None:
        """Prepare the store, or raise `StoreError`. Called once, before the first `put`.

        `made_place` was made by an earlier run.
        """

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        """Store the manifest: from this moment the bundle exists."""

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        """Return size and checksum of `name`, or None if it is absent.

        A store without checksums reads the object to compute the checksum of the whole; with `read=False` it returns
        none. An object larger than any part is not read, and gets a checksum that equals no other. If the size is
        known, use `find`.
        """

    async def read(self, name: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` on, or fewer at the end. An absent object is a `StoreError`."""

    async def names(self, prefix: str) -> list[str]:
        """List the names that begin with `prefix`, sorted."""

    async def delete(self, name: str) -> None:
        """Delete `name` and the remains of an unfinished `put` of it; absent is no error.

        An object that `put` or `commit` found under a taken name belongs to somebody else and stays.
        """

    async def remove(
        self, name: str, size: int, *checksums: str, progress: Callable[[], object] = lambda: None
    ) -> None:
        """Delete `name` if it has this size and one of these checksums, and the remains of an unfinished `put` of it.

        Any other object under that name belongs to somebody else and stays; absent is no error. `progress` is called
        for each piece of it that is compared.
        """

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        """Delete what this job's puts left behind when their process died.

        `unfinished` maps the names to look for to their checksums.
        """

    async def abandon(self, begin: str, belongs: Callable[[str], bool]) -> None:
        """Delete the remains of unfinished puts, whichever process began them.

        The names begin with `begin`, and `belongs` says of each if it is to be treated so.
        """

    async def sweep(self, begin: str, belongs: Callable[[str], bool], *, made_before: datetime) -> int:
        """Delete objects and the remains of unfinished puts that are older, whichever process made them.

        Their names begin with `begin`, and `belongs` accepts each. Returns how many there were.
        """

    async def read_claim(self, name: str) -> StoredClaim | None:
        """Return the claim as it is now; None if there is none."""

    async def put_claim(self, name: str, text: bytes, *, instead_of: StoredClaim | None) -> StoredClaim:
        """Store a claim, if there still is none, or in place of the one that was read.

        `text` must differ from every other claim's. Of several rivals exactly one succeeds; the others get a
        `RivalError`. A store that cannot do so raises `NotSupportedError`.
        """

    async def remove_claim(self, claim: StoredClaim) -> None:
        """Delete the claim if it is still this one; else nothing happens."""

    async def close(self) -> None:
        """Release the store. If nothing is stored, undo `open`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An object in a listing; its name may contain slashes."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedUpload:
    """An unfinished upload of an object, whose name may contain slashes."""

    name: str
    upload_id: str
    begun_at: datetime


class ObjectStore(Store, Protocol):
    """A store in a service that keeps checksums, lists whole trees, and copies and deletes by itself: S3."""

    def listed(self, prefix: str, *, below: bool = True) -> AsyncIterator[Listed]:
        """List everything whose name begins with `prefix`, sorted by name. `below` includes folders below."""

    def uploads(self, begin: str) -> AsyncIterator[ListedUpload]:
        """List the unfinished uploads of objects whose names begin so, also in folders below."""

    async def copy(self, name: str, source: S3Location, source_name: str, sha1: bytes) -> str | None:
        """Copy an object here within the service, under this store's ACL; return its checksum if the service gives one.

        `sha1` is the expected digest. Raises `StoreError`, with code `store.exists` for a taken name.
        """

    async def delete_all(self, names: Sequence[str]) -> None:
        """Delete whole objects, many with one request; absent is no error."""

    async def version(self, name: str) -> str:
        """The id of the object's version, '' where the store keeps none. Raises `NoObjectError` if it is absent."""

    async def delete_versions(self, versions: Mapping[str, str]) -> None:
        """Delete these versions for good, by object name; absent is no error."""
