"""THE other path: one pass over an image, from its blocks to an EBS snapshot that is being written.

`block_path` is the program in one list. Worker threads carry batches of blocks through it (`flow.relay`); the event
loop sends the blocks that the snapshot needs, many at a time and in any order. Memory is bounded by
`settings.conversion_ceiling`: the blocks' buffers are a fixed pool, and when it is empty the reading waits.

A pass may continue earlier ones (`Earlier`): the whole image is read and hashed again, and the blocks that the snapshot
has are not sent. In the end it holds what this pass read, whatever changed in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from amistream.flow.buffers import Buffers, BuffersClosedError
from amistream.flow.channel import Channel, ChannelError
from amistream.flow.gather import task_group
from amistream.flow.priority import wake_promptly
from amistream.flow.rate_limit import RateLimit
from amistream.flow.relay import Meter, Ordered, Parallel, Relay, RelayStoppedError, Step
from amistream.flow.retry import RetryPolicy
from amistream.flow.side_worker import StoppedError
from amistream.ports.snapshots import BLOCK, SnapshotWriter
from amistream.ports.volume import Volume
from amistream.settings import BLOCKS_AT_ONCE, conversion_buffers
from amistream.source.used import UsedView
from amistream.stages.blocks import ZEROS, Block, Blocks, Choose, Digest, DigestedBlocks
from amistream.stages.earlier import Earlier
from amistream.stages.put import BlockLedger, NoLedger, Put
from amistream.stages.read import Read
from amistream.values import Extent, LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """The figures of one pass from a volume or bundle to a snapshot. Extents as in `Plan`; a bundle has none."""

    workers: int
    puts: int
    """Blocks in flight."""
    nice: int = 0
    extents: tuple[Extent, ...] | None = None
    used: tuple[Extent, ...] | None = None
    left_out: LeftOut | None = None


class BlockSource(Protocol):
    """The blocks of one image, for one pass."""

    size: int
    """Bytes of the image."""
    lanes: int
    """Threads that make blocks."""

    @property
    def offset(self) -> int:
        """The position in the image up to which it was read; its size in the end."""

    @property
    def share(self) -> float:
        """Share of what has to be read, 0 to 1, that was read: holes are none of it."""

    @property
    def busy_s(self) -> float:
        """Seconds of making blocks, without waiting for buffers."""

    async def supply(self, buffers: Buffers) -> None:
        """Do the work beside the reading. Raises if the blocks are not those of the image: then `read` raises
        `StoppedError`, or waits until `interrupt`.
        """

    def read(self, buffers: Buffers) -> tuple[Sequence[Block], bool]:
        """Give the next blocks, ascending, and True with the last ones. Blocks may be left out: they are zeros.

        Called on threads, one at a time. Raises `BuffersClosedError` or `StoppedError` after a failure elsewhere.
        """

    def interrupt(self) -> None:
        """Make a `read` that waits raise. From any thread."""

    async def prove(self) -> None:
        """Raise if the blocks were not those of the image. Called behind the last `read`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The content of the snapshot, for its completion, and the figures of the pass."""

    image_size: int
    blocks: int
    """Distinct blocks of the snapshot; all others are zeros."""
    checksum: bytes
    blocks_read: int
    blocks_put: int
    blocks_kept: int
    """Blocks that earlier passes put, and this one did not."""


class Conversion:
    """One pass over one image; used once. Progress is read from its counters while it runs."""

    def __init__(
        self,
        plan: ConversionPlan,
        source: BlockSource,
        writer: SnapshotWriter,
        snapshot_id: str,
        *,
        retry: RetryPolicy,
        slots: AbstractContextManager[Any] | None = None,
        ledger: BlockLedger | None = None,
        earlier: Earlier | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        """`slots` shares the cores among jobs; `ledger` gets every block before it is sent; `limit` slows the puts."""
        self.plan = plan
        self.source = source
        count = conversion_buffers(workers=plan.workers, puts=plan.puts)
        self.buffers = Buffers(count=count, size=BLOCK, wake_at=BLOCKS_AT_ONCE)
        self.choose = Choose(self.buffers.give, earlier or Earlier())
        self.put = Put(
            writer,
            snapshot_id,
            puts=plan.puts,
            buffers=self.buffers,
            retry=retry,
            ledger=ledger or NoLedger(),
            limit=limit,
        )
        self.hashed_at: float | None = None
        """When the last block was hashed, by `perf_counter`."""
        self._loop = asyncio.get_running_loop()
        # Bounded by the pool: each block in it holds a buffer, or takes the place of one of an earlier pass.
        self._blocks = Channel[DigestedBlocks]()
        self._relay = Relay(
            _Reader(source, self.buffers),
            block_path(Digest(self.buffers.give), self.choose),
            self._hand_over,
            block_size=0,
            release=self._release,
            slots=slots,
            nice=plan.nice,
        )

    @property
    def blocks_read(self) -> int:
        """Blocks read so far; those that hold no data are not among them."""
        return self._relay.read_meter.bytes_out // BLOCK

    @property
    def blocks_settled(self) -> int:
        """Blocks of those read that need no more work: stored now or by earlier passes, or zeros."""
        return self.blocks_read - (self._relay.meters["choose"].bytes_out // BLOCK - self.put.blocks_stored)

    @property
    def meters(self) -> tuple[Meter, ...]:
        """The counters of the stages, in the path's order. `put` waits: seconds that the reading waited for it."""
        digest = self._relay.meters["hash"]
        sent = self.put.blocks_stored * BLOCK
        return (
            Meter("read", self._relay.read_meter.bytes_out, self.source.busy_s),
            Meter("hash", digest.bytes_out, digest.busy_s, digest.waiting_s),
            Meter("put", sent, self.put.busy_s, self.buffers.waited_s),
        )

    async def run(self) -> Converted:
        """Store every block; returns the snapshot's content. Raises the first cause; stored blocks stay."""
        wake_promptly()
        try:
            async with task_group() as group:
                group.create_task(self.source.supply(self.buffers), name="supply")
                group.create_task(self.put.run(self._blocks), name="put")
                group.create_task(self._carry(), name="relay")
        finally:
            self._blocks.close()
            self.buffers.close()
        if self.hashed_at is None:
            raise self._relay.cause or RelayStoppedError
        await self.source.prove()
        content = self.choose.result()
        return Converted(
            image_size=self.source.size,
            blocks=content.blocks,
            checksum=content.checksum,
            blocks_read=self.blocks_read,
            blocks_put=self.put.blocks_stored,
            blocks_kept=content.kept,
        )

    async def _carry(self) -> None:
        try:
            await self._relay.run(self.plan.workers)
        except (StoppedError, BuffersClosedError):
            # The cause is in `supply` or `put`, which raises it. `run` sees that not all was read.
            return
        finally:
            self._blocks.end()
        self.hashed_at = perf_counter()

    def _hand_over(self, blocks: DigestedBlocks) -> None:
        """Let the event loop put the blocks, which no worker waits for."""
        self._loop.call_soon_threadsafe(self._offer, blocks)

    def _offer(self, blocks: DigestedBlocks) -> None:
        # Nobody takes them once the puts have failed, which ends the pass.
        with suppress(ChannelError):
            self._blocks.send_nowait(blocks)

    def _release(self) -> None:
        """Wake the workers that wait for a free buffer, or for blocks."""
        self.buffers.close()
        self.source.interrupt()


def block_path(digest: Digest, choose: Choose) -> tuple[Step, ...]:
    """The stages in order, a line each."""
    return (
        Parallel("hash", digest),  # zeros are found, all others hashed: independent blocks, every core
        Ordered("choose", choose),  # the snapshot's checksum takes the digests in order
    )


class _Reader:
    """The source as the relay reads it."""

    def __init__(self, source: BlockSource, buffers: Buffers) -> None:
        self._source = source
        self._buffers = buffers

    def read(self, _: memoryview) -> tuple[Blocks, bool]:
        blocks, last = self._source.read(self._buffers)
        return Blocks(blocks), last


class VolumeBlocks:
    """The blocks of a volume that its extents touch."""

    lanes = 1

    def __init__(self, volume: Volume, plan: ConversionPlan, *, all_read: Callable[[], object] = lambda: None) -> None:
        """The volume stays the caller's. `all_read` is called, on a worker, behind the last read."""
        self.size = volume.size
        self._volume = volume
        data = plan.extents if plan.used is None else plan.used
        readable, runs = (volume, None) if data is None else (UsedView(volume, data), _whole_blocks(data, volume.size))
        self._reader = Read(readable, runs, at_end=all_read)
        self._bytes_total = volume.size if runs is None else sum(each.length for each in runs)
        self._bytes_done = 0
        self.busy_s = 0.0

    @property
    def offset(self) -> int:
        return self._reader.offset

    @property
    def share(self) -> float:
        return self._bytes_done / self._bytes_total if self._bytes_total else 1.0

    async def supply(self, buffers: Buffers) -> None:
        """Nothing: all work is reading."""

    def read(self, buffers: Buffers) -> tuple[list[Block], bool]:
        blocks: list[Block] = []
        last = False
        while not last and len(blocks) < BLOCKS_AT_ONCE:
            buffer = buffers.take()
            started = perf_counter()
            # The runs are whole blocks, so each read is one, or the rest of the volume.
            index = self._reader.offset // BLOCK
            filled, last = self._reader.read(buffer)
            buffer[len(filled) :] = ZEROS[len(filled) :]
            self.busy_s += perf_counter() - started
            self._bytes_done += len(filled)
            if filled:
                blocks.append(Block(index, buffer))
            else:
                buffers.give(buffer)
        return blocks, last

    def interrupt(self) -> None:
        self._volume.interrupt()

    async def prove(self) -> None:
        await asyncio.to_thread(self._volume.check_unchanged)


def _whole_blocks(extents: Sequence[Extent], size: int) -> list[Extent]:
    """The blocks that ascending extents touch, joined where they do; the last one ends with the volume."""
    runs: list[Extent] = []
    for extent in extents:
        start, end = extent.offset // BLOCK * BLOCK, min(-(-extent.end // BLOCK) * BLOCK, size)
        if runs and start <= runs[-1].end:
            start = runs.pop().offset
        runs.append(Extent(offset=start, length=end - start))
    return runs
