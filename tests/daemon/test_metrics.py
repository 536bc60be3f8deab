"""The metrics for Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from amistream.events import State
from amistream.jobs.job import End
from daemon.rig import Daemon, StartDaemon, progress
from jobs.converting import RESULT


async def samples(daemon: Daemon) -> dict[tuple[str, ...], float]:
    answer = await daemon.ask("GET", "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


async def test_jobs_are_counted_by_state(start_daemon: StartDaemon) -> None:
    """Each state has a gauge, also with no job in it."""
    async with start_daemon(max_jobs=1) as daemon:
        await daemon.submit_and_begin("a")
        await daemon.submit("b")
        found = await samples(daemon)
        assert (found["amistream_jobs", "checking"], found["amistream_jobs", "queued"]) == (1, 1)
        assert found["amistream_jobs", "done"] == 0


async def test_bytes_grow_while_a_job_runs_and_stay_when_it_has_ended(start_daemon: StartDaemon) -> None:
    """Totals hold running and ended jobs, each once."""
    async with start_daemon() as daemon:
        first = await daemon.submit_and_begin("a")
        first.report(progress(600))
        found = await samples(daemon)
        assert (found["amistream_read_bytes_total",], found["amistream_stored_bytes_total",]) == (600, 300)
        first.report(progress(1000))
        await daemon.script.end(first)
        second = await daemon.submit_and_begin("b")
        second.report(progress(10))
        found = await samples(daemon)
        assert (found["amistream_read_bytes_total",], found["amistream_stored_bytes_total",]) == (1010, 505)
        assert found["amistream_bundled_bytes_total",] == 400


async def test_blocks_of_snapshots(start_daemon: StartDaemon) -> None:
    """The blocks of a finished conversion are counted by their bytes."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin("a")
        job.move(State.CONVERTING)
        job.move(State.COMMITTING)
        job.end(End(State.DONE, result=RESULT))
        await daemon.script.end(job)
        assert (await samples(daemon))["amistream_converted_bytes_total",] == RESULT.blocks << 19


async def test_a_verification_reads_no_volume(start_daemon: StartDaemon) -> None:
    """The bytes that a verification checks are none of a volume."""
    async with start_daemon() as daemon:
        body = {"kind": "verify", "manifest": "s3://bucket/image.manifest.xml"}
        await daemon.ask("POST", "/v1/jobs", json=body)
        job = await daemon.script.wait_begun()
        job.report(progress(600))
        assert (await samples(daemon))["amistream_read_bytes_total",] == 0
        await daemon.queue.cancel(job.id)


async def test_ended_jobs_are_counted_with_their_duration(start_daemon: StartDaemon) -> None:
    """The end of a job counts once, under its state."""
    async with start_daemon() as daemon:
        done = await daemon.submit_and_begin("a")
        await daemon.script.end(done)
        stopped = await daemon.submit_and_begin("b")
        await daemon.queue.cancel(stopped.id)
        await stopped.ended.wait()
        found = await samples(daemon)
        assert (found["amistream_jobs_ended_total", "done"], found["amistream_jobs_ended_total", "cancelled"]) == (1, 1)
        assert found["amistream_job_duration_seconds_count", "done"] == 1


async def test_process_is_measured(start_daemon: StartDaemon) -> None:
    """The daemon's own memory is among the metrics."""
    async with start_daemon() as daemon:
        assert (await samples(daemon))["process_resident_memory_bytes",] > 0
