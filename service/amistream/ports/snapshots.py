"""The contract of snapshots: block storage that takes a disk in blocks of 512 KiB, in any order, and gives them back.

A snapshot begins `pending`: it takes blocks, and nothing of it can be read. Completing it makes it `completed`, after a
while; blocks that were never put read as zeros. It ends in `error` when no block is put for the time in its order.

Each call is one request, which is not repeated; failures are `StoreError`s, and transient ones say so:

    ThrottledError      fewer requests at a time succeed
    NotVisibleError     started, or completed, within the last two minutes, and not known everywhere yet; after that
                        time the same failure is a NoSnapshotError, which is permanent
    NoSnapshotError     the snapshot does not exist
    NotPendingError     the snapshot is complete or failed, and takes no blocks; or pending, and cannot be read
    StaleTokenError     the token of a block or page is no longer valid: list again
    DeniedError         the credentials, or those of the KMS key, do not permit it

Calls may run at the same time, `put` and `get` as many as the settings allow. A call has no deadline of its own that
counts bytes: the caller's `asyncio.timeout` ends it, and a cancelled request closes its connection. After a cancel or a
transient failure a request may have been done or not, and `put` may still be done a moment later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from amistream.values import KIB, Buffer

BLOCK = 512 * KIB
"""Bytes of a block. AWS limit."""
ZERO_DIGEST = hashlib.sha256(bytes(BLOCK)).digest()
MOST_PENDING = 100
"""Pending snapshots of an account in a region. AWS limit."""


class SnapshotState(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOrder:
    """The words of a new snapshot. The same `token` with the same words gives the same snapshot."""

    token: str
    """At most 64 ASCII characters."""
    volume_gib: int
    """Size of the volumes made of it, in GiB."""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    encrypted: bool = False
    kms_key_id: str = ""
    """The ARN of a KMS key, which means `encrypted`. Empty: the account's default key, if `encrypted`."""
    timeout_min: int = 60
    """Minutes without a new block after which it fails, 10 to 4320."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot as EC2 describes it."""

    id: str
    state: SnapshotState
    volume_gib: int
    progress: str = ""
    reason: str = ""
    """Why it failed."""
    encrypted: bool = False
    kms_key_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    started_at: datetime | None = None
    """By the clock of AWS, with a time zone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlock:
    """A block of a completed snapshot. `token` fetches it, for some days."""

    index: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPage:
    """A page of a listing: ascending blocks, perhaps none. `next_page` is '' behind the last one."""

    blocks: Sequence[StoredBlock]
    next_page: str
    volume_gib: int


class SnapshotWriter(Protocol):
    """Makes snapshots in one region."""

    async def start(self, order: SnapshotOrder) -> Snapshot:
        """Start a snapshot, or find the one of the same order. After a transient error it may exist or not.

        An order whose snapshot was deleted or ended in `error` gives that snapshot again: another one needs another
        token. The same token with other words is refused.
        """

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        """Store the block of `BLOCK` bytes whose SHA-256 is `digest`. One that is there is replaced.

        `data` is sent without being copied, and must not change before this returns.
        """

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        """End the writing: `blocks` different ones were put, with that `linear_checksum`.

        A snapshot that is complete already is no failure. It becomes `completed` later: `describe` shows when.
        """

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        """The account's snapshots with this tag. New ones become visible with a delay."""

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        """Describe the snapshot of this id. New ones become visible with a delay."""

    async def discard(self, snapshot_id: str) -> None:
        """Delete the snapshot, in whatever state; one that is gone is no failure, one that an AMI uses is."""


class SnapshotReader(Protocol):
    """Reads completed snapshots in one region."""

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        """As `SnapshotWriter.describe`."""

    async def page(self, snapshot_id: str, *, start: int = 0, page: str = "") -> BlockPage:
        """List blocks from the index `start` on, or the page that an earlier one named.

        The tokens of its blocks are valid for days, and that of the next page for an hour.
        """

    async def get(self, snapshot_id: str, block: StoredBlock) -> bytes:
        """The `BLOCK` bytes of a block, compared with the SHA-256 that came with them."""


class Snapshots(SnapshotWriter, SnapshotReader, Protocol):
    """Makes and reads snapshots in one region."""


def linear_checksum(digests: Iterable[bytes]) -> bytes:
    """The checksum of a whole snapshot: SHA-256 over the SHA-256 of its blocks, in ascending order of their index."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest)
    return whole.digest()
