"""One run of one job: check, bundle, commit, register; from the start, or from where an earlier run was cut short.

The journal is always a step ahead of what exists outside: what was settled is in it before the first part is sent,
each part before it leaves, and the manifest before it is put. So whatever a crash leaves can be finished or removed.

A job may have several destinations. They share one pass over the volume; from the manifest on each goes its own way
(`lanes`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from amistream.checks import preflight
from amistream.checks.destination import Address, open_destination
from amistream.errors import AmistreamError, JobError, RefusedError, first_cause
from amistream.events import JobResult, PlaceResult, State
from amistream.flow.undo import Undo
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.lanes import Lanes
from amistream.jobs.ledger import PartLedger
from amistream.jobs.progress import ProgressMeter
from amistream.jobs.records import JournalEntry, SealedPart
from amistream.jobs.removal import remove_kept
from amistream.jobs.resume import check_volume, resumption
from amistream.keys import BundleKey, unwrap, wrap
from amistream.pipeline import Pipeline
from amistream.plan import Bundling, BundlingPlace
from amistream.stages.manifest import WrappedKeys, write_manifest
from amistream.stores.several import SeveralStores
from amistream.values import STANDARD_INPUT, ChangedError, Measured

if TYPE_CHECKING:
    from threading import Semaphore

log = structlog.get_logger()

PROGRESS_PERIOD_S = 0.25
UNDONE_AT_ONCE = 16
"""Parts removed at a time. Guess."""


class Run:
    """`run` brings the job as far as it goes and raises the first cause; `undo` removes what it made by then."""

    def __init__(
        self,
        job: Job,
        kept: JournalEntry,
        parts: Sequence[SealedPart],
        addresses: Sequence[Address],
        *,
        journal: Journal,
        slots: Semaphore,
    ) -> None:
        """`kept` and `parts` are what the journal has of earlier runs."""
        self._job = job
        self._kept = kept
        self._addresses = addresses
        self._journal = journal
        self._slots = slots
        self._ledger = PartLedger(journal, job.id, parts)
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._lanes = Lanes(job, kept, addresses, journal)
        self._undo = Undo(parallel=UNDONE_AT_ONCE)
        self.result: JobResult | None = kept.result
        """What is known of the bundle so far, with every destination that has it."""

    @property
    def parts(self) -> int:
        """Parts that were sent, or were about to be, by this run or an earlier one."""
        return len(self._ledger.parts)

    @property
    def worth_keeping(self) -> bool:
        """Whether something is stored that a later run need not store again."""
        return bool(self._kept.manifests or self._kept.done) or any(part.stored for part in self._ledger.parts)

    @property
    def is_whole(self) -> bool:
        """Whether every destination has its bundle, registered where that was asked for."""
        return self._lanes.is_whole

    @property
    def finished(self) -> list[PlaceResult]:
        """The destinations that have their bundle: no undoing touches them."""
        return self._lanes.finished

    async def undo(self) -> list[str]:
        """Remove what is there and not whole, of earlier runs too; returns what could not be removed."""
        left = [*await self._lanes.undo(), *await self._undo.run()]
        if self._kept.bundling is not None:
            # This run may not have come to know what an earlier one made: the journal does.
            try:
                await self._remove_kept()
            except AmistreamError as error:
                left.append(error.message)
            except Exception as error:
                log.exception("job.bug")
                left.append(f"what an earlier run stored: {type(error).__name__}")
        return left

    async def leave(self) -> None:
        """Once undone for good: a directory that was made, and is empty now, goes too."""
        await self._lanes.leave()

    async def _remove_kept(self) -> None:
        """Remove what the journal knows to be there and not whole."""
        kept = await self._journal.find(self._job.id)
        assert kept is not None  # noqa: S101 - for the type checker; nobody forgets a job that is not over
        parts = await self._journal.parts(self._job.id)
        await remove_kept(self._addresses, kept, parts, undone=self._lanes.own_images)

    async def run(self) -> JobResult:
        """Check, bundle, put and register, as far as an earlier run has not. Raises the first cause."""
        numbers = self._lanes.missing
        if not numbers:
            # An earlier process did it all and did not live to say so.
            self._job.move(State.CHECKING)
            self._job.move(State.COMMITTING)
            return self.conclude()
        await self._move(State.CHECKING)
        async with AsyncExitStack() as stack:
            if self._kept.result is None or any(number not in self._kept.manifests for number in numbers):
                await self._bundle(numbers, stack)
            else:
                await self._take_up(numbers, stack)
            await self._lanes.publish(self._ledger.parts, self._begin_registering)
        return self.conclude()

    def conclude(self) -> JobResult:
        """The result once every lane has come to its end. Raises when one failed."""
        assert self.result is not None  # noqa: S101 - for the type checker; there is a bundle
        spent = {
            "elapsed_s": round(time.perf_counter() - self._started, 3),
            "cpu_s": round(time.process_time() - self._cpu_started, 3),
        }
        self.result = self._lanes.tell(self.result.model_copy(update=spent))
        self._lanes.check()
        return self.result

    async def _bundle(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Store every part everywhere; then each lane that got through has its manifest, and so has the journal."""
        addresses = [self._addresses[number] for number in numbers]
        ready = await preflight.check(addresses, self._job.note, bundling=self._kept.bundling, numbers=numbers)
        stack.push_async_callback(ready.close)
        for number, destination in zip(numbers, ready.destinations, strict=True):
            self._lanes.open(number, destination, stack)
        store = self._lanes.store
        bundling = self._kept.bundling
        if bundling is None:
            bundling, key, parts = *await self._begin(ready), []
        else:
            user = bundling.places[0].wrapped
            key = await asyncio.to_thread(unwrap, ready.identity, user.user_key, user.user_iv)
            parts = await self._lanes.prove(bundling.plan.prefix, self._ledger.parts)
            self._ledger = PartLedger(self._journal, self._job.id, parts)
        await self._move(State.BUNDLING)
        try:
            pipeline, meter, measured = await self._pass(ready, bundling, key, parts, store)
        except ChangedError as change:
            # A slip of whoever sends it again, or redirects another file, must not cost what is stored.
            if self._job.request.source == STANDARD_INPUT:
                raise RefusedError(
                    "source.other_stream",
                    f"cannot go on: what standard input sends is not what it sent when the job began ({change})",
                    hint="send that again, from its beginning",
                    field="source",
                ) from None
            await self._start_over(f"{ready.volume.path} does not come out as when this job began ({change})")
            await asyncio.to_thread(ready.volume.rewind)
            bundling, key = await self._begin(ready)
            pipeline, meter, measured = await self._pass(ready, bundling, key, [], store)

        await self._move(State.COMMITTING)
        bottleneck, advice, stages = meter.overall()
        self.result = JobResult(
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
        await self._journal.conclude(self._job.id, self.result)
        for lane in self._lanes:
            lane.error = lane.member.error
            # One that was put, or was about to be, is of the same key and parts.
            if lane.error is None and lane.manifest is None:
                lane.manifest = await asyncio.to_thread(
                    write_manifest,
                    bundling.facts,
                    measured,
                    bundling.places[lane.number].wrapped,
                    ready.identity.sign,
                )

    async def _take_up(self, numbers: Sequence[int], stack: AsyncExitStack) -> None:
        """Open the destinations of a run that has nothing left to bundle."""
        bundling = self._kept.bundling
        assert bundling is not None  # noqa: S101 - for the type checker; there is a manifest
        for number in numbers:
            destination = await open_destination(self._addresses[number], bundling.places[number])
            self._lanes.open(number, destination, stack)
        await self._lanes.store.tidy({})
        await self._move(State.COMMITTING)

    async def _begin(self, ready: preflight.Ready) -> tuple[Bundling, BundleKey]:
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
        return bundling, key

    async def _pass(
        self,
        ready: preflight.Ready,
        bundling: Bundling,
        key: BundleKey,
        parts: Sequence[SealedPart],
        store: SeveralStores,
    ) -> tuple[Pipeline, ProgressMeter, Measured]:
        if bundling is self._kept.bundling:
            await check_volume(bundling, ready.volume)
        pipeline = Pipeline(
            bundling.plan,
            ready.volume,
            store,
            key,
            self._undo,
            slots=self._slots,
            ledger=self._ledger,
            resumption=resumption(bundling, parts),
        )
        meter = ProgressMeter(pipeline, limit=self._lanes.limit_upload)
        return pipeline, meter, await _reporting(self._job, pipeline, meter)

    async def _start_over(self, why: str) -> None:
        """Remove what an earlier pass stored, or what is stored under the new key would not go under the same names."""
        if self._kept.done:
            raise JobError(
                "resume.changed",
                f"cannot finish the other destinations: {why}",
                hint="what is complete stays; bundle again to the others",
            )
        self._job.note(f"{why}: starting over under a new key")
        await self._journal.tell(self._job.view())
        left = await self.undo()
        if left:
            raise RefusedError(
                "resume.in_the_way",
                f"cannot start over: what was stored could not be removed ({left[0]})",
                hint="when that is mended, cancel the job, which removes it, and submit it again",
            )
        self._lanes.start_over()

    async def _begin_registering(self) -> None:
        if self._job.state is not State.REGISTERING:
            await self._move(State.REGISTERING)

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._journal.tell(self._job.view())


async def _reporting(job: Job, pipeline: Pipeline, meter: ProgressMeter) -> Measured:
    """Run the pipeline and report its progress beside it, the last time when it is done."""

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


def _places(ready: preflight.Ready, key: BundleKey) -> tuple[BundlingPlace, ...]:
    """The key and IV for each destination's EC2 certificate, and for the user, once for all."""
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
