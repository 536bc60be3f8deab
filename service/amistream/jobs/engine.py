"""Runs one job from its request to its end: check, bundle, commit, register; and cleans up when it does not end well.

The same engine serves the daemon and `--in-process`. It holds what jobs share: the AWS clients and the compute slots.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from contextlib import AsyncExitStack
from typing import Self

import structlog

from amistream.aws.session import Aws
from amistream.errors import AmistreamError, RegisterError, first_cause
from amistream.events import JobResult, State
from amistream.flow.undo import Undo
from amistream.jobs import preflight
from amistream.jobs.job import Job
from amistream.jobs.progress import ProgressMeter, advice
from amistream.keys import BundleKey, wrap
from amistream.pipeline import Pipeline
from amistream.settings import Settings
from amistream.stages.manifest import WrappedKeys, write_manifest
from amistream.stages.register import Registration, register, wait_available
from amistream.values import Measured, manifest_name

log = structlog.get_logger()

PROGRESS_PERIOD_S = 0.25


class Engine:
    """`async with Engine(settings) as engine: await engine.run(job)`; any number of jobs, also at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._aws = Aws(settings)
        # All jobs together never work on more blocks at a time than there are cores.
        self._slots = threading.Semaphore(settings.worker_count())

    async def __aenter__(self) -> Self:
        await self._aws.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._aws.__aexit__()

    async def run(self, job: Job) -> None:
        """Bring a queued job to its end. Raises only CancelledError, after cleaning up; all else is the job's state."""
        undo = Undo()
        with structlog.contextvars.bound_contextvars(job=job.id):
            try:
                result = await self._run(job, undo)
                undo.forget()
                job.finish(result)
            except asyncio.CancelledError:
                await self._clean(job, undo)
                job.move(State.CANCELLED)
                raise
            except RegisterError as error:
                undo.forget()
                job.fail(error)
            except AmistreamError as error:
                refused = job.state is State.CHECKING
                await self._clean(job, undo)
                job.fail(error, State.REFUSED if refused else State.FAILED)
            except Exception as error:
                log.exception("job.bug")
                await self._clean(job, undo)
                job.fail(
                    AmistreamError(
                        "internal.bug",
                        f"cannot go on: an error in amistream itself ({type(error).__name__})",
                        hint="please report it with the daemon's log of this job",
                    )
                )
            finally:
                _log_end(job)

    async def _run(self, job: Job, undo: Undo) -> JobResult:
        started, cpu_started = time.perf_counter(), time.process_time()
        job.move(State.CHECKING)
        async with AsyncExitStack() as stack:
            ready = await preflight.check(job.request, self._settings, self._aws, job.note)
            stack.push_async_callback(ready.close)
            stack.push_async_callback(ready.store.close)
            key = BundleKey.generate()
            wrapped = await asyncio.to_thread(_wrap_keys, ready, key)

            job.move(State.BUNDLING)
            pipeline = Pipeline(ready.plan, ready.volume, ready.store, key, undo, slots=self._slots)
            meter = ProgressMeter(pipeline)
            measured = await _reporting(job, pipeline, meter)
            bottleneck, stages = meter.overall()

            job.move(State.COMMITTING)
            name = manifest_name(ready.plan.prefix)
            manifest = await asyncio.to_thread(write_manifest, ready.facts, measured, wrapped, ready.identity.sign)
            undo.push(f"{ready.store.location}/{name}", lambda: ready.store.delete(name))
            await ready.store.commit(name, manifest, hashlib.sha1(manifest, usedforsecurity=False).digest())

            image_id = None
            if ready.ec2 is not None and ready.registration is not None:
                job.move(State.REGISTERING)
                image_id = await self._register(ready, ready.registration, undo)
        return JobResult(
            manifest=f"{ready.store.location}/{name}",
            image_id=image_id,
            image_name=ready.registration.name if ready.registration else None,
            region=ready.region or None,
            image_size=measured.image_size,
            bundled_size=measured.split.bundled_size,
            parts=len(measured.split.parts),
            digest=measured.archive.sha1.hex(),
            elapsed_s=round(time.perf_counter() - started, 3),
            cpu_s=round(time.process_time() - cpu_started, 3),
            bottleneck=bottleneck,
            advice=advice(bottleneck),
            compression=dict(pipeline.deflate.bytes_by_kind),
            stages=stages,
        )

    async def _register(self, ready: preflight.Ready, registration: Registration, undo: Undo) -> str:
        ec2 = ready.ec2
        assert ec2 is not None  # noqa: S101 - for the type checker; the caller looked

        async def deregister() -> None:
            found = await ec2.find(registration.name)
            if found is not None and (found.id == image_id or found.location == registration.location):
                await ec2.deregister(found.id)

        image_id = ""
        undo.push(f"the AMI {registration.name!r}", deregister)
        image_id = await register(ec2, registration, ready.retry)
        await wait_available(
            ec2,
            image_id,
            timeout_s=self._settings.register_timeout_s,
            poll_s=self._settings.register_poll_s,
            retry=ready.retry,
        )
        return image_id

    async def _clean(self, job: Job, undo: Undo) -> None:
        for left in await undo.run():
            job.note(f"could not be removed, please do it yourself: {left}")


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


def _log_end(job: Job) -> None:
    view = job.view()
    facts = view.model_dump(mode="json", include={"source", "destinations", "result", "error"})
    if view.result is not None:
        facts["result"].pop("stages")
    level = log.info if job.state is State.DONE else log.warning
    level("job.end", state=job.state.value, **facts)
