"""Runs jobs as the daemon does and reports their figures: `python -m benchmarks.child`.

Reads a `Batch` as JSON from standard input, writes one line of `Figures` for each job. Before the jobs it bundles a
tiny volume to each destination, so that what is loaded and connected once in a daemon's life is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

import uvloop

from amistream import log
from amistream.aws.session import Aws
from amistream.checks import preflight
from amistream.checks.destination import Destination
from amistream.events import BundleResult, State
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.keys import BundleKey
from amistream.pipeline import Pipeline
from amistream.ports.store import OnBytes, whole_checksum
from amistream.process import settle_memory
from amistream.request import BundleRequest, TreeFields, parse_bundle_request
from amistream.settings import LogFormat, Settings
from amistream.values import KIB
from benchmarks.jobs import Batch, Figures, JobSpec, Lateness
from benchmarks.sink_process import Sink
from benchmarks.timing import BenchmarkError

ACCOUNT = "123456789012"
TICK_S = 0.001
IDLE_S = 1.0


class NullStore:
    """A destination that keeps nothing, to measure a job without one."""

    location = "nowhere"

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data
        return whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        del name, sha1
        on_bytes(len(data))


class Worker:
    """One engine, and the jobs that it runs one after the other."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._settings = Settings(**batch.settings)

    async def run(self) -> None:
        """Every job of the batch; figures go to standard output."""
        async with Journal(self._settings.state_dir, by_itself=False) as journal, Aws(self._settings) as aws:
            engine = Engine(self._settings, journal, aws)
            for spec in self._warm_ups():
                await self._one(spec, engine)
            for spec in self._batch.jobs:
                figures = await self._one(spec, engine)
                print(figures.model_dump_json(), flush=True)

    def _warm_ups(self) -> list[JobSpec]:
        """A tiny job for each kind of destination: endpoint, directory (a new one) and nothing."""
        tiny = Path(self._batch.scratch) / "warm-up.img"
        tiny.write_bytes(random.Random(0).randbytes(256 * KIB) + bytes(256 * KIB))
        kinds = {(spec.endpoint_url, spec.destination is None): spec for spec in self._batch.jobs}
        warm_ups = []
        for spec in kinds.values():
            destination = spec.destination
            if destination is not None and not spec.endpoint_url:
                destination += "-warm-up"
            options = {name: value for name, value in spec.options.items() if name not in TreeFields.model_fields}
            changes = {"source": str(tiny), "destination": destination, "options": options}
            warm_ups.append(spec.model_copy(update={**changes, "ticker": False, "interrupt_at": None}))
        return warm_ups

    async def _one(self, spec: JobSpec, engine: Engine) -> Figures:
        request = self._request(spec)
        idle: list[float] = []
        busy: list[float] = []
        if spec.ticker:
            async with _ticking(idle):
                await asyncio.sleep(IDLE_S)
        forget_peak()
        try:
            if spec.destination is None:
                figures = await self._into_nothing(request, busy if spec.ticker else None)
            else:
                figures = await self._whole_job(request, engine, spec, busy if spec.ticker else None)
        finally:
            if not spec.endpoint_url:
                for destination in request.destinations:
                    await asyncio.to_thread(shutil.rmtree, destination, ignore_errors=True)
        late = {"idle": _lateness(idle), "busy": _lateness(busy)} if spec.ticker else {}
        return Figures(peak_rss=peak_rss(), **figures, **late)

    def _request(self, spec: JobSpec) -> BundleRequest:
        destination = spec.destination or str(Path(self._batch.scratch) / "nothing")
        if spec.endpoint_url:
            # The sink remembers what it was sent, and no job overwrites another's bundle.
            destination += f"/{secrets.token_hex(4)}"
        values: dict[str, Any] = {
            "source": spec.source,
            "destinations": [f"{destination}-{number}" for number in range(spec.copies)],
            "account": ACCOUNT,
            "ec2_certificate": self._batch.ec2_certificate,
            **spec.options,
        }
        if spec.endpoint_url:
            values |= {"endpoint_url": spec.endpoint_url, "register_image": False}
        return parse_bundle_request(values)

    async def _whole_job(
        self, request: BundleRequest, engine: Engine, spec: JobSpec, late: list[float] | None
    ) -> dict[str, Any]:
        job = Job(request)
        await engine.enter(job)
        if spec.interrupt_at is not None:
            await _interrupt(engine, job, spec.interrupt_at)
            job = job.again()
        before = await _sent(spec)
        async with _ticking(late):
            cpu, wall = process_time(), perf_counter()
            await engine.run(job)
            wall, cpu = perf_counter() - wall, process_time() - cpu
        if job.state is not State.DONE or not isinstance(job.result, BundleResult):
            raise BenchmarkError(f"the job is {job.state}: {job.error.message if job.error else ''}")
        return {
            "size": job.result.image_size,
            "bundled_size": job.result.bundled_size,
            "wall_s": wall,
            "cpu_s": cpu,
            "bottleneck": job.result.bottleneck,
            "bytes_sent": await _sent(spec) - before,
        }

    async def _into_nothing(self, request: BundleRequest, late: list[float] | None) -> dict[str, Any]:
        """The data path alone. The checks make its plan as for any job, but for a directory that is then not used."""
        async with Aws(self._settings) as aws:
            ready = await preflight.check([Destination(request, self._settings, aws, "bench")], lambda _: None)
            try:
                async with _ticking(late):
                    cpu, wall = process_time(), perf_counter()
                    pipeline = Pipeline(ready.plan, ready.volume, NullStore(), BundleKey.generate())
                    measured = await pipeline.run()
                    wall, cpu = perf_counter() - wall, process_time() - cpu
            finally:
                await ready.close()
                await ready.destinations[0].store.close()
        return {
            "size": measured.image_size,
            "bundled_size": measured.split.bundled_size,
            "wall_s": wall,
            "cpu_s": cpu,
            "bottleneck": None,
        }


async def _sent(spec: JobSpec) -> int:
    """Bytes of objects that the sink has received so far; 0 for other destinations, and with HTTPS."""
    if not spec.endpoint_url or not spec.endpoint_url.startswith("http://"):
        return 0
    stats = await asyncio.to_thread(Sink(spec.endpoint_url).stats)
    return int(stats["object_bytes"])


async def _interrupt(engine: Engine, job: Job, stored: int) -> None:
    """Run the job until so many bytes are stored, then interrupt it as a stopping daemon does."""
    running = asyncio.create_task(engine.run(job))
    async for event in job.events():
        progress = event.job.progress
        if progress is not None and progress.bytes_stored >= stored:
            break
    job.cancel_requested = job.interrupt_requested = True
    running.cancel()
    await asyncio.wait({running})
    if job.state is not State.INTERRUPTED:
        raise BenchmarkError(f"the job was {job.state} before {stored} bytes were stored")


@asynccontextmanager
async def _ticking(late: list[float] | None) -> AsyncIterator[None]:
    """Record the lateness of each tick in seconds while the block runs; with None do nothing."""

    async def tick(late: list[float]) -> None:
        while True:
            started = perf_counter()
            await asyncio.sleep(TICK_S)
            late.append(max(0.0, perf_counter() - started - TICK_S))

    if late is None:
        yield
        return
    async with asyncio.TaskGroup() as group:
        task = group.create_task(tick(late))
        yield
        task.cancel()


def _lateness(late: list[float]) -> Lateness:
    steps = quantiles(late, n=100, method="inclusive")
    return Lateness(p50_s=steps[49], p99_s=steps[98], max_s=max(late), ticks=len(late))


def forget_peak() -> None:
    """Make the kernel count the peak anew; without that only the first job's figure is valid."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_rss() -> int:
    """Bytes. Not ru_maxrss, which begins with the memory of the parent process."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None  # noqa: S101 - Linux always says it
    return int(found[1]) * KIB


def main() -> None:
    settle_memory()
    batch = Batch.model_validate_json(sys.stdin.read())
    log.configure("error", LogFormat.TEXT)
    uvloop.run(Worker(batch).run())


if __name__ == "__main__":
    main()
