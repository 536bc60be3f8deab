"""Metrics for Prometheus: jobs by state, bytes moved, durations of jobs, retries, hooks.

Totals grow while a job runs: each is the sum over ended jobs plus the progress of running jobs, added up per request.
`docs/monitoring.md` describes each metric.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from amistream import __version__
from amistream.daemon.hooks import HOOKS, OUTCOMES
from amistream.events import BundleResult, ConversionResult, JobKind, State
from amistream.flow.retry import RETRIES
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.ports.snapshots import BLOCK

if TYPE_CHECKING:
    from amistream.fleet.intake import Intake

DURATION_BUCKETS_S = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200)
"""Guess: an empty volume takes a second, 10 GiB over a slow line two hours."""


class Metrics:
    """Counts the jobs that run through `watched(run)`; `text(queue)` makes the page."""

    def __init__(self) -> None:
        # They would add a series for each of the histogram's.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation there
        self._running: set[Job] = set()
        self._ended_bytes: Counter[str] = Counter()
        self._ended_jobs: Counter[tuple[JobKind, State]] = Counter()
        self._last_successes: dict[JobKind, float] = {}
        self.hook_runs: Counter[tuple[str, str]] = Counter()
        """Ends of hooks, by hook and outcome."""
        self.job_ended = asyncio.Event()
        """Set with each end of a job."""
        self._registry = CollectorRegistry()
        self._durations = Histogram(
            "amistream_job_duration_seconds",
            "From a job's start to its end, by kind and end state",
            ["kind", "state"],
            buckets=DURATION_BUCKETS_S,
            registry=self._registry,
        )
        # Reads /proc/self, which is in memory: the event loop may wait for it.
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def watched(self, run: Callable[[Job], Awaitable[None]]) -> Callable[[Job], Awaitable[None]]:
        async def run_and_count(job: Job) -> None:
            self._running.add(job)
            try:
                await run(job)
            finally:
                self._running.discard(job)
                self._count(job)
                self.job_ended.set()

        return run_and_count

    def _count(self, job: Job) -> None:
        kind = job.request.kind
        self._ended_bytes.update(_moved(job))
        self._ended_jobs[kind, job.state] += 1
        if job.state is State.DONE and job.ended_at:
            self._last_successes[kind] = job.ended_at.timestamp()
        if job.started_at and job.ended_at:
            lasted_s = (job.ended_at - job.started_at).total_seconds()
            self._durations.labels(kind.value, job.state.value).observe(lasted_s)

    def text(self, queue: JobQueue, intake: Intake | None = None) -> bytes:
        """Make the page for a client of the socket."""
        return self.own_text(queue, intake) + generate_latest(self._process)

    def own_text(self, queue: JobQueue, intake: Intake | None = None) -> bytes:
        """Make the page for a file: without the figures of the process, whose names node_exporter has for its own."""
        page = _Page(
            [
                *self._jobs(queue),
                *self._totals(),
                *self._requests(),
                *(_of_queue(intake) if intake is not None else ()),
            ]
        )
        return generate_latest(page) + generate_latest(self._registry)

    def _jobs(self, queue: JobQueue) -> Iterator[Metric]:
        build = GaugeMetricFamily("amistream_build_info", "1, with the version", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        jobs = queue.jobs()
        now = GaugeMetricFamily("amistream_jobs", "Jobs the daemon remembers, by state", labels=["state"])
        states = Counter(job.state for job in jobs)
        for state in State:
            now.add_metric([state.value], states[state])
        yield now
        ended = CounterMetricFamily(
            "amistream_jobs_ended", "Jobs that ran and ended, by kind and end state", labels=["kind", "state"]
        )
        for kind in JobKind:
            for state in State:
                if state.ended:
                    ended.add_metric([kind.value, state.value], self._ended_jobs[kind, state])
        yield ended
        succeeded = GaugeMetricFamily(
            "amistream_last_success_timestamp_seconds",
            "When the newest job that is done ended, in Unix time, by kind",
            labels=["kind"],
        )
        # Jobs of earlier processes are among those of the queue.
        newest = self._last_successes
        for job in jobs:
            if job.state is State.DONE and job.ended_at:
                newest[job.request.kind] = max(newest.get(job.request.kind, 0.0), job.ended_at.timestamp())
        for kind, moment in sorted(newest.items()):
            succeeded.add_metric([kind.value], moment)
        yield succeeded

    def _requests(self) -> Iterator[Metric]:
        in_flight = sum(job.progress.bytes_in_flight for job in self._running if job.progress)
        yield GaugeMetricFamily(
            "amistream_in_flight_bytes", "Bytes of the parts and blocks that are being stored", value=in_flight
        )
        retries = CounterMetricFamily(
            "amistream_retries", "Requests that were repeated, by the code of the error before", labels=["code"]
        )
        for code, count in sorted(RETRIES.items()):
            retries.add_metric([code], count)
        yield retries
        hooks = CounterMetricFamily(
            "amistream_hook_runs", "Commands of on_success and on_failure, by outcome", labels=["hook", "outcome"]
        )
        # All from the start, because the step from no series to 1 is no increase for Prometheus.
        for hook in sorted({*HOOKS.values()}):
            for outcome in OUTCOMES:
                hooks.add_metric([hook, outcome], self.hook_runs[hook, outcome])
        yield hooks

    def _totals(self) -> Iterator[Metric]:
        moved = self._ended_bytes.copy()
        for job in self._running:
            moved.update(_moved(job))
        yield CounterMetricFamily("amistream_read_bytes", "Bytes of volumes read", value=moved["read"])
        yield CounterMetricFamily("amistream_stored_bytes", "Bytes of parts and blocks stored", value=moved["stored"])
        yield CounterMetricFamily("amistream_bundled_bytes", "Bytes of finished bundles", value=moved["bundled"])
        yield CounterMetricFamily(
            "amistream_converted_bytes", "Bytes of the blocks of finished snapshots", value=moved["converted"]
        )


def _of_queue(intake: Intake) -> Iterator[Metric]:
    """The queue from which the daemon takes jobs."""
    counts, health = intake.counts, intake.health()
    for name, about, value in (
        ("received", "Messages received", counts.received),
        ("redeliveries", "Messages received that had been received before", counts.redelivered),
        ("given_back", "Messages given back to the queue", counts.given_back),
        ("dead_letters", "Messages that failed for good", counts.dead),
        ("leases_lost", "Jobs that stopped because their lease was not confirmed", intake.leases_lost),
        ("failed_heartbeats", "Extensions of leases that failed", intake.failed_beats),
        ("results_given_up", "Results that the outlet refused for days", intake.results_given_up),
    ):
        yield CounterMetricFamily(f"amistream_queue_{name}", about, value=value)
    results = CounterMetricFamily("amistream_queue_results", "Results of jobs of the queue", labels=["outcome"])
    for state in (State.DONE, State.REFUSED, State.FAILED, State.CANCELLED):
        results.add_metric([state.value], counts.results[state.value])
    yield results
    yield GaugeMetricFamily("amistream_queue_jobs", "Jobs of the queue that run or wait here", value=health.jobs)
    yield GaugeMetricFamily("amistream_queue_results_waiting", "Results to be sent", value=health.results_waiting)
    yield GaugeMetricFamily(
        "amistream_queue_trouble", "1 while the queue or the outlet fails", value=bool(health.errors)
    )
    if health.lease_s is not None:
        yield GaugeMetricFamily("amistream_queue_lease_seconds", "Until the first lease ends", value=health.lease_s)


@dataclass(frozen=True)
class _Page:
    """The metric families of one page, in the form that `generate_latest` takes."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


def _moved(job: Job) -> Counter[str]:
    reads_volume = job.request.kind in {JobKind.BUNDLE, JobKind.CONVERT}
    return Counter(
        read=job.progress.bytes_done if job.progress and reads_volume else 0,
        stored=job.progress.bytes_stored if job.progress else 0,
        bundled=job.result.bundled_size if isinstance(job.result, BundleResult) else 0,
        converted=job.result.blocks * BLOCK if isinstance(job.result, ConversionResult) else 0,
    )
