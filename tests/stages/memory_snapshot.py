"""A writer of snapshots in memory, with faults by script, and the ledger of a pass in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from amistream.ports.snapshots import BLOCK, Snapshot, SnapshotOrder, linear_checksum
from amistream.stages.earlier import Earlier
from amistream.values import Buffer

BeforePut = Callable[[int, int], Awaitable[None]]
"""Called with the number of the put, from 0, and the index of the block."""


async def at_once(number: int, index: int) -> None:
    """Let every put through."""
    del number, index
    await asyncio.sleep(0)


class MemorySnapshot:
    """One pending snapshot; `blocks` may be there from earlier passes."""

    def __init__(self, blocks: dict[int, bytes] | None = None, before: BeforePut = at_once) -> None:
        self.blocks = dict(blocks or {})
        self.puts: list[int] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._before = before

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        del snapshot_id
        number = len(self.puts)
        self.puts.append(index)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._before(number, index)
        finally:
            self.in_flight -= 1
        assert len(data) == BLOCK
        assert hashlib.sha256(data).digest() == digest
        self.blocks[index] = bytes(data)

    def checksum(self) -> bytes:
        """LINEAR over the blocks that are there."""
        return linear_checksum(hashlib.sha256(self.blocks[index]).digest() for index in sorted(self.blocks))

    def image(self, size: int) -> bytes:
        """Make the first `size` bytes of the volume."""
        whole = bytearray(-(-size // BLOCK) * BLOCK)
        for index, data in self.blocks.items():
            assert index * BLOCK < size, f"block {index} is outside of the image"
            whole[index * BLOCK : (index + 1) * BLOCK] = data
        assert not any(whole[size:]), "the last block is not padded with zeros"
        return bytes(whole[:size])

    async def start(self, order: SnapshotOrder) -> Snapshot:
        raise NotImplementedError

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        raise NotImplementedError

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        raise NotImplementedError

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        raise NotImplementedError

    async def discard(self, snapshot_id: str) -> None:
        raise NotImplementedError


class MemoryBlockLedger:
    """Holds what a journal would hold; `earlier` is what a later pass starts from."""

    def __init__(self, earlier: Earlier | None = None) -> None:
        known = dict(earlier or ())
        self.digests = {index: digest for index, digest in known.items() if digest is not None}
        self.open = known.keys() - self.digests.keys()
        self.batches: list[int] = []

    async def intend(self, indices: Sequence[int]) -> None:
        await asyncio.sleep(0)
        for index in indices:
            self.digests.pop(index, None)
            self.open.add(index)
        self.batches.append(len(indices))

    async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        await asyncio.sleep(0)
        for index, digest in blocks:
            assert index in self.open, f"block {index} was put before it was intended"
            self.open.remove(index)
            self.digests[index] = digest

    def earlier(self) -> Earlier:
        return earlier_of(self.digests, self.open)


def earlier_of(stored: Mapping[int, bytes], intended: Iterable[int] = ()) -> Earlier:
    """The blocks of earlier passes."""
    earlier = Earlier()
    for index in intended:
        earlier.intend(index)
    for index, digest in stored.items():
        earlier.store(index, digest)
    return earlier
