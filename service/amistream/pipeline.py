"""THE data path: one pass over a volume, from its bytes to encrypted parts in a store.

`data_path` is the program in one list. Worker threads carry blocks through it (`flow.relay`); the event loop sees
finished parts only, and takes them from a bounded channel to the store. Memory is bounded by
`settings.memory_ceiling`: the parts' buffers are a fixed pool, and when it is empty the workers wait.

A pass may continue an earlier one (`Resumption`): the whole volume is read and hashed again, which proves that it is
unchanged, but only the bytes behind the checkpoint are compressed, encrypted and sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from time import perf_counter
from typing import Any

from amistream.flow.buffers import Buffers
from amistream.flow.channel import Channel
from amistream.flow.gather import task_group
from amistream.flow.priority import wake_promptly
from amistream.flow.relay import Ordered, Parallel, Relay, Step
from amistream.keys import BundleKey
from amistream.plan import Plan, Resumption
from amistream.ports.store import PartStore
from amistream.ports.volume import Volume
from amistream.source.used import UsedView
from amistream.stages.archive import Archive
from amistream.stages.compress import Deflate
from amistream.stages.encrypt import Encrypt
from amistream.stages.join import GzipMember
from amistream.stages.level import AutoLevel
from amistream.stages.read import Read
from amistream.stages.split import Part, Split
from amistream.stages.upload import Ledger, MemoryLedger, Upload
from amistream.values import Checkpoint, Measured, PartMark

BUFFERS_BEYOND_UPLOADS = 2
"""One part being filled and one being handed over, beside those in flight."""
RESUMED = "resumed"
"""Kind of the bytes that an earlier pass compressed."""


class Pipeline:
    """One pass over one volume; used once. Progress is read from its stages while it runs."""

    def __init__(
        self,
        plan: Plan,
        volume: Volume,
        store: PartStore,
        key: BundleKey,
        *,
        slots: AbstractContextManager[Any] | None = None,
        ledger: Ledger | None = None,
        resumption: Resumption | None = None,
        copies: int = 1,
        all_read: Callable[[], object] = lambda: None,
    ) -> None:
        """`slots` shares the cores among pipelines; `ledger` gets every part before it is sent.

        `copies`: the store sends each part to so many places. `all_read` is called, on a worker, behind the last read.
        """
        self.plan = plan
        self.volume = volume
        resumption = resumption or Resumption(mtime=volume.mtime)
        point = resumption.checkpoint
        self.parts_before = resumption.parts
        self._size_before = point.gzip.before.size_in if point else 0
        most_parts = plan.upload_concurrency + BUFFERS_BEYOND_UPLOADS
        self.buffers = Buffers(count=most_parts, size=plan.part_size)
        readable = volume if plan.used is None else UsedView(volume, plan.used)
        self.reader = Read(readable, plan.extents, at_end=all_read)
        self.archive = Archive(
            name=plan.prefix,
            size=volume.size,
            mtime=resumption.mtime,
            extents=plan.extents,
            proof=point.archive if point else None,
        )
        self.deflate = Deflate(
            AutoLevel(self.buffers.used) if plan.level is None else partial(int, plan.level),
            block_size=plan.block_size,
            levels=resumption.levels,
        )
        self.member = GzipMember(point.gzip if point else None)
        before = sum(part.size for part in resumption.parts)
        encrypt = Encrypt(key=key.key.reveal(), iv=point.chain if point else key.iv.reveal(), size_before=before)
        self.split = Split(
            part_size=plan.part_size,
            take_buffer=self.buffers.take,
            parts_before=resumption.parts,
            mark=self._mark,
        )
        self.upload = Upload(
            store, prefix=plan.prefix, buffers=self.buffers, ledger=ledger or MemoryLedger(), copies=copies
        )
        self.made_at: float | None = None
        """When the last part was made, by `perf_counter`."""
        loop = asyncio.get_running_loop()
        # One place for each buffer: `send` never blocks, so workers wait only for buffers.
        self._parts = Channel[Part](most_parts)
        self.relay = Relay(
            self.reader,
            data_path(self.archive, self.deflate, self.member, encrypt, self.split),
            lambda part: asyncio.run_coroutine_threadsafe(self._parts.send(part), loop).result(),
            block_size=plan.block_size,
            release=self._release,
            slots=slots,
            nice=plan.nice,
            resume_at=point.gzip.block if point else 0,
        )

    @property
    def compression(self) -> dict[str, int]:
        """Bytes of the archive by the way they were compressed; `RESUMED`: by an earlier pass."""
        resumed = {RESUMED: self._size_before} if self._size_before else {}
        return resumed | self.deflate.bytes_by_kind

    async def run(self) -> Measured:
        """Store every part; returns the stages' results. Raises the first cause; stored parts stay."""
        wake_promptly()
        try:
            async with task_group() as group:
                group.create_task(self.upload.run(self._parts, self.plan.upload_concurrency), name="upload")
                group.create_task(self._carry(), name="relay")
        finally:
            self._parts.close()
            self.buffers.close()
        await asyncio.to_thread(self.volume.check_unchanged)
        return Measured(
            image_size=self.volume.size,
            archive=self.archive.result(),
            gzip=self.member.result(),
            split=self.split.result(),
        )

    async def _carry(self) -> None:
        try:
            await self.relay.run(self.plan.workers)
        finally:
            self._parts.end()
        self.made_at = perf_counter()

    def _release(self) -> None:
        """Wake the workers that wait for a free buffer, or for a volume that comes from another program."""
        self.buffers.close()
        self.volume.interrupt()

    def _mark(self, part_end: int, chain: bytes) -> PartMark:
        """Record the stream's state at byte `part_end`, where a part ends. Runs on the worker that feeds this block."""
        levels = self.member.take_levels()
        place = self.member.place(part_end)
        if place is None:
            return PartMark(levels=levels)
        archive = self.archive.end_of_block(place.block)
        return PartMark(checkpoint=Checkpoint(gzip=place, archive=archive, chain=chain), levels=levels)


def data_path(
    archive: Archive, deflate: Deflate, member: GzipMember, encrypt: Encrypt, split: Split
) -> tuple[Step, ...]:
    """The stages in order, a line each."""
    return (
        Ordered("archive", archive),  # SHA-1 over the whole tar is serial by nature
        Parallel("compress", deflate),  # most of the work: independent blocks, every core
        Ordered("join", member),  # one gzip member, so in order
        # CBC: each block needs the one before. Encrypt reuses one output buffer; split must copy it before encrypt
        # continues, hence `same_turn`.
        Ordered("encrypt", encrypt, same_turn=True),
        Ordered("split", split, same_turn=True),
    )
