"""One run of one job: check, bundle, commit, register; from the start, or from where an earlier run was cut short.

The journal is always a step ahead of what exists outside: what was settled is in it before the first part is sent,
each part before it leaves, and the manifest before it is put. So whatever a crash leaves can be finished or removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from amistream.aws import buckets
from amistream.errors import RefusedError, first_cause
from amistream.events import JobResult, State
from amistream.flow.undo import Undo
from amistream.jobs import preflight
from amistream.jobs.destination import Address, Destination
from amistream.jobs.job import Job
from amistream.jobs.journal import Bundling, Journal, Kept, SealedPart
from amistream.jobs.progress import ProgressMeter, advice
from amistream.jobs.resume import PartLedger, check_object, check_stored, prove, remove, resumption
from amistream.keys import BundleKey, unwrap, wrap
from amistream.pipeline import Pipeline
from amistream.stages.manifest import WrappedKeys, write_manifest
from amistream.stages.register import register, wait_available
from amistream.stores.port import whole_checksum
from amistream.values import ChangedError, Measured, manifest_name, part_name

if TYPE_CHECKING:
    from threading import Semaphore

    from amistream.pipeline import Plan

PROGRESS_PERIOD_S = 0.25


class Run:
    """`run` brings the job as far as it goes and raises the first cause; what it made by then is in `undo`."""

    def __init__(self, job: Job, kept: Kept, address: Address, journal: Journal, slots: Semaphore) -> None:
        self._job = job
        self._kept = kept
        self._address = address
        self._journal = journal
        self._slots = slots
        self._settings = address.settings
        self._ledger = PartLedger(journal, job.id)
        self.undo = Undo()

    @property
    def parts(self) -> int:
        """Parts that were sent, or were about to be."""
        return len(self._ledger.parts)

    @property
    def worth_keeping(self) -> bool:
        """Whether something is stored that a later run need not store again."""
        return self._kept.manifest is not None or any(part.stored for part in self._ledger.parts)

    async def run(self) -> JobResult:
        started, cpu_started = time.perf_counter(), time.process_time()
        await self._move(State.CHECKING)
        async with AsyncExitStack() as stack:
            manifest, result = self._kept.manifest, self._kept.result
            if manifest is None or result is None:
                ready = await preflight.check(self._address, self._job.note, bundling=self._kept.bundling)
                stack.push_async_callback(ready.close)
                stack.push_async_callback(ready.destination.store.close)
                manifest, result = await self._bundle(ready)
                destination = ready.destination
            else:
                destination = await self._take_up(stack)
            await self._commit(destination, manifest)
            image_id = await self._register(destination)
        return result.model_copy(
            update={
                "image_id": image_id,
                "elapsed_s": round(time.perf_counter() - started, 3),
                "cpu_s": round(time.process_time() - cpu_started, 3),
            }
        )

    async def _take_up(self, stack: AsyncExitStack) -> Destination:
        """The destination of a run that has nothing left to bundle; the parts are asked for once more."""
        assert self._kept.bundling is not None  # noqa: S101 - for the type checker; there is a manifest
        destination = await open_destination(self._address, self._kept.bundling)
        stack.push_async_callback(destination.store.close)
        parts = await self._journal.parts(self._job.id)
        self._own(destination, self._kept.bundling.plan, parts)
        await self._move(State.COMMITTING)
        await destination.store.tidy({})
        try:
            await check_stored(destination.store, self._kept.bundling.plan.prefix, parts)
        except BaseException:
            await self._journal.reopen(self._job.id)
            raise
        return destination

    async def _bundle(self, ready: preflight.Ready) -> tuple[bytes, JobResult]:
        """Store every part; returns the manifest and what is known of the bundle. Both are in the journal then."""
        store = ready.destination.store
        bundling = self._kept.bundling
        if bundling is None:
            bundling, key, parts = *await self._begin(ready), []
        else:
            key = await asyncio.to_thread(unwrap, ready.identity, bundling.wrapped.user_key, bundling.wrapped.user_iv)
            parts = await prove(store, bundling.plan.prefix, await self._journal.parts(self._job.id))
            self._own(ready.destination, bundling.plan, parts)
        await self._move(State.BUNDLING)
        try:
            pipeline, meter, measured = await self._pass(ready, bundling, key, parts)
        except ChangedError:
            self._job.note(f"{ready.volume.path} is not what it was when this job began: starting over under a new key")
            await self._start_over()
            bundling, key = await self._begin(ready)
            pipeline, meter, measured = await self._pass(ready, bundling, key, [])

        await self._move(State.COMMITTING)
        await check_stored(store, bundling.plan.prefix, self._ledger.parts)
        manifest = await asyncio.to_thread(
            write_manifest, bundling.facts, measured, bundling.wrapped, ready.identity.sign
        )
        bottleneck, stages = meter.overall()
        result = JobResult(
            manifest=f"{store.location}/{manifest_name(bundling.plan.prefix)}",
            image_id=None,
            image_name=bundling.registration.name if bundling.registration else None,
            region=bundling.region or None,
            image_size=measured.image_size,
            bundled_size=measured.split.bundled_size,
            parts=len(measured.split.parts),
            digest=measured.archive.sha1.hex(),
            elapsed_s=0,
            cpu_s=0,
            bottleneck=bottleneck,
            advice=advice(bottleneck),
            compression=dict(pipeline.deflate.bytes_by_kind),
            stages=stages,
        )
        await self._journal.commit(self._job.id, manifest, result)
        return manifest, result

    async def _begin(self, ready: preflight.Ready) -> tuple[Bundling, BundleKey]:
        """Settle what every pass of this job keeps to, under a new key, and enter it."""
        key = BundleKey.generate()
        bundling = Bundling(
            plan=ready.plan,
            image_size=ready.volume.size,
            mtime=ready.volume.mtime,
            facts=ready.facts,
            wrapped=await asyncio.to_thread(_wrap_keys, ready, key),
            region=ready.destination.region,
            registration=ready.destination.registration,
        )
        self._ledger = PartLedger(self._journal, self._job.id)
        await self._journal.begin(self._job.id, bundling)
        return bundling, key

    async def _pass(
        self, ready: preflight.Ready, bundling: Bundling, key: BundleKey, parts: list[SealedPart]
    ) -> tuple[Pipeline, ProgressMeter, Measured]:
        self._ledger = PartLedger(self._journal, self._job.id, parts)
        if bundling.image_size != ready.volume.size:
            raise ChangedError
        pipeline = Pipeline(
            bundling.plan,
            ready.volume,
            ready.destination.store,
            key,
            self.undo,
            slots=self._slots,
            ledger=self._ledger,
            resumption=resumption(bundling, parts),
        )
        meter = ProgressMeter(pipeline)
        return pipeline, meter, await _reporting(self._job, pipeline, meter)

    async def _start_over(self) -> None:
        """Remove what an earlier pass stored, or what is stored under the new key would not go under the same names."""
        left = await self.undo.run()
        if left:
            raise RefusedError(
                "resume.in_the_way",
                f"cannot start over: what was stored could not be removed ({left[0]})",
                hint="when that is mended, cancel the job, which removes it, and submit it again",
            )

    async def _commit(self, destination: Destination, manifest: bytes) -> None:
        store, name = destination.store, manifest_name(self._address.prefix)
        sha1 = hashlib.sha1(manifest, usedforsecurity=False).digest()
        self.undo.push(f"{store.location}/{name}", partial(store.delete, name))
        await store.commit(name, manifest, sha1)
        await check_object(store, name, len(manifest), whole_checksum(sha1))

    async def _register(self, destination: Destination) -> str | None:
        ec2, registration = destination.ec2, destination.registration
        if ec2 is None or registration is None:
            return None
        await self._move(State.REGISTERING)
        image_id = ""

        async def deregister() -> None:
            found = await ec2.find(registration.name)
            if found is not None and (found.id == image_id or found.location == registration.location):
                await ec2.deregister(found.id)

        self.undo.push(f"the AMI {registration.name!r}", deregister)
        # An earlier run may have registered and not lived to hear of it.
        found = await ec2.find(registration.name) if self._kept.manifest is not None else None
        if found is not None and found.location == registration.location:
            image_id = found.id
        else:
            image_id = await register(ec2, registration, destination.retry)
        await wait_available(
            ec2,
            image_id,
            timeout_s=self._settings.register_timeout_s,
            poll_s=self._settings.register_poll_s,
            retry=destination.retry,
        )
        return image_id

    def _own(self, destination: Destination, plan: Plan, parts: list[SealedPart]) -> None:
        """Take over what an earlier run stored: it counts, and it goes if this run is undone."""
        self._ledger = PartLedger(self._journal, self._job.id, parts)
        store = destination.store
        for part in parts:
            name = part_name(plan.prefix, part.digest.index)
            self.undo.push(f"{store.location}/{name}", partial(store.delete, name))

    async def _move(self, state: State) -> None:
        self._job.move(state)
        await self._journal.tell(self._job.view())


async def open_destination(address: Address, bundling: Bundling) -> Destination:
    """The place an earlier run wrote to, with nothing checked."""
    store = await address.store(bundling.region)
    await store.open()
    return Destination(
        store=store,
        retry=address.retry,
        region=bundling.region,
        ec2=await address.ec2(bundling.region) if bundling.registration else None,
        registration=bundling.registration,
    )


async def remove_kept(address: Address, kept: Kept, parts: list[SealedPart]) -> None:
    """Remove what the journal proves a job made: its AMI, its manifest, its parts. Raises `StoreError`."""
    if kept.bundling is None:
        await _remove_probe(address)
        return
    destination = await open_destination(address, kept.bundling)
    store, registration = destination.store, destination.registration
    try:
        if kept.manifest is not None and destination.ec2 is not None and registration is not None:
            found = await destination.ec2.find(registration.name)
            if found is not None and found.location == registration.location:
                await destination.ec2.deregister(found.id)
        manifest = kept.manifest
        own = []
        if manifest is not None:
            checksum = whole_checksum(hashlib.sha1(manifest, usedforsecurity=False).digest())
            own.append((manifest_name(address.prefix), len(manifest), checksum))
        await remove(store, kept.bundling.plan.prefix, parts, own)
    finally:
        await store.close()


async def _remove_probe(address: Address) -> None:
    """All that a run makes before it begins to bundle."""
    if address.directory is None:
        region = await buckets.bucket_region(
            address.aws,
            address.bucket,
            region=address.request.region or "",
            endpoint_url=address.endpoint_url,
            timeout_s=address.settings.stall_timeout_s,
        )
        await (await address.store(region)).delete(address.probe_name)


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
    job.report(meter.sample())
    return measured


def _wrap_keys(ready: preflight.Ready, key: BundleKey) -> WrappedKeys:
    ec2, user = ready.ec2_certificate, ready.identity.certificate
    return WrappedKeys(
        ec2_key=wrap(ec2, key.key),
        ec2_iv=wrap(ec2, key.iv),
        user_key=wrap(user, key.key),
        user_iv=wrap(user, key.iv),
    )
