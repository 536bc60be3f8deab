"""One run of a bundle job: check, bundle, commit, register; from the start, or from where an earlier run stopped.

The journal is always a step ahead of what exists outside: what was settled is in it before the first part is sent,
each part before it leaves, and the manifest before it is put. So a later run can finish or remove what a crash left.

A job may have several destinations. They share one pass over the volume; from the manifest on each goes its own way
(`lanes`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

import structlog

from amistream.checks import preflight
from amistream.checks.destination import Destination, open_destination
from amistream.errors import AmistreamError, FencedError, JobError, JournalError, LateError, RefusedError
from amistream.events import BundleResult, State
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.undo import UNDO_STALLS, Progress, Undoing
from amistream.jobs.claims import Claims
from amistream.jobs.job import Job
from amistream.jobs.lanes import Lanes
from amistream.jobs.late import refuse_late
from amistream.jobs.ledger import PartLedger
from amistream.jobs.progress import ProgressMeter
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.jobs.removal import remove_kept
from amistream.jobs.reporting import reporting
from amistream.jobs.resume import check_volume, resumption
from amistream.jobs.run import Shared
from amistream.jobs.tree_report import check_tree, report_tree, state_of
from amistream.keys import BundleKey, unwrap, wrap
from amistream.pipeline import Pipeline
from amistream.plan import Bundling, BundlingPlace
from amistream.ports.unanswered import AMI, latest
from amistream.request import BundleRequest
from amistream.stages.manifest import WrappedKeys, write_manifest
from amistream.values import STANDARD_INPUT, ChangedError, Measured

log = structlog.get_logger()


class BundleRun:
    """One run of a bundle job (`run.Run`)."""

    KEEPS: ClassVar[str] = "stored parts"
    ONLY_READS: ClassVar[bool] = False

    def __init__(self, job: Job, entry: JournalEntry, parts: Sequence[SealedPart], shared: Shared) -> None:
        """`entry` and `parts` are the journal's record of earlier runs; the run keeps its copy up to date.

        The settings of an earlier run hold for its destinations. Raises `JobError` where they must not.
        """
        request = job.request
        assert isinstance(request, BundleRequest)  # noqa: S101 - for the type checker; `load_run` has chosen this run
        self._job = job
        self._request = request
        self.entry = entry
        self._earlier = parts
        settings = shared.settings
        roots = job.roots(settings)
        self._addresses = [
            Destination(
                request,
                settings,
                shared.aws,
                job.id,
                number,
                roots=roots,
                settled=entry.bundling,
                late=entry.late.get(number),
                name=job.name,
                check=job.check_lease,
            )
            for number in range(len(request.destinations))
        ]
        self._journal = shared.journal
        self._slots = shared.slots
        self._ledger = PartLedger(shared.journal, job.id, parts)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._claims = _claims_of(job, entry, self._addresses)
        self._lanes = Lanes(job, entry, self._addresses, shared.journal, self._claims)
        self.result: BundleResult | None = entry.result
        self.resumed = entry.bundling is not None

    @classmethod
    async def load(cls, job: Job, entry: JournalEntry, shared: Shared) -> BundleRun:
        """The run of a job with the parts of earlier runs. Raises as the constructor does, and `JournalError`."""
        return cls(job, entry, await shared.journal.parts(job.id), shared)

    @property
    def kept(self) -> int:
        return len(self._ledger.parts)

    @property
    def finished(self) -> bool:
        return not self._lanes.missing

    @property
    def stays(self) -> list[str]:
        return [
            place.manifest + (f", the AMI {place.image_id}" if place.image_id else "")
            for place in self.entry.done.values()
        ]

    @property
    def late_until(self) -> datetime | None:
        return latest(self.entry.late) if self.entry.late else None

    @property
    def worth_keeping(self) -> bool:
        return bool(self.entry.manifests or self.entry.done) or any(part.stored for part in self._ledger.parts)

    @property
    def _bundling(self) -> Bundling:
        assert self.entry.bundling is not None  # noqa: S101 - for the type checker; bundling has begun
        return self.entry.bundling

    async def run(self) -> BundleResult:
        if not self._lanes.missing:
            # An earlier process finished every destination and died before it entered the job's end.
            self._job.move(State.CHECKING)
            for number in self.entry.done:
                await self._claims.release_done(number)
            return self._conclude_done()
        await self._move(State.CHECKING)
        await self._claims.begin(self._lanes.missing)
        numbers = self._lanes.missing
        if not numbers:
            self.result = self._claims.result
            return self._conclude_done()
        if self._claims.took_over and self.entry.result is not None:
            await self._journal.reopen(self._job.id)
            self.entry, self.result = replace(self.entry, result=None), None
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._enter_late)
            try:
                if self.entry.result is None or any(number not in self.entry.manifests for number in numbers):
                    await self._bundle(numbers, stack)
                else:
                    await self._open_bundled(numbers, stack)
                await self._lanes.publish(self._ledger.parts, self._begin_registering)
                return self.conclude()
            except FencedError:
                raise
            except AmistreamError as error:
                if (fenced := await self._claims.fencing(error)) is not None:
                    raise fenced from error
                raise

    def _conclude_done(self) -> BundleResult:
        self._job.move(State.COMMITTING)
        return self.conclude()

    def conclude(self) -> BundleResult:
        """The result once every lane has ended. Raises when one failed."""
        assert self.result is not None  # noqa: S101 - for the type checker; there is a bundle
        spent = {
            "elapsed_s": round(time.perf_counter() - self._started, 3),
            "cpu_s": round(time.process_time() - self._cpu_started, 3),
        }
        self.result = self._lanes.with_places(self.result.model_copy(update=spent))
        self._lanes.check()
        return self.result

    async def undo(self, progress: Progress) -> None:
        try:
            await self._remove(progress)
            await self._claims.leave()
        finally:
            await self._lanes.leave()

    async def _remove(self, progress: Progress) -> None:
        if self.entry.bundling is None and self._job.state is not State.QUEUED:
            return  # this run has sent nothing, and no earlier one has
        parts, opened = self._ledger.parts, self._lanes.opened
        try:
            await remove_kept(
                self._addresses,
                self.entry,
                parts,
                progress,
                opened=opened,
                earlier=self._earlier,
                is_ours=self._claims.is_ours,
                check=self._claims.check_removal,
                check_lease=self._job.check_lease,
                note=self._job.note,
            )
        finally:
            await self._enter_late()
        refuse_late(self.entry.late, self._described)

    def _described(self, number: int, name: str) -> str:
        place = self._bundling.places[number]
        if name == AMI and place.registration is not None:
            return f"the AMI {place.registration.name!r}"
        return f"{self._addresses[number].location}/{name}"

    async def _enter_late(self) -> None:
        """Record what may still appear. A journal that fails must not hide why the run ends."""
        try:
            await finish_despite_cancel(self._lanes.enter_late())
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)

    async def _bundle(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Store every part in every destination; then enter the result and write each lane's manifest."""
        ready = await self._check(numbers, stack)
        key = await self._start(ready)
        await self._move(State.BUNDLING)
        try:
            volume = ready.volume
            await finish_despite_cancel(asyncio.to_thread(check_tree, self._bundling.tree, volume))
            checking = asyncio.to_thread(check_volume, self._bundling, volume, ready.used)
            await finish_despite_cancel(checking, on_cancel=volume.interrupt)
            pipeline, meter, measured = await self._pass(ready, key)
        except ChangedError as change:
            key = await self._start_over(ready, change)
            pipeline, meter, measured = await self._pass(ready, key)
        await report_tree(ready.volume, self._request.report, self._job.note)
        await self._move(State.COMMITTING)
        self.result = _result(pipeline, meter, measured)
        await self._journal.conclude(self._job.id, self.result)
        for lane in self._lanes:
            wrapped = self._bundling.places[lane.number].wrapped
            write = partial(write_manifest, self._bundling.facts, measured, wrapped, ready.identity.sign)
            await lane.write_manifest(write)

    async def _check(self, numbers: Sequence[int], stack: AsyncExitStack) -> preflight.Ready:
        addresses = [self._addresses[number] for number in numbers]
        ready = await preflight.check(addresses, self._job.note, bundling=self.entry.bundling, numbers=numbers)
        stack.push_async_callback(ready.close)
        for number, destination in zip(numbers, ready.destinations, strict=True):
            self._lanes.open(number, destination, stack)
        return ready

    async def _open_bundled(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Open the destinations of a run that has nothing left to bundle."""
        for number in numbers:
            destination = await open_destination(self._addresses[number], self._bundling.places[number])
            self._lanes.open(number, destination, stack)
        await self._lanes.store.tidy({})
        await self._move(State.COMMITTING)

    async def _start(self, ready: preflight.Ready) -> BundleKey:
        """Begin anew, or under an earlier run's key with the parts that are proved to be stored."""
        if self.entry.bundling is None:
            return await self._begin(ready)
        user = self._bundling.places[0].wrapped
        key = await asyncio.to_thread(unwrap, ready.identity, user.user_key, user.user_iv)
        self._ledger = PartLedger(self._journal, self._job.id, await self._lanes.prove(self._ledger.parts))
        return key

    async def _begin(self, ready: preflight.Ready) -> BundleKey:
        """Settle what every pass of this job keeps to, under a new key, and enter it."""
        key = BundleKey.generate()
        bundling = Bundling(
            plan=ready.plan,
            image_size=ready.volume.size,
            mtime=ready.volume.mtime,
            facts=ready.facts,
            places=await asyncio.to_thread(_places, ready, key, self._lanes.missing, len(self._addresses)),
            tree=state_of(ready.volume),
            endpoint_url=self._addresses[0].endpoint_url,
        )
        self._ledger = PartLedger(self._journal, self._job.id)
        self.entry = replace(self.entry, bundling=bundling, result=None)
        await self._journal.begin(self._job.id, bundling)
        return key

    async def _start_over(self, ready: preflight.Ready, change: ChangedError) -> BundleKey:
        """Begin anew, once all that an earlier pass stored is removed: the new parts have the same names."""
        # A wrong stream on standard input is a slip, which must not cost what is stored.
        if self._job.request.source == STANDARD_INPUT:
            raise RefusedError(
                "source.other_stream",
                f"cannot go on: standard input sends other bytes than when the job began ({change})",
                hint="send the same bytes again, from the beginning",
                field="source",
            ) from None
        why = f"{ready.volume.path} differs from when this job began ({change})"
        if self.entry.done:
            raise JobError(
                "resume.changed",
                f"cannot finish the other destinations: {why}",
                hint="finished bundles stay; bundle again to the others",
            )
        self._job.note(f"{why}: starting over under a new key")
        await self._journal.update(self._job.view())
        await self._job.confirm()
        left = await self._undo_earlier()
        while isinstance(left, LateError):
            # A late part would get, or take, the name of a new one.
            self._job.note(f"{left.message}; it starts over then")
            await asyncio.sleep((latest(self.entry.late) - datetime.now(UTC)).total_seconds())
            left = await self._undo_earlier()
        if self._job.cancel_requested:
            raise asyncio.CancelledError
        if left is not None:
            hint = "correct that, then cancel the job, which removes them, and submit it again"
            raise RefusedError(
                "resume.in_the_way",
                f"cannot start over: the stored parts could not be removed ({left.message})",
                hint="\n".join(filter(None, (left.hint, hint))),
            )
        self._lanes.start_over()
        await asyncio.to_thread(ready.volume.rewind)
        return await self._begin(ready)

    async def _undo_earlier(self) -> AmistreamError | None:
        return await Undoing(UNDO_STALLS * self._addresses[0].settings.stall_timeout_s).run(self._remove)

    async def _pass(self, ready: preflight.Ready, key: BundleKey) -> tuple[Pipeline, ProgressMeter, Measured]:
        """One pass over the volume, with its progress reported."""
        pipeline = Pipeline(
            self._bundling.plan,
            ready.volume,
            self._lanes.store,
            key,
            slots=self._slots,
            ledger=self._ledger,
            resumption=resumption(self._bundling, self._ledger.parts),
            copies=len(ready.destinations),
            all_read=ready.all_read,
        )
        meter = ProgressMeter(pipeline, limit=self._lanes.limit_upload)
        async with reporting(self._job, meter):
            measured = await pipeline.run()
        return pipeline, meter, measured

    async def _begin_registering(self) -> None:
        if self._job.state is not State.REGISTERING:
            await self._move(State.REGISTERING)

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._journal.update(self._job.view())


def _claims_of(job: Job, entry: JournalEntry, addresses: Sequence[Destination]) -> Claims:
    if not job.name:
        return Claims()
    from amistream.jobs.named_claims import NamedClaims  # noqa: PLC0415 - for the jobs of many hosts only

    return NamedClaims(job, entry, addresses)


def _result(pipeline: Pipeline, meter: ProgressMeter, measured: Measured) -> BundleResult:
    """The result of a pass, with no destination in it yet."""
    bottleneck, advice, stages = meter.overall()
    return BundleResult(
        manifest="",
        image_id=None,
        image_name=None,
        region=None,
        image_size=measured.image_size,
        left_out=pipeline.plan.left_out,
        bundled_size=measured.split.bundled_size,
        parts=len(measured.split.parts),
        digest=measured.archive.sha1.hex(),
        elapsed_s=0,
        cpu_s=0,
        bottleneck=bottleneck,
        advice=advice,
        compression=pipeline.compression,
        stages=stages,
    )


def _places(ready: preflight.Ready, key: BundleKey, numbers: Sequence[int], count: int) -> tuple[BundlingPlace, ...]:
    """The key and IV, encrypted once for the user and for each destination's EC2 certificate.

    `numbers` are those of the destinations, of `count` in all; the others are done already, and need none of this.
    """
    user_key, user_iv = wrap(ready.identity.certificate, key.key), wrap(ready.identity.certificate, key.iv)
    places = [
        BundlingPlace(
            region=destination.region,
            registration=destination.registration,
            made_place=destination.store.made_place,
            wrapped=WrappedKeys(
                ec2_key=wrap(certificate, key.key),
                ec2_iv=wrap(certificate, key.iv),
                user_key=user_key,
                user_iv=user_iv,
            ),
        )
        for destination, certificate in zip(ready.destinations, ready.ec2_certificates, strict=True)
    ]
    by_number = dict(zip(numbers, places, strict=True))
    return tuple(by_number.get(number, places[0].model_copy(update={"registration": None})) for number in range(count))
