"""The metrics for Prometheus."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from amistream.daemon import metrics
from amistream.daemon.metrics import Metrics
from amistream.daemon.textfile import writing_textfile
from amistream.errors import StoreError
from amistream.events import State
from amistream.flow import retry
from amistream.flow.retry import Alive, RetryPolicy
from amistream.jobs.job import End, Job
from daemon.rig import Daemon, StartDaemon, progress
from jobs.converting import RESULT
from jobs.queueing import request


async def samples(daemon: Daemon) -> dict[tuple[str, ...], float]:
    answer = await daemon.ask("GET", "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return parsed(answer.body)


def parsed(page: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
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
    """The end of a job counts once, under its kind and state, without a second series for its time."""
    async with start_daemon() as daemon:
        done = await daemon.submit_and_begin("a")
        await daemon.script.end(done)
        stopped = await daemon.submit_and_begin("b")
        await daemon.queue.cancel(stopped.id)
        await stopped.ended.wait()
        found = await samples(daemon)
        ended = "amistream_jobs_ended_total"
        assert (found[ended, "bundle", "done"], found[ended, "bundle", "cancelled"]) == (1, 1)
        assert found[ended, "convert", "failed"] == 0
        assert found["amistream_job_duration_seconds_count", "bundle", "done"] == 1
        assert not [name for name, *_ in found if name.endswith("_created")]


async def test_process_is_measured(start_daemon: StartDaemon) -> None:
    """The daemon's own memory is among the metrics."""
    async with start_daemon() as daemon:
        assert (await samples(daemon))["process_resident_memory_bytes",] > 0


async def test_the_last_success(start_daemon: StartDaemon) -> None:
    """The newest success of each kind has its time, also after a restart; kinds without one have none."""
    async with start_daemon() as daemon:
        assert ("amistream_last_success_timestamp_seconds", "bundle") not in await samples(daemon)
        done = await daemon.submit_and_begin("a")
        await daemon.script.end(done)
        assert done.ended_at
        found = await samples(daemon)
        assert found["amistream_last_success_timestamp_seconds", "bundle"] == done.ended_at.timestamp()
        # A daemon that starts later has the job from its journal.
        page = parsed(Metrics().own_text(daemon.queue).decode())
        assert page["amistream_last_success_timestamp_seconds", "bundle"] == done.ended_at.timestamp()


async def test_requests(start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated requests are counted by the code of the error, and what is under way is shown while jobs run."""

    async def fail(_: Alive) -> None:
        raise StoreError("store.testing", "cannot store: a test", transient=True)

    monkeypatch.setattr(retry, "RETRIES", Counter())
    monkeypatch.setattr(metrics, "RETRIES", retry.RETRIES)
    with pytest.raises(StoreError):
        await retry.with_retries(RetryPolicy(attempts=3, base_s=0, cap_s=0, stall_s=60), "store", fail)
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin("a")
        job.report(progress(600).model_copy(update={"bytes_in_flight": 20}))
        found = await samples(daemon)
        assert found["amistream_retries_total", "store.testing"] == 2
        assert found["amistream_in_flight_bytes",] == 20
        await daemon.script.end(job)
        assert (await samples(daemon))["amistream_in_flight_bytes",] == 0


async def test_the_textfile(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The file is there from the start, is replaced with the end of a job, and every user can read it."""
    path = tmp_path / "a.prom"
    async with start_daemon() as daemon:
        made = Metrics()
        run = made.watched(daemon.script.run)
        changed = asyncio.Event()

        def text() -> bytes:
            changed.set()
            return made.own_text(daemon.queue)

        async with writing_textfile(path, text, made.job_ended):
            await changed.wait()
            job = Job(request("a"))
            task = asyncio.ensure_future(run(job))
            await daemon.script.wait_begun()
            await daemon.script.end(job)
            await task
        found = path.read_text()
        assert 'amistream_jobs_ended_total{kind="bundle",state="done"} 1.0' in found
        assert "amistream_build_info{" in found
        assert "\nprocess_" not in found
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert [each.name for each in tmp_path.glob("*.prom*")] == ["a.prom"]


async def test_a_textfile_that_cannot_be_written(tmp_path: Path) -> None:
    """The trouble is in the log once, and nothing else happens."""
    with capture_logs() as log:
        async with writing_textfile(tmp_path / "no" / "a.prom", lambda: b"", asyncio.Event()):
            pass
    assert [(line["event"], line["reason"]) for line in log] == [("metrics.textfile", "No such file or directory")]
