"""The snapshot that a conversion's run works on, as the journal has it and as EBS has it.

The order is in the journal before the snapshot is started. A run works on one snapshot at a time: one that is lost is
replaced by another one, under another client token.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import structlog

from amistream.aws.ebs import open_ebs
from amistream.checks.conversion import ReadyConversion
from amistream.checks.conversion_context import ConversionContext
from amistream.errors import StoreError
from amistream.events import ConversionResult
from amistream.flow.cancel import await_answer
from amistream.jobs.block_ledger import JournaledBlocks
from amistream.jobs.conversion_attempts import Attempts
from amistream.jobs.conversion_records import ConversionRecord, Converting
from amistream.jobs.job import Job
from amistream.jobs.job_snapshot import JobSnapshot, RefusedStartError
from amistream.jobs.rival_watch import RivalWatch
from amistream.jobs.run import Shared
from amistream.ports.registry import Registration
from amistream.ports.snapshots import SnapshotState
from amistream.request.convert import ConvertRequest
from amistream.stages.earlier import Earlier

log = structlog.get_logger()


class OwnSnapshot:
    """`record` is None before the first snapshot is entered; `blocks` are those that were put into the present one."""

    def __init__(
        self,
        job: Job,
        request: ConvertRequest,
        context: ConversionContext,
        shared: Shared,
        *,
        record: ConversionRecord | None,
        blocks: JournaledBlocks,
    ) -> None:
        self.job = job
        self.request = request
        self.context = context
        self.record = record
        self.blocks = blocks
        self.begun = 0
        """Snapshots that this run has begun."""
        self.is_lost = False
        self._shared = shared
        self._records = shared.journal.conversions
        self._reach: JobSnapshot | None = None

    @property
    def known(self) -> ConversionRecord:
        assert self.record is not None  # noqa: S101 - for the type checker; the conversion has begun
        return self.record

    @property
    def snapshot_id(self) -> str:
        assert self.known.snapshot  # noqa: S101 - for the type checker; it is started
        return self.known.snapshot

    @property
    def registration(self) -> Registration | None:
        """The AMI to register, with its snapshot as soon as that is known."""
        registration = self.known.converting.registration
        return replace(registration, snapshot_id=self.known.snapshot or "") if registration else None

    async def reach(self) -> JobSnapshot:
        """The means to reach the snapshot: always the same, which know when it was started."""
        if self._reach is None:
            self._reach = await self._reach_in(self.known.converting.region)
        return self._reach

    async def watched(self) -> JobSnapshot:
        """The same for the run itself, which ends as soon as another attempt has removed the snapshot."""
        snapshot = await self.reach()
        if not self.job.name:
            return snapshot
        attempts = await self.attempts(self.known.converting.region)
        return replace(snapshot, ebs=RivalWatch(snapshot.ebs, lambda: attempts.check_not_replaced(self.snapshot_id)))

    async def attempts(self, region: str) -> Attempts:
        """The snapshots of other attempts of the job."""
        return Attempts(
            name=self.job.name,
            request=self.request,
            snapshot=await self._reach_in(region),
            ec2=await self.context.ec2(region),
            may_remove=self.job.lease is not None,
        )

    async def begin(self, ready: ReadyConversion) -> None:
        """Settle what every pass to a new snapshot keeps to, and start it."""
        await self.job.confirm()
        await self.enter(ready)
        self.begun += 1
        await self.start(fresh=True)
        self.is_lost = False

    async def enter(self, ready: ReadyConversion) -> None:
        """Enter the order of another snapshot."""
        attempt = self.record.converting.attempt + 1 if self.record else 1
        whose = " ".join(filter(None, (self.job.name, self.job.id)))
        converting = Converting(
            attempt=attempt,
            order=replace(ready.order, token=client_token(whose, attempt)),
            image_size=ready.image_size,
            region=ready.region,
            endpoint_url=ready.endpoint_url,
            registration=ready.registration,
        )
        await self._records.begin(self.job.id, converting)
        self.record = ConversionRecord(converting=converting, snapshot=None)
        self.blocks = JournaledBlocks(self._records, self.job.id, Earlier())

    async def start(self, *, fresh: bool) -> None:
        """Start the snapshot, or find the one of the same order. `fresh`: nobody has asked for it before."""
        known, snapshot = self.known, await self.reach()

        async def start() -> None:
            try:
                found = await snapshot.start(known.converting.order)
            except RefusedStartError:
                if fresh:
                    known.snapshot = ""
                    await self._records.started(self.job.id, "", 0)
                raise
            await self.enter_started(found.id)

        # A cancel waits a little for the id: without it the removal has to ask again.
        await await_answer(start(), lambda: True)
        hours = known.converting.order.timeout_min // 60
        self.job.note(f"the snapshot is {known.snapshot}; EBS gives it up if no block comes for {hours} hours")

    async def enter_started(self, snapshot_id: str) -> None:
        """Enter the id of the snapshot."""
        self.known.know_started(snapshot_id)
        await self._records.started(self.job.id, snapshot_id, self.known.started_at)

    async def enter_content(self, result: ConversionResult) -> None:
        """Enter that every block is stored, before the snapshot is completed."""
        self.known.know_content(result)
        await self._records.conclude(self.job.id, result)

    async def enter_image(self, image_id: str | None) -> None:
        """Enter the AMI, None while it is unknown."""
        self.known.image = image_id
        await self._records.registering(self.job.id, image_id)

    async def is_completed(self) -> bool:
        known = self.known
        if not known.snapshot:
            return False
        found = await (await self.reach()).look(known.snapshot, known.started_at)
        return found is not None and found.state is SnapshotState.COMPLETED

    async def why_lost(self) -> str:
        """The reason why the snapshot can neither take blocks nor be completed; '' if it can, or is complete."""
        known, snapshot_id = self.known, self.snapshot_id
        found = await (await self.watched()).look(snapshot_id, known.started_at)
        if found is None:
            return f"the snapshot {snapshot_id} is gone"
        if found.state is SnapshotState.ERROR:
            return f"EBS has given up the snapshot {snapshot_id}" + f" ({found.reason})" * bool(found.reason)
        if found.state is SnapshotState.COMPLETED and known.result is None:
            return f"the snapshot {snapshot_id} was completed by somebody else"
        return ""

    async def why_lost_now(self) -> str:
        """As `why_lost`, after a failure, which must not be hidden by another one."""
        try:
            why = await self.why_lost()
        except StoreError as error:
            log.warning("snapshot.unknown", reason=error.message)
            return ""
        self.is_lost = bool(why)
        return why

    async def check_not_replaced(self) -> None:
        """Raise `FencedError` if the snapshot is lost because another attempt has removed it."""
        await self.job.confirm()
        if self.job.name:
            attempts = await self.attempts(self.known.converting.region)
            await attempts.check_none_but(self.snapshot_id)

    async def _reach_in(self, region: str) -> JobSnapshot:
        settings = self._shared.settings
        return JobSnapshot(
            ebs=await open_ebs(self._shared.aws, region, self.context.endpoint_url, settings.stall_timeout_s),
            retry=self.context.retry,
            timeout_s=settings.register_timeout_s,
            poll_s=settings.register_poll_s,
        )


def client_token(job: str, attempt: int) -> str:
    """The token of a snapshot's start: 64 ASCII characters, which AWS allows."""
    return hashlib.sha256(f"{job} {attempt}".encode()).hexdigest()
