"""Looks for a rival while a conversion's snapshot is not known to AWS: another attempt of the job may have removed it.

AWS may need two minutes to know a new snapshot everywhere. Without this a run whose snapshot was removed would wait as
long, and send blocks to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from amistream.errors import NotVisibleError
from amistream.ports.snapshots import BlockPage, Snapshot, SnapshotOrder, Snapshots, StoredBlock
from amistream.values import Buffer

T = TypeVar("T")

EVERY_S = 2.0
"""Seconds between two looks, however many requests find nothing. Guess."""


class RivalWatch:
    """`Snapshots` that call `look` each time that AWS does not know the snapshot; it raises if there is a rival."""

    def __init__(self, snapshots: Snapshots, look: Callable[[], Awaitable[object]]) -> None:
        self._snapshots = snapshots
        self._look = look
        self._next_look = 0.0

    async def start(self, order: SnapshotOrder) -> Snapshot:
        return await self._snapshots.start(order)

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        await self._watching(self._snapshots.put(snapshot_id, index, data, digest))

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        await self._watching(self._snapshots.complete(snapshot_id, blocks, checksum))

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        return await self._snapshots.find(tag, value)

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        found = await self._snapshots.describe(snapshot_id)
        if found is None:
            await self._ask()
        return found

    async def discard(self, snapshot_id: str) -> None:
        await self._snapshots.discard(snapshot_id)

    async def page(self, snapshot_id: str, *, start: int = 0, page: str = "") -> BlockPage:
        return await self._watching(self._snapshots.page(snapshot_id, start=start, page=page))

    async def get(self, snapshot_id: str, block: StoredBlock) -> bytes:
        return await self._snapshots.get(snapshot_id, block)

    async def _watching(self, request: Awaitable[T]) -> T:
        try:
            return await request
        except NotVisibleError:
            await self._ask()
            raise

    async def _ask(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_look:
            self._next_look = now + EVERY_S
            await self._look()
