"""Put: many blocks at a time to a snapshot, in any order.

A block's buffer goes back to the pool when the block is stored; when the pool is empty, the stages before it wait.

The ledger has a block's index before the block may exist outside, and its digest once it is stored. Both are entered
in batches, beside the puts: entries cost more than puts where each waits for the disk. After a crash the next pass
sends a batch of stored blocks again, `ENTERED_AT_ONCE` at most, and those that were in flight.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import Protocol

from amistream.errors import AmistreamError, NotVisibleError, StalledError, StoreError, ThrottledError
from amistream.flow.buffers import Buffers
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.channel import Channel
from amistream.flow.gate import STALLED, Gate
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import RETRIES, Alive, RetryPolicy, with_retries
from amistream.ports.snapshots import BLOCK, SnapshotWriter
from amistream.stages.blocks import ZEROS, DigestedBlock, DigestedBlocks

ENTERED_AT_ONCE = 64
"""Blocks that are entered in the ledger together, if so many wait."""
ENTERED_EVERY_S = 1.0
"""Seconds after which fewer stored blocks are entered."""
LONGEST_PUT_S = 20.0
"""An answer that never comes costs so long. Some puts hang for ever (seen with AWS from outside of it)."""
_MOST_PATIENT = 3
"""Factor on that time, at most, for a block that has stalled before."""
_FIRST_WAIT_S = 0.1
_LONGEST_INVISIBLE_S = 5.0
_LONGEST_THROTTLED_S = 1.0
"""Waits of a block that was throttled are short: the gate is what makes the requests fewer. Guess."""


class BlockLedger(Protocol):
    """A job's account of a snapshot's blocks."""

    async def intend(self, indices: Sequence[int]) -> None:
        """Enter blocks before they are sent: from now on each may hold anything, also one that was stored before."""

    async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        """Enter that blocks, by index and SHA-256, are stored."""


class NoLedger:
    """The ledger of a pass that no later one continues."""

    async def intend(self, indices: Sequence[int]) -> None:
        """Nothing to enter."""

    async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        """Nothing to enter."""


class Put:
    """Stores blocks, many at a time; the counters may be read at any time."""

    def __init__(
        self,
        writer: SnapshotWriter,
        snapshot_id: str,
        *,
        puts: int,
        buffers: Buffers,
        retry: RetryPolicy,
        ledger: BlockLedger,
        limit: RateLimit | None = None,
    ) -> None:
        self._writer = writer
        self._snapshot_id = snapshot_id
        self._buffers = buffers
        self._retry = replace(retry, stall_s=min(retry.stall_s, LONGEST_PUT_S))
        self._patience_s = retry.stall_s
        self._ledger = ledger
        self._limit = limit
        self._stored: list[tuple[int, bytes]] = []
        """Blocks that are stored and not entered yet."""
        self._entered_at = monotonic()
        self._last_success = monotonic()
        self._busy_s = 0.0
        self._under_way: set[float] = set()
        self.gate = Gate(puts)
        self.blocks_stored = 0

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the blocks that are being stored, sent or not."""
        return len(self._under_way) * BLOCK

    @property
    def busy_s(self) -> float:
        """Seconds of storing blocks, those under way included, each by itself."""
        now = perf_counter()
        return self._busy_s + sum(now - started for started in self._under_way)

    async def run(self, batches: Channel[DigestedBlocks]) -> None:
        """Store every block until the channel ends. The first failure stops all puts and is raised."""
        ready = Channel[Sequence[DigestedBlock]](1)
        try:
            with closing(batches), closing(ready):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._intend(batches, ready), name="intend")
                    async for blocks in ready:
                        for block in blocks:
                            entered = await self.gate.enter()
                            group.create_task(self._store(block, entered), name=f"put {block.index}")
        except BaseException:
            # The first cause is what the user sees; blocks that are not entered are sent again.
            with suppress(AmistreamError):
                await self._enter_stored()
            raise
        await self._enter_stored()

    async def _intend(self, batches: Channel[DigestedBlocks], ready: Channel[Sequence[DigestedBlock]]) -> None:
        try:
            async for batch in batches:
                blocks = [*batch.blocks]
                while batches.waiting and len(blocks) < ENTERED_AT_ONCE:
                    blocks += batches.receive_nowait().blocks
                await self._ledger.intend([block.index for block in blocks])
                await ready.send(blocks)
        finally:
            ready.end()

    async def _store(self, block: DigestedBlock, entered: float) -> None:
        started = perf_counter()
        self._under_way.add(started)
        try:
            await self._put(block, entered)
        finally:
            self.gate.leave()
        self._under_way.discard(started)
        self._busy_s += perf_counter() - started
        self.blocks_stored += 1
        if block.buffer is not None:
            self._buffers.give(block.buffer)
        self._stored.append((block.index, block.digest))
        late = monotonic() - self._entered_at > ENTERED_EVERY_S
        if late or len(self._stored) >= ENTERED_AT_ONCE:
            await self._enter_stored()

    async def _put(self, block: DigestedBlock, entered: float) -> None:
        """Put one block until it is stored. Raises `StoreError`."""
        data = ZEROS if block.buffer is None else block.buffer
        what = f"put block {block.index} of {self._snapshot_id}"

        async def attempt(_: Alive) -> StoreError | None:
            try:
                await self._writer.put(self._snapshot_id, block.index, data, block.digest)
            except (ThrottledError, NotVisibleError) as refusal:
                return refusal
            return None

        since, stalls = monotonic(), _Stalls()
        for refusals in itertools.count():
            if self._limit is not None:
                await self._limit.wait_for(BLOCK)
            policy = self._retry
            if stalls.in_all:
                # A link that is too slow for the deadline is given more time.
                policy = replace(policy, stall_s=policy.stall_s * min(1 + stalls.in_all, _MOST_PATIENT))
            try:
                refusal = await with_retries(policy, what, attempt, failed=self._failed)
            except StalledError as stalled:
                # It may still be at work, and keep the next one from being taken.
                refusal, since = stalled, monotonic()
            if refusal is None:
                self._last_success = monotonic()
                self.gate.widen()
                return
            longest_s = self._bear(refusal, entered, since, stalls)
            RETRIES[refusal.code] += 1
            most = min(longest_s, _FIRST_WAIT_S * 2 ** min(refusals, 10))
            entered = await self.gate.come_back(random.uniform(0, most))  # noqa: S311 - not a secret

    def _bear(self, refusal: StoreError, entered: float, since: float, stalls: _Stalls) -> float:
        """The longest wait before the put is repeated. Raises the refusal for good if no block at all is taken."""
        if isinstance(refusal, NotVisibleError):
            # The adapter says when it is for good.
            return _LONGEST_INVISIBLE_S
        if isinstance(refusal, ThrottledError):
            self.gate.narrow(entered)
            if monotonic() - max(self._last_success, since) > self._patience_s:
                raise _for_good(refusal, f"no block was taken for {self._patience_s:g} s")
            return _LONGEST_THROTTLED_S
        self.gate.narrow(entered, STALLED)
        if stalls.count(self.blocks_stored) >= self._retry.attempts:
            raise _for_good(refusal, f"tried {stalls.in_all} times")
        return 0

    def _failed(self, error: StoreError) -> None:
        if self._limit is not None:
            self._limit.charge(BLOCK)
        if isinstance(error, StalledError):
            # Repeated here and not there: a link that is too slow for so many puts stalls them all.
            raise error

    async def _enter_stored(self) -> None:
        """Enter the blocks that were stored since."""
        blocks, self._stored = self._stored, []
        self._entered_at = monotonic()
        if blocks:
            await finish_despite_cancel(self._ledger.stored(blocks))


@dataclass(slots=True)
class _Stalls:
    """The stalls of one put."""

    in_all: int = 0
    in_vain: int = 0
    stored: int = 0

    def count(self, stored: int) -> int:
        """Count a stall when so many blocks are stored; returns how many came in a row without a new one."""
        self.in_all += 1
        self.in_vain = self.in_vain + 1 if stored == self.stored else 1
        self.stored = stored
        return self.in_vain


def _for_good(refusal: StoreError, why: str) -> StoreError:
    return refusal.permanent().reworded(message=f"{refusal.message} ({why})")
