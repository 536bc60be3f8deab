"""Upload: several parts at a time from the channel of finished parts to the store, in any order.

A part's buffer goes back to the pool when the part is stored; when the pool is empty, the stages before it wait.

A part is entered in the ledger before it is sent: the parts sent under a key are known even if the process dies, and
no other bytes are ever sent in their place.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Protocol

from amistream.flow.buffers import Buffers
from amistream.flow.channel import Channel
from amistream.ports.store import PartStore
from amistream.stages.split import Part
from amistream.values import PartDigest, PartMark, part_name


class Ledger(Protocol):
    """A job's account of its parts."""

    async def seal(self, part: PartDigest, mark: PartMark, checksum: str) -> bool:
        """Enter a part before it is sent; returns whether it is stored already. Called in the parts' order.

        Raises `ChangedError` when another part was entered under this number.
        """

    async def stored(self, part: PartDigest) -> None:
        """Enter that the part is stored."""


class MemoryLedger:
    """The ledger of a pass that no later one continues. `sent` holds each part with its checksum."""

    def __init__(self) -> None:
        self.sent: list[tuple[PartDigest, str]] = []

    async def seal(self, part: PartDigest, mark: PartMark, checksum: str) -> bool:
        del mark
        self.sent.append((part, checksum))
        return False

    async def stored(self, part: PartDigest) -> None:
        """Nothing to enter."""


@dataclass(slots=True, eq=False)
class _Put:
    """A part under way."""

    size: int
    started: float = field(default_factory=perf_counter)
    sent: int = 0


class Upload:
    """Stores parts, several at a time; the counters may be read at any time."""

    def __init__(self, store: PartStore, *, prefix: str, buffers: Buffers, ledger: Ledger, copies: int = 1) -> None:
        """`copies`: the store sends each part to so many places."""
        self._store = store
        self._copies = copies
        self._under_way: list[_Put] = []
        self._busy_s = 0.0
        self._ledger = ledger
        self._sealing = asyncio.Lock()
        self._sealed = True
        """Every part so far was entered: no part is sent after one that could not be."""
        self._prefix = prefix
        self._buffers = buffers
        self.parts_stored = 0
        self.bytes_stored = 0
        self.bytes_sent = 0
        """Bytes handed to the wire or disk, repeats included."""

    @property
    def bytes_under_way(self) -> int:
        """Bytes sent of parts that are not stored yet, each counted once."""
        return sum(min(put.size, put.sent // self._copies) for put in self._under_way)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the parts that are being stored, sent or not."""
        return sum(put.size for put in self._under_way)

    @property
    def busy_s(self) -> float:
        """Seconds of storing parts, those under way included, each by itself."""
        now = perf_counter()
        return self._busy_s + sum(now - put.started for put in self._under_way)

    async def run(self, parts: Channel[Part], concurrency: int) -> None:
        """Store every part until the channel ends. The first failure stops all uploads and is raised."""
        with closing(parts):
            async with asyncio.TaskGroup() as group:
                for number in range(concurrency):
                    group.create_task(self._store_from(parts), name=f"upload {number}")

    async def _store_from(self, parts: Channel[Part]) -> None:
        async for part in parts:
            name = part_name(self._prefix, part.digest.index)
            # The lock is fair, and nothing waits between receiving and locking: parts are sealed in their order.
            async with self._sealing:
                if not self._sealed:
                    return
                self._sealed = False
                checksum = await self._store.checksum(name, part.data, part.digest.sha1)
                is_stored = await self._ledger.seal(part.digest, part.mark, checksum)
                self._sealed = True
            if not is_stored:
                put = _Put(len(part))
                self._under_way.append(put)
                await self._store.put(name, part.data, part.digest.sha1, partial(self._sent, put))
                await self._ledger.stored(part.digest)
                self._under_way.remove(put)
                self._busy_s += perf_counter() - put.started
            self.parts_stored += 1
            self.bytes_stored += len(part)
            part.data.release()
            self._buffers.give(part.buffer)

    def _sent(self, put: _Put, count: int) -> None:
        put.sent += count
        self.bytes_sent += count
