"""One run of a conversion: check, convert, commit, register; from the start, or from where an earlier run stopped.

The journal is always a step ahead of what exists outside: the order is in it before the snapshot is started, each
block before it is sent, the snapshot's content before it is completed, and that an AMI may exist before it is
registered. So a later run can finish or remove what a crash left, and find what became of an unanswered request.

A later run reads and hashes the whole image again, and sends what differs: the snapshot holds what the last pass read.
A snapshot that is lost, because EBS has given it up or somebody has deleted it, is replaced by another one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import datetime
from typing import ClassVar

from amistream.aws.ebs_errors import REFUSED_VALUE
from amistream.checks.conversion import ReadyConversion, VolumeSource, check_conversion
from amistream.checks.conversion_context import ConversionContext
from amistream.errors import NotPendingError, StoreError
from amistream.events import ConversionResult, State
from amistream.flow.undo import Progress
from amistream.jobs.block_ledger import JournaledBlocks, load_blocks
from amistream.jobs.conversion_handover import find_done, remove_others, take_over
from amistream.jobs.conversion_pass import make_pass
from amistream.jobs.conversion_records import ConversionRecord
from amistream.jobs.conversion_removal import remove_conversion
from amistream.jobs.job import Job
from amistream.jobs.own_snapshot import OwnSnapshot
from amistream.jobs.records import JournalEntry
from amistream.jobs.reporting import reporting
from amistream.jobs.run import Shared
from amistream.jobs.tree_report import report_tree
from amistream.request.convert import ConvertRequest
from amistream.stages.register import RegistrationAttempt
from amistream.values import GIB, STANDARD_INPUT

MOST_ATTEMPTS = 3
"""Snapshots that one run begins at most: one that is lost again and again is no accident. Guess."""


class ConvertRun:
    """One run of a conversion (`run.Run`)."""

    KEEPS: ClassVar[str] = "stored blocks"
    ONLY_READS: ClassVar[bool] = False

    def __init__(self, job: Job, record: ConversionRecord | None, blocks: JournaledBlocks, shared: Shared) -> None:
        """`record` and `blocks` are the journal's of earlier runs; the run keeps its copy up to date.

        Raises `JobError` where the settings of an earlier run must not hold.
        """
        request = job.request
        assert isinstance(request, ConvertRequest)  # noqa: S101 - for the type checker; `load_run` has chosen this run
        settings = shared.settings
        self._job = job
        self._request = request
        self._shared = shared
        self._context = ConversionContext(
            request,
            settings,
            shared.aws,
            job.id,
            roots=job.roots(settings),
            settled=record.converting if record else None,
            name=job.name,
            check=job.check_lease,
        )
        self._own = OwnSnapshot(job, request, self._context, shared, record=record, blocks=blocks)
        self._image_id: str | None = None
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self.result: ConversionResult | None = record.result if record else None
        self.resumed = record is not None
        self.finished = False

    @classmethod
    async def load(cls, job: Job, entry: JournalEntry, shared: Shared) -> ConvertRun:
        """The run of a job with the record of earlier runs. Raises as the constructor does, and `JournalError`."""
        del entry
        records = shared.journal.conversions
        return cls(job, await records.find(job.id), await load_blocks(records, job.id), shared)

    @property
    def kept(self) -> int:
        return self._own.blocks.count

    @property
    def worth_keeping(self) -> bool:
        return not self._own.is_lost and (self.kept > 0 or self.result is not None)

    @property
    def stays(self) -> tuple[str, ...]:
        """Nothing: a conversion is finished as a whole."""
        return ()

    @property
    def late_until(self) -> datetime | None:
        """None: an AMI is not registered from a snapshot that is gone, and a start without an answer is repeated."""
        return None

    async def run(self) -> ConversionResult:
        await self._move(State.CHECKING)
        if (done := await find_done(self._own)) is not None:
            self.result, self.finished = done, True
            self._job.move(State.COMMITTING)
            return self.conclude()
        if self._own.record is None:
            self.result = None
        async with AsyncExitStack() as stack:
            if not await self._is_filled():
                await self._convert(stack)
            await self._move(State.COMMITTING)
            await self._complete()
            # Of a snapshot that was completed too late nothing is registered, and nothing said.
            await self._job.confirm()
            await self._register()
            await remove_others(self._own)
        return self.conclude()

    def conclude(self) -> ConversionResult:
        result, record = self.result, self._own.record
        assert result is not None  # noqa: S101 - for the type checker; it is finished
        if record is None:
            return result  # an earlier attempt's on another host
        registration = record.converting.registration
        self.result = result.model_copy(
            update={
                "image_id": self._image_id,
                "image_name": registration.name if registration else None,
                "elapsed_s": round(time.perf_counter() - self._started, 3),
                "cpu_s": round(time.process_time() - self._cpu_started, 3),
            }
        )
        return self.result

    async def undo(self, progress: Progress) -> None:
        own, job = self._own, self._job
        if own.record is None:
            return  # neither this run nor an earlier one has begun
        if job.name and job.lease is None and await own.is_completed():
            # Another attempt may have taken it for the outcome of the job.
            job.note(f"{own.snapshot_id} is completed, and stays: it may be the outcome of {job.name!r}")
            return
        ec2 = await self._context.ec2(own.record.converting.region)
        await remove_conversion(own.record, await own.reach(), ec2, own.registration, progress)

    async def _is_filled(self) -> bool:
        """An earlier run has stored every block in a snapshot that is not lost."""
        if self.result is None or await self._own.why_lost():
            return False
        self._job.note(f"every block of {self._own.snapshot_id} is stored already: the source is not read again")
        return True

    async def _convert(self, stack: AsyncExitStack) -> None:
        """Store every block, and enter the content of the snapshot."""
        self.result, own = None, self._own
        ready = await check_conversion(self._context, self._job.note)
        stack.push_async_callback(ready.close)
        why = await self._why_anew(ready) if own.record else ""
        await self._move(State.CONVERTING)
        if own.record is None or own.record.snapshot == "":
            self.result = await take_over(own, ready)
            if self.result is not None:
                return
            await own.begin(ready)
        elif why:
            await self._begin_anew(ready, why)
        while True:
            try:
                self.result = await self._pass(ready)
            except StoreError:
                why = await own.why_lost_now()
                # Standard input cannot be read again.
                if not why or own.begun >= MOST_ATTEMPTS or self._request.source == STANDARD_INPUT:
                    raise
            else:
                await own.enter_content(self.result)
                return
            await self._begin_anew(ready, why)
            if isinstance(ready.source, VolumeSource):
                await asyncio.to_thread(ready.source.volume.rewind)

    async def _why_anew(self, ready: ReadyConversion) -> str:
        """The reason why the snapshot of earlier runs is of no use; '' if it is, or there is none."""
        known = self._own.known
        if known.snapshot == "":
            return ""
        if known.snapshot is None:
            await self._own.start(fresh=False)
        if known.converting.image_size != ready.image_size:
            before, now = known.converting.image_size, ready.image_size
            return f"{self._request.source} had {before} bytes and has {now}"
        return await self._own.why_lost()

    async def _begin_anew(self, ready: ReadyConversion, why: str) -> None:
        """Begin another snapshot, once the lost one is removed."""
        await self._own.check_not_replaced()
        self._job.note(f"{why}: another snapshot is begun, and every block sent again")
        await self._shared.journal.update(self._job.view())
        self.result = None
        await self.undo(_uncounted)
        await self._own.begin(ready)

    async def _pass(self, ready: ReadyConversion) -> ConversionResult:
        """One pass over the image, with its progress reported; returns what the snapshot holds then."""
        own = self._own
        known, snapshot = own.known, await own.watched()
        limit = int(self._request.limit_upload or self._shared.settings.limit_upload or 0)
        conversion, meter = await make_pass(
            ready,
            own.blocks,
            writer=snapshot.ebs,
            snapshot_id=own.snapshot_id,
            retry=self._context.retry,
            slots=self._shared.slots,
            limit=limit,
        )
        async with reporting(self._job, meter):
            converted = await conversion.run()
        if isinstance(ready.source, VolumeSource):
            await report_tree(ready.source.volume, self._request.report, self._job.note)
        bottleneck, advice, stages = meter.overall()
        return ConversionResult(
            snapshot_id=own.snapshot_id,
            region=known.converting.region,
            image_id=None,
            image_name=None,
            image_size=converted.image_size,
            volume_size=known.converting.order.volume_gib * GIB,
            left_out=ready.left_out,
            blocks=converted.blocks,
            blocks_put=converted.blocks_put,
            blocks_read=converted.blocks_read,
            checksum=converted.checksum.hex(),
            elapsed_s=0,
            cpu_s=0,
            bottleneck=bottleneck,
            advice=advice,
            stages=stages,
        )

    async def _complete(self) -> None:
        """Complete the snapshot, and wait until it can be used."""
        result = self.result
        assert result is not None  # noqa: S101 - for the type checker; every block is stored
        if not result.checksum:
            return  # an earlier attempt on another host has completed it
        await self._job.confirm()
        own = self._own
        snapshot = await own.watched()
        try:
            await snapshot.complete(result.snapshot_id, result.blocks, bytes.fromhex(result.checksum))
        except StoreError as error:
            if await own.why_lost_now():
                await own.check_not_replaced()
            # Another completion of the same content would be refused again. A put of an earlier run that arrived after
            # this run's put of the same block does that: the checksum is that of the blocks that this run read.
            is_refused = error.code.startswith(REFUSED_VALUE) and not isinstance(error, NotPendingError)
            own.is_lost = own.is_lost or is_refused
            raise
        if why := await snapshot.wait_listable(result.snapshot_id):
            self._job.note(f"not known: whether the blocks of {result.snapshot_id} can be read already ({why})")

    async def _register(self) -> None:
        own, settings = self._own, self._shared.settings
        registration, known = own.registration, own.known
        if registration is not None:
            await self._move(State.REGISTERING)
            attempt = RegistrationAttempt(
                registry=await self._context.ec2(known.converting.region),
                registration=registration,
                retry=self._context.retry,
                record=own.enter_image,
                own=known.image,
                look_first=known.image != "",
            )
            self._image_id = await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
        self.finished = True

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._shared.journal.update(self._job.view())


def _uncounted(*, compared: bool = False) -> None:
    """The progress of a removal without a time limit."""
    del compared
