"""The blocks of a bundle's image: the way back as the source of a conversion.

The bundle is unpacked beside the reading, block by block into the conversion's buffers. The last blocks are followed
by the end only once the image is proved: the digest of each part, and the SHA-1 of the whole archive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from amistream.bundles.fetch import NARROW
from amistream.bundles.meter import Meter
from amistream.bundles.unlocked import Unlocked
from amistream.bundles.way_back import Unpacking
from amistream.flow.buffers import Buffers
from amistream.flow.side_worker import Channel
from amistream.ports.snapshots import BLOCK
from amistream.settings import BLOCKS_AT_ONCE
from amistream.stages.blocks import ZEROS, Block

_QUEUED = 1
"""Batches of blocks that wait for a worker. The conversion's buffers are counted for one."""


class BundleBlocks:
    """The blocks of one bundle, for one pass; also the sink of its unpacking."""

    def __init__(
        self,
        unlocked: Unlocked,
        meter: Meter,
        *,
        workers: int,
        slots: AbstractContextManager[Any] | None = None,
        nice: int = 0,
    ) -> None:
        """`meter` is of this pass alone; `slots` and `nice` as for the conversion."""
        self.size = unlocked.bundle.manifest.size
        self._unlocked = unlocked
        self._meter = meter
        self._bytes_total = sum(part.size for part in unlocked.parts)
        self._unpacking = Unpacking(
            unlocked.bundle.place.store,
            unlocked.bundle.manifest,
            unlocked.key,
            self,
            meter,
            thorough=False,
            workers=workers,
            slots=slots,
            nice=nice,
            window=NARROW,
        )
        self.lanes = self._unpacking.workers
        self._batches: Channel[list[Block]] = Channel(_QUEUED)
        self._remaining = iter(self._batches)
        self._buffers: Buffers | None = None
        self._batch: list[Block] = []
        self._index = -1
        """The block that is being filled."""
        self._buffer = memoryview(b"")
        self._filled = BLOCK
        self.offset = 0

    @property
    def share(self) -> float:
        return self._meter.bytes_done / self._bytes_total

    @property
    def busy_s(self) -> float:
        return self._unpacking.busy_s

    async def supply(self, buffers: Buffers) -> None:
        """Unpack the bundle and prove its image. Raises `DifferenceError`, `StoreError`."""
        self._buffers = buffers
        try:
            proved = self._unlocked.check(await self._unpacking.run(self._unlocked.parts))
        except BaseException:
            self._batches.break_off()
            raise
        # Unpacking that was stopped has no content: the cause is elsewhere.
        if proved is None:
            self._batches.break_off()
        else:
            self.offset = self.size
            self._batches.end()

    def read(self, buffers: Buffers) -> tuple[list[Block], bool]:
        """Give the blocks that were unpacked. Raises `StoppedError` when there will be no more."""
        del buffers
        batch = next(self._remaining, None)
        return batch or [], batch is None

    def interrupt(self) -> None:
        self._batches.close()

    async def prove(self) -> None:
        """Nothing: there is no last read without proof."""

    def gather(self, offset: int, data: memoryview) -> Iterator[list[Block]]:
        """Copy bytes of the image, in ascending order, into blocks. Gaps are zeros. Yields nothing.

        Waits while all buffers are in use. Raises `BuffersClosedError` or `StoppedError` when stopped.
        """
        while data:
            index, inside = divmod(offset, BLOCK)
            if index != self._index:
                self._begin(index)
            self._clear(inside)
            taken = data[: BLOCK - inside]
            self._buffer[inside : inside + len(taken)] = taken
            self._filled = inside + len(taken)
            offset += len(taken)
            data = data[len(taken) :]
        self.offset = offset
        yield from ()

    def rest(self) -> Iterator[list[Block]]:
        """Hand over the last blocks. Yields nothing."""
        self._clear(BLOCK)
        if self._batch:
            self._batches.put(self._batch)
        yield from ()

    def write(self, gathered: list[Block]) -> None:
        """Nothing: blocks are handed over where they are filled."""

    def stop(self) -> None:
        """Release a thread that waits to hand over blocks, or for a buffer: none is needed any more."""
        self._batches.break_off()
        if self._buffers is not None:
            self._buffers.close()

    def _begin(self, index: int) -> None:
        self._clear(BLOCK)
        if len(self._batch) == BLOCKS_AT_ONCE:
            self._batches.put(self._batch)
            self._batch = []
        assert self._buffers is not None  # noqa: S101 - for the type checker: `supply` has begun
        self._index, self._buffer, self._filled = index, self._buffers.take(), 0
        self._batch.append(Block(index, self._buffer))

    def _clear(self, end: int) -> None:
        """Fill the block with zeros up to `end`."""
        if end > self._filled:
            self._buffer[self._filled : end] = ZEROS[: end - self._filled]
            self._filled = end
