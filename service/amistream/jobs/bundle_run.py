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
from functools import partial

import structlog

from amistream.checks import preflight
from amistream.checks.destination import open_destination
from amistream.errors import AmistreamError, JobError, RefusedError, first_cause
from amistream.events import JobResult, PlaceResult, State
from amistream.flow.undo import Undo
from amistream.jobs.job import Job
from amistream.jobs.lanes import Lanes
from amistream.jobs.ledger import PartLedger
from amistream.jobs.progress import ProgressMeter
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.jobs.removal import remove_kept
from amistream.jobs.resume import Start, check_volume, resumption
from amistream.jobs.run import Shared, addresses_of
from amistream.keys import BundleKey, unwrap, wrap
from amistream.pipeline import Pipeline
from amistream.plan import Bundling, BundlingPlace
from amistream.stages.manifest import WrappedKeys, write_manifest
from amistream.values import STANDARD_INPUT, ChangedError, Measured

log = structlog.get_logger()

PROGRESS_PERIOD_S = 0.25
UNDONE_AT_ONCE = 16
"""Parts removed at a time. Guess."""


class BundleRun:
    """One run of a bundle job (`run.Run`)."""

    def __init__(self, job: Job, entry: JournalEntry, parts: Sequence[SealedPart], shared: Shared) -> None:
        """`entry` and `parts` are the journal's record of earlier runs."""
        self._job = job
        self._entry = entry
        self._addresses = addresses_of(job, entry, shared)
        self._journal = shared.journal
        self._slots = shared.slots
        self._ledger = PartLedger(shared.journal, job.id, parts)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._lanes = Lanes(job, entry, self._addresses, shared.journal)
        self._undo = Undo(parallel=UNDONE_AT_ONCE)
        self.result: JobResult | None = entry.result

    @property
    def parts(self) -> int:
        return len(self._ledger.parts)

    @property
    def worth_keeping(self) -> bool:
        return bool(self._entry.manifests or self._entry.done) or any(part.stored for part in self._ledger.parts)

    @property
    def is_whole(self) -> bool:
        return self._lanes.is_whole

    @property
    def finished(self) -> list[PlaceResult]:
        return self._lanes.finished

    async def run(self) -> JobResult:
        numbers = self._lanes.missing
        if not numbers:
            # An earlier process finished every destination and died before it entered the job's end.
            self._job.move(State.CHECKING)
            self._job.move(State.COMMITTING)
            return self.conclude()
        await self._move(State.CHECKING)
        async with AsyncExitStack() as stack:
            if self._entry.result is None or any(number not in self._entry.manifests for number in numbers):
                await self._bundle(numbers, stack)
            else:
                await self._open_bundled(numbers, stack)
            await self._lanes.publish(self._ledger.parts, self._begin_registering)
        return self.conclude()

    def conclude(self) -> JobResult:
        """The result once every lane has ended. Raises when one failed."""
        assert self.result is not None  # noqa: S101 - for the type checker; there is a bundle
        spent = {
            "elapsed_s": round(time.perf_counter() - self._started, 3),
            "cpu_s": round(time.process_time() - self._cpu_started, 3),
        }
        self.result = self._lanes.with_places(self.result.model_copy(update=spent))
        self._lanes.check()
        return self.result

    async def undo(self) -> list[str]:
        left = [*await self._lanes.undo(), *await self._undo.run()]
        if self._entry.bundling is not None:
            # This run may have ended before it found what an earlier one stored; the journal has all of it.
            try:
                await self._remove_entered()
            except AmistreamError as error:
                left.append(error.message)
            except Exception as error:
                log.exception("job.bug")
                left.append(f"what an earlier run stored: {type(error).__name__}")
        return left

    async def leave(self) -> None:
        """Remove the directories that this run made, where they are empty."""
        await self._lanes.leave()

    async def _remove_entered(self) -> None:
        entry = await self._journal.find(self._job.id)
        assert entry is not None  # noqa: S101 - for the type checker; the journal keeps a job until its end
        parts = await self._journal.parts(self._job.id)
        await remove_kept(self._addresses, entry, parts, undone=self._lanes.own_images)

    async def _bundle(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Store every part in every destination; then enter the result and write each lane's manifest."""
        ready = await self._check(numbers, stack)
        start = await self._start(ready)
        await self._move(State.BUNDLING)
        try:
            check_volume(self._entry.bundling, ready.volume.size, ready.extents)
            pipeline, meter, measured = await self._pass(ready, start)
        except ChangedError as change:
            start = await self._start_over(ready, change)
            pipeline, meter, measured = await self._pass(ready, start)
        await self._move(State.COMMITTING)
        self.result = _result(pipeline, meter, measured)
        await self._journal.conclude(self._job.id, self.result)
        for lane in self._lanes:
            wrapped = start.bundling.places[lane.number].wrapped
            write = partial(write_manifest, start.bundling.facts, measured, wrapped, ready.identity.sign)
            await lane.write_manifest(write)

    async def _check(self, numbers: Sequence[int], stack: AsyncExitStack) -> preflight.Ready:
        addresses = [self._addresses[number] for number in numbers]
        ready = await preflight.check(addresses, self._job.note, bundling=self._entry.bundling, numbers=numbers)
        stack.push_async_callback(ready.close)
        for number, destination in zip(numbers, ready.destinations, strict=True):
            self._lanes.open(number, destination, stack)
        return ready

    async def _open_bundled(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Open the destinations of a run that has nothing left to bundle."""
        bundling = self._entry.bundling
        assert bundling is not None  # noqa: S101 - for the type checker; there is a manifest
        for number in numbers:
            destination = await open_destination(self._addresses[number], bundling.places[number])
            self._lanes.open(number, destination, stack)
        await self._lanes.store.tidy({})
        await self._move(State.COMMITTING)

    async def _start(self, ready: preflight.Ready) -> Start:
        """Begin anew, or under an earlier run's key with the parts that are proved to be stored."""
        bundling = self._entry.bundling
        if bundling is None:
            return await self._begin(ready)
        user = bundling.places[0].wrapped
        key = await asyncio.to_thread(unwrap, ready.identity, user.user_key, user.user_iv)
        parts = await self._lanes.prove(self._ledger.parts)
        self._ledger = PartLedger(self._journal, self._job.id, parts)
        return Start(bundling=bundling, key=key, parts=parts)

    async def _begin(self, ready: preflight.Ready) -> Start:
        """Settle what every pass of this job keeps to, under a new key, and enter it."""
        key = BundleKey.generate()
        bundling = Bundling(
            plan=ready.plan,
            image_size=ready.volume.size,
            mtime=ready.volume.mtime,
            facts=ready.facts,
            places=await asyncio.to_thread(_places, ready, key),
            endpoint_url=self._addresses[0].endpoint_url,
        )
        self._ledger = PartLedger(self._journal, self._job.id)
        await self._journal.begin(self._job.id, bundling)
        return Start(bundling=bundling, key=key)

    async def _start_over(self, ready: preflight.Ready, change: ChangedError) -> Start:
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
        if self._entry.done:
            raise JobError(
                "resume.changed",
                f"cannot finish the other destinations: {why}",
                hint="finished bundles stay; bundle again to the others",
            )
        self._job.note(f"{why}: starting over under a new key")
        await self._journal.update(self._job.view())
        left = await self.undo()
        if left:
            raise RefusedError(
                "resume.in_the_way",
                f"cannot start over: the stored parts could not be removed ({left[0]})",
                hint="correct that, then cancel the job, which removes them, and submit it again",
            )
        self._lanes.start_over()
        await asyncio.to_thread(ready.volume.rewind)
        return await self._begin(ready)

    async def _pass(self, ready: preflight.Ready, start: Start) -> tuple[Pipeline, ProgressMeter, Measured]:
        """One pass over the volume, with its progress reported."""
        pipeline = Pipeline(
            start.bundling.plan,
            ready.volume,
            self._lanes.store,
            start.key,
            self._undo,
            slots=self._slots,
            ledger=self._ledger,
            resumption=resumption(start.bundling, start.parts),
            copies=len(ready.destinations),
        )
        meter = ProgressMeter(pipeline, limit=self._lanes.limit_upload)
        return pipeline, meter, await _reporting(self._job, pipeline, meter)

    async def _begin_registering(self) -> None:
        if self._job.state is not State.REGISTERING:
            await self._move(State.REGISTERING)

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._journal.update(self._job.view())


async def remove_bundle(job: Job, entry: JournalEntry, parts: Sequence[SealedPart], shared: Shared) -> None:
    """Remove what the earlier runs of an ended bundle job made and did not finish. Raises the first error."""
    await remove_kept(addresses_of(job, entry, shared), entry, parts)


async def _reporting(job: Job, pipeline: Pipeline, meter: ProgressMeter) -> Measured:
    """Run the pipeline and report its progress meanwhile, and once more at its end."""

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            job.report(meter.sample())

    try:
        async with asyncio.TaskGroup() as group:
            reporter = group.create_task(report(), name="progress")
            measured = await pipeline.run()
            reporter.cancel()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    job.report(meter.sample(over=True))
    return measured


def _result(pipeline: Pipeline, meter: ProgressMeter, measured: Measured) -> JobResult:
    """The result of a pass, with no destination in it yet."""
    bottleneck, advice, stages = meter.overall()
    return JobResult(
        manifest="",
        image_id=None,
        image_name=None,
        region=None,
        image_size=measured.image_size,
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


def _places(ready: preflight.Ready, key: BundleKey) -> tuple[BundlingPlace, ...]:
    """The key and IV, encrypted once for the user and for each destination's EC2 certificate."""
    user_key, user_iv = wrap(ready.identity.certificate, key.key), wrap(ready.identity.certificate, key.iv)
    return tuple(
        BundlingPlace(
            region=destination.region,
            registration=destination.registration,
            wrapped=WrappedKeys(
                ec2_key=wrap(certificate, key.key),
                ec2_iv=wrap(certificate, key.iv),
                user_key=user_key,
                user_iv=user_iv,
            ),
        )
        for destination, certificate in zip(ready.destinations, ready.ec2_certificates, strict=True)
    )
