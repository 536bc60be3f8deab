"""The contract of snapshots: block storage that takes a disk in blocks of 512 KiB, in any order, and gives them back.

A snapshot begins `pending`: it takes blocks, and nothing of it can be read. Completing it makes it `completed`, after a
while; blocks that were never put read as zeros. It ends in `error` when no block is put for the time in its order.

Each call is one request, which is not repeated; failures are `StoreError`, transient ones say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    tags: Mapping[str, str] = field(default_factory=dict)


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
        """Start a snapshot, or find the one of the same order. After a transient error it may exist or not."""

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        """Store the block of `BLOCK` bytes whose SHA-256 is `digest`. One that is there is replaced."""

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        """End the writing: `blocks` different ones were put, with that `linear_checksum`. One that is complete is no
        failure.
        """

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        """The account's snapshots with this tag. New ones become visible with a delay."""

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        """Describe the snapshot of this id. New ones become visible with a delay."""

    async def discard(self, snapshot_id: str) -> None:
        """Delete the snapshot; one that is gone is no failure."""


class SnapshotReader(Protocol):
    """Reads completed snapshots in one region."""

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        """As `SnapshotWriter.describe`."""

    async def page(self, snapshot_id: str, *, start: int = 0, page: str = "") -> BlockPage:
        """List blocks from the index `start` on, or the page that an earlier one named."""

    async def get(self, snapshot_id: str, block: StoredBlock) -> bytes:
        """The `BLOCK` bytes of a block, compared with the checksum that came with them."""


def linear_checksum(digests: Iterable[bytes]) -> bytes:
    """The checksum of a whole snapshot: SHA-256 over the SHA-256 of its blocks, in ascending order of their index."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest)
    return whole.digest()
