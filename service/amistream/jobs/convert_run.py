"""One run of a conversion: check, convert, commit, register; from the start, or from where an earlier run stopped.

The journal is always a step ahead of what exists outside: the order is in it before the snapshot is started, each
block before it is sent, the snapshot's content before it is completed, and that an AMI may exist before it is
registered. So a later run can finish or remove what a crash left, and find what became of an unanswered request.

A later run reads and hashes the whole image again, and sends what differs: the snapshot holds what the last pass read.
A snapshot that is lost, because EBS has given it up or somebody has deleted it, is replaced by another one.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

import structlog

from amistream.aws.ebs import open_ebs
from amistream.aws.ebs_errors import REFUSED_VALUE
from amistream.checks.conversion import ReadyConversion, VolumeSource, check_conversion
from amistream.checks.conversion_context import ConversionContext
from amistream.errors import NotPendingError, StoreError
from amistream.events import ConversionResult, State
from amistream.flow.cancel import await_answer
from amistream.flow.undo import Progress
from amistream.jobs.block_ledger import JournaledBlocks, load_blocks
from amistream.jobs.confinement import roots_of
from amistream.jobs.conversion_attempts import Attempts, likely_region
from amistream.jobs.conversion_pass import make_pass
from amistream.jobs.conversion_records import ConversionRecord
from amistream.jobs.conversion_removal import remove_conversion
from amistream.jobs.job import Job
from amistream.jobs.job_snapshot import JobSnapshot, RefusedStartError
from amistream.jobs.records import JournalEntry
from amistream.jobs.reporting import reporting
from amistream.jobs.rival_watch import RivalWatch
from amistream.jobs.run import Shared
from amistream.jobs.tree_report import report_tree
from amistream.plan import Converting
from amistream.ports.registry import Registration
from amistream.ports.snapshots import SnapshotState
from amistream.request import ConvertRequest
from amistream.stages.earlier import Earlier
from amistream.stages.register import RegistrationAttempt
from amistream.values import GIB, STANDARD_INPUT

log = structlog.get_logger()

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
        assert isinstance(request, ConvertRequest)  # noqa: S101 - for the type checker; `KINDS` has chosen this run
        settings = shared.settings
        self._job = job
        self._request = request
        self._shared = shared
        self._records = shared.journal.conversions
        self._record = record
        self._blocks = blocks
        self._context = ConversionContext(
            request,
            settings,
            shared.aws,
            job.id,
            roots=roots_of(job, settings),
            settled=record.converting if record else None,
            name=job.name,
            check=job.check_lease,
        )
        self._attempts_made = 0
        self._is_lost = False
        self._image_id: str | None = None
        self._job_snapshot: JobSnapshot | None = None
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
        return self._blocks.count

    @property
    def worth_keeping(self) -> bool:
        return not self._is_lost and (self.kept > 0 or self.result is not None)

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
        if await self._is_done_already():
            self._job.move(State.COMMITTING)
            return self.conclude()
        async with AsyncExitStack() as stack:
            if not await self._is_filled():
                await self._convert(stack)
            await self._move(State.COMMITTING)
            await self._complete()
            # Of a snapshot that was completed too late nothing is registered, and nothing said.
            await self._job.confirm()
            await self._register()
            await self._remove_others()
        return self.conclude()

    def conclude(self) -> ConversionResult:
        result, record = self.result, self._record
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
        if self._record is None:
            return  # neither this run nor an earlier one has begun
        snapshot = await self._snapshot()
        if self._job.name and self._job.lease is None and await self._is_completed(snapshot):
            # Another attempt may have taken it for the outcome of the job.
            self._job.note(f"{self._snapshot_id} is completed, and stays: it may be the outcome of {self._job.name!r}")
            return
        await remove_conversion(
            self._record,
            snapshot,
            await self._context.ec2(self._record.converting.region),
            self._registration,
            progress,
        )

    @property
    def _known(self) -> ConversionRecord:
        assert self._record is not None  # noqa: S101 - for the type checker; the conversion has begun
        return self._record

    @property
    def _snapshot_id(self) -> str:
        assert self._known.snapshot  # noqa: S101 - for the type checker; it is started
        return self._known.snapshot

    @property
    def _registration(self) -> Registration | None:
        """The AMI to register, with its snapshot as soon as that is known."""
        registration = self._known.converting.registration
        return replace(registration, snapshot_id=self._known.snapshot or "") if registration else None

    async def _snapshot(self) -> JobSnapshot:
        """The means to reach the snapshot: always the same, which know when it was started."""
        if self._job_snapshot is None:
            self._job_snapshot = await self._snapshots_in(self._known.converting.region)
        return self._job_snapshot

    async def _watched(self) -> JobSnapshot:
        """The same for the run itself, which ends as soon as another attempt has removed the snapshot."""
        snapshot = await self._snapshot()
        if not self._job.name:
            return snapshot
        attempts = await self._attempts(self._known.converting.region)
        return replace(snapshot, ebs=RivalWatch(snapshot.ebs, lambda: attempts.check_not_replaced(self._snapshot_id)))

    async def _snapshots_in(self, region: str) -> JobSnapshot:
        settings = self._shared.settings
        return JobSnapshot(
            ebs=await open_ebs(self._shared.aws, region, self._context.endpoint_url, settings.stall_timeout_s),
            retry=self._context.retry,
            timeout_s=settings.register_timeout_s,
            poll_s=settings.register_poll_s,
        )

    async def _attempts(self, region: str) -> Attempts:
        snapshot, ec2 = await self._snapshots_in(region), await self._context.ec2(region)
        return Attempts(
            name=self._job.name,
            request=self._request,
            snapshot=snapshot,
            ec2=ec2,
            may_remove=self._job.lease is not None,
        )

    async def _is_done_already(self) -> bool:
        """An attempt on another host has finished the job. Then the source need not be there any more."""
        if not self._job.name:
            return False
        record = self._record
        region = record.converting.region if record is not None else await likely_region(self._context)
        if not region:
            return False
        attempts = await self._attempts(region)
        found = await attempts.completed()
        if found is None or (record is not None and found.id == record.snapshot):
            return False
        # A snapshot of this host's own goes in the end, with those of other attempts.
        self._record, self.result = None, None
        image = await attempts.image() if self._request.registers else None
        if self._request.registers and image is None:
            return False
        await self._job.confirm()
        await attempts.settle(found.id)
        self.result = await attempts.result(found, image)
        self.finished = True
        self._job.note(f"{found.id} is there already, made by an earlier attempt of this job")
        return True

    async def _take_over(self, ready: ReadyConversion) -> bool:
        """Take over the completed snapshot of an attempt on another host, or remove what such attempts left."""
        if not self._job.name:
            return False
        await self._job.confirm()
        attempts = await self._attempts(ready.region)
        found = await attempts.completed()
        if found is None:
            for removed in await attempts.remove_others("", completed=False):
                self._job.note(f"the snapshot {removed} of an earlier attempt is removed: it begins anew")
            return False
        await self._enter(ready)
        self.result = await attempts.result(found, None)
        self._known.know_started(found.id)
        self._known.know_content(self.result)
        await self._records.started(self._job.id, found.id, self._known.started_at)
        await self._records.conclude(self._job.id, self.result)
        self._job.note(f"{found.id} is completed already, by an earlier attempt of this job")
        return True

    async def _check_not_replaced(self) -> None:
        """Raise `FencedError` if the snapshot is lost because another attempt has removed it."""
        await self._job.confirm()
        if self._job.name:
            attempts = await self._attempts(self._known.converting.region)
            await attempts.check_none_but(self._snapshot_id)

    async def _remove_others(self) -> None:
        """Remove snapshots of other attempts, if this run's is the outcome. Raises `FencedError` if another one is."""
        if not self._job.name:
            return
        try:
            await (await self._attempts(self._known.converting.region)).settle(self._snapshot_id)
        except StoreError as error:
            # A pending one is given up by EBS in time.
            self._job.note(f"not looked for snapshots of other attempts: {error.message}")

    async def _is_completed(self, snapshot: JobSnapshot) -> bool:
        known = self._known
        if not known.snapshot:
            return False
        found = await snapshot.look(known.snapshot, known.started_at)
        return found is not None and found.state is SnapshotState.COMPLETED

    async def _is_filled(self) -> bool:
        """An earlier run has stored every block in a snapshot that is not lost."""
        if self.result is None or await self._why_lost():
            return False
        self._job.note(f"every block of {self._snapshot_id} is stored already: the source is not read again")
        return True

    async def _convert(self, stack: AsyncExitStack) -> None:
        """Store every block, and enter the content of the snapshot."""
        self.result = None
        ready = await check_conversion(self._context, self._job.note)
        stack.push_async_callback(ready.close)
        why = await self._why_anew(ready) if self._record else ""
        await self._move(State.CONVERTING)
        if self._record is None or self._record.snapshot == "":
            if await self._take_over(ready):
                return
            await self._begin(ready)
        elif why:
            await self._begin_anew(ready, why)
        while True:
            try:
                self.result = await self._pass(ready)
            except StoreError:
                why = await self._why_lost_now()
                # Standard input cannot be read again.
                if not why or self._attempts_made >= MOST_ATTEMPTS or self._request.source == STANDARD_INPUT:
                    raise
            else:
                self._known.know_content(self.result)
                await self._records.conclude(self._job.id, self.result)
                return
            await self._begin_anew(ready, why)
            if isinstance(ready.source, VolumeSource):
                await asyncio.to_thread(ready.source.volume.rewind)

    async def _why_anew(self, ready: ReadyConversion) -> str:
        """The reason why the snapshot of earlier runs is of no use; '' if it is, or there is none."""
        known = self._known
        if known.snapshot == "":
            return ""
        if known.snapshot is None:
            await self._start(fresh=False)
        if known.converting.image_size != ready.image_size:
            before, now = known.converting.image_size, ready.image_size
            return f"{self._request.source} had {before} bytes and has {now}"
        return await self._why_lost()

    async def _why_lost(self) -> str:
        """The reason why the snapshot can neither take blocks nor be completed; '' if it can, or is complete."""
        known = self._known
        snapshot = await self._watched()
        found = await snapshot.look(self._snapshot_id, known.started_at)
        if found is None:
            return f"the snapshot {self._snapshot_id} is gone"
        if found.state is SnapshotState.ERROR:
            return f"EBS has given up the snapshot {self._snapshot_id}" + f" ({found.reason})" * bool(found.reason)
        if found.state is SnapshotState.COMPLETED and known.result is None:
            return f"the snapshot {self._snapshot_id} was completed by somebody else"
        return ""

    async def _why_lost_now(self) -> str:
        """As `_why_lost`, after a failure, which must not be hidden by another one."""
        try:
            why = await self._why_lost()
        except StoreError as error:
            log.warning("snapshot.unknown", reason=error.message)
            return ""
        self._is_lost = bool(why)
        return why

    async def _begin(self, ready: ReadyConversion) -> None:
        """Settle what every pass to a new snapshot keeps to, and start it."""
        await self._job.confirm()
        await self._enter(ready)
        self._attempts_made += 1
        await self._start(fresh=True)
        self._is_lost = False

    async def _enter(self, ready: ReadyConversion) -> None:
        attempt = self._record.converting.attempt + 1 if self._record else 1
        whose = " ".join(filter(None, (self._job.name, self._job.id)))
        converting = Converting(
            attempt=attempt,
            order=replace(ready.order, token=client_token(whose, attempt)),
            image_size=ready.image_size,
            region=ready.region,
            endpoint_url=ready.endpoint_url,
            registration=ready.registration,
        )
        await self._records.begin(self._job.id, converting)
        self._record = ConversionRecord(converting=converting, snapshot=None)
        self._blocks = JournaledBlocks(self._records, self._job.id, Earlier())

    async def _begin_anew(self, ready: ReadyConversion, why: str) -> None:
        """Begin another snapshot, once the lost one is removed."""
        await self._check_not_replaced()
        self._job.note(f"{why}: another snapshot is begun, and every block sent again")
        await self._shared.journal.update(self._job.view())
        self.result = None
        await self.undo(_uncounted)
        await self._begin(ready)

    async def _start(self, *, fresh: bool) -> None:
        """Start the snapshot, or find the one of the same order. `fresh`: nobody has asked for it before."""
        known, snapshot = self._known, await self._snapshot()

        async def start() -> None:
            try:
                found = await snapshot.start(known.converting.order)
            except RefusedStartError:
                if fresh:
                    known.snapshot = ""
                    await self._records.started(self._job.id, "", 0)
                raise
            known.know_started(found.id)
            await self._records.started(self._job.id, found.id, known.started_at)

        # A cancel waits a little for the id: without it the removal has to ask again.
        await await_answer(start(), lambda: True)
        hours = known.converting.order.timeout_min // 60
        self._job.note(f"the snapshot is {known.snapshot}; EBS gives it up if no block comes for {hours} hours")

    async def _pass(self, ready: ReadyConversion) -> ConversionResult:
        """One pass over the image, with its progress reported; returns what the snapshot holds then."""
        known = self._known
        snapshot = await self._watched()
        limit = int(self._request.limit_upload or self._shared.settings.limit_upload or 0)
        conversion, meter = await make_pass(
            ready,
            self._blocks,
            writer=snapshot.ebs,
            snapshot_id=self._snapshot_id,
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
            snapshot_id=self._snapshot_id,
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
        snapshot = await self._watched()
        try:
            await snapshot.complete(result.snapshot_id, result.blocks, bytes.fromhex(result.checksum))
        except StoreError as error:
            if await self._why_lost_now():
                await self._check_not_replaced()
            # Another completion of the same content would be refused again. A put of an earlier run that arrived after
            # this run's put of the same block does that: the checksum is that of the blocks that this run read.
            is_refused = error.code.startswith(REFUSED_VALUE) and not isinstance(error, NotPendingError)
            self._is_lost = self._is_lost or is_refused
            raise
        if why := await snapshot.wait_listable(result.snapshot_id):
            self._job.note(f"not known: whether the blocks of {result.snapshot_id} can be read already ({why})")

    async def _register(self) -> None:
        registration, known, settings = self._registration, self._known, self._shared.settings
        if registration is not None:
            await self._move(State.REGISTERING)
            attempt = RegistrationAttempt(
                registry=await self._context.ec2(known.converting.region),
                registration=registration,
                retry=self._context.retry,
                record=self._know_image,
                own=known.image,
                look_first=known.image != "",
            )
            self._image_id = await attempt.run(timeout_s=settings.register_timeout_s, poll_s=settings.register_poll_s)
        self.finished = True

    async def _know_image(self, image_id: str | None) -> None:
        self._known.image = image_id
        await self._records.registering(self._job.id, image_id)

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._shared.journal.update(self._job.view())


def client_token(job: str, attempt: int) -> str:
    """The token of a snapshot's start: 64 ASCII characters, which AWS allows."""
    return hashlib.sha256(f"{job} {attempt}".encode()).hexdigest()


def _uncounted(*, compared: bool = False) -> None:
    """The progress of a removal without a time limit."""
    del compared
