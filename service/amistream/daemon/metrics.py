"""Metrics for Prometheus: jobs by state, bytes moved, durations of jobs.

Totals grow while a job runs: each is the sum over ended jobs plus the progress of running jobs, added up per request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from amistream.events import BundleResult, ConversionResult, JobKind, State
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
        self._running: set[Job] = set()
        self._ended_bytes: Counter[str] = Counter()
        self._ended_jobs: Counter[State] = Counter()
        self._registry = CollectorRegistry()
        self._durations = Histogram(
            "amistream_job_duration_seconds",
            "From a job's start to its end, by end state",
            ["state"],
            buckets=DURATION_BUCKETS_S,
            registry=self._registry,
        )
        # Reads /proc/self, which is in memory: the event loop may wait for it.
        ProcessCollector(registry=self._registry)

    def watched(self, run: Callable[[Job], Awaitable[None]]) -> Callable[[Job], Awaitable[None]]:
        async def run_and_count(job: Job) -> None:
            self._running.add(job)
            try:
                await run(job)
            finally:
                self._running.discard(job)
                self._ended_bytes.update(_moved(job))
                self._ended_jobs[job.state] += 1
                if job.started_at and job.ended_at:
                    lasted_s = (job.ended_at - job.started_at).total_seconds()
                    self._durations.labels(job.state.value).observe(lasted_s)

        return run_and_count

    def text(self, queue: JobQueue, intake: Intake | None = None) -> bytes:
        page = _Page([*self._jobs(queue), *self._totals(), *(_of_queue(intake) if intake is not None else ())])
        return generate_latest(page) + generate_latest(self._registry)

    def _jobs(self, queue: JobQueue) -> Iterator[Metric]:
        now = GaugeMetricFamily("amistream_jobs", "Jobs the daemon remembers, by state", labels=["state"])
        states = Counter(job.state for job in queue.jobs())
        for state in State:
            now.add_metric([state.value], states[state])
        yield now
        ended = CounterMetricFamily("amistream_jobs_ended", "Jobs that ran and ended, by end state", labels=["state"])
        for state in State:
            if state.ended:
                ended.add_metric([state.value], self._ended_jobs[state])
        yield ended

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
