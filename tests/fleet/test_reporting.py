"""The daemon's metrics and its line in `systemctl status`, with a queue."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from amistream.daemon.metrics import Metrics
from amistream.daemon.status import PERIOD_S, Status, jobs_text
from amistream.errors import StoreError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.request import parse_request
from daemon.rig import progress
from fleet.rig import Rig, running

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def metrics(rig: Rig) -> dict[str, float]:
    """The samples about the queue; those with a label under its value."""
    page = Metrics().text(rig.jobs, rig.intake).decode()
    return {
        ":".join([sample.name.removeprefix("amistream_queue_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("amistream_queue_")
    }


async def test_metrics(tmp_path: Path) -> None:
    """Messages, results, dead letters and leases are counted; gauges have the present state."""
    async with running(tmp_path) as rig:
        before = metrics(rig)
        assert set(before.values()) == {0}
        rig.queue.put("no message")
        job = await rig.begin("web")
        await rig.queue.wait_until(lambda: len(rig.dead.waiting) == 1)
        found = metrics(rig)
        assert (found["received_total"], found["redeliveries_total"], found["jobs"]) == (2, 0, 1)
        assert (found["results_total:refused"], found["dead_letters_total"]) == (1, 1)
        assert 200 < found["lease_seconds"] <= 300
        rig.queue.faults["extend"] = StoreError("aws.AccessDenied", "cannot hold messages")
        await rig.pass_time(110)
        found = metrics(rig)
        assert (found["trouble"], found["failed_heartbeats_total"] > 0, found["leases_lost_total"]) == (1, True, 0)
        del rig.queue.faults["extend"]
        await rig.hands.end(job)
        await rig.settle()
        # The result arrives before the sender counts anew.
        await rig.queue.wait_until(lambda: metrics(rig)["results_waiting"] == 0)
        found = metrics(rig)
        assert (found["results_total:done"], found["jobs"]) == (1, 0)


async def test_the_status_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the jobs and the trouble, also while the daemon stops, and is sent when it changes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with running(tmp_path / "state") as rig:
            status = Status("amistream on a socket", rig.jobs)
            status.send("READY=1")
            job = await rig.begin("web")
            status.intake = rig.intake
            for _ in range(2):
                status.send()
            job.report(progress(430))
            status.send()
            rig.queue.faults["receive"] = StoreError("aws.AccessDenied", "cannot receive:\nMAINPID=1")
            await rig.hands.end(job)
            await rig.pass_time(25)
            await rig.queue.wait_until(lambda: bool(rig.intake.health().errors))
            async with status.shown():
                await rig.pass_time(PERIOD_S + 1)
            rig.intake.stop()
            status.stop()
            del rig.queue.faults["receive"]
        lines = [manager.recv(300).decode() for _ in range(5)]
        assert lines == [
            "READY=1\nSTATUS=amistream on a socket",
            "STATUS=amistream on a socket; 1 running: web checking; 1 job of the queue",
            "STATUS=amistream on a socket; 1 running: web 43 %; 1 job of the queue",
            "STATUS=amistream on a socket; 0 jobs of the queue; cannot receive: MAINPID=1",
            (
                "STOPPING=1\nSTATUS=waiting for the jobs to end; 0 jobs of the queue, no more are taken; "
                "cannot receive: MAINPID=1"
            ),
        ]


def test_the_names_of_jobs() -> None:
    """At most four running jobs are named: by their label, their name, their AMI, or the end of a path."""
    requests: list[dict[str, Any]] = [
        {"source": "/dev/xvdf", "destinations": ["s3://bucket/images/web-1/"]},
        {"source": "/dev/xvdf", "destinations": ["s3://bucket/web"], "label": "nightly"},
        {"source": "/dev/xvdf", "destinations": ["s3://bucket/web"], "ami_name": "db-1"},
        {"kind": "verify", "manifest": "s3://bucket/web/image.manifest.xml"},
        {"source": "/dev/xvdf", "destinations": ["s3://bucket/web"]},
        {"source": "/dev/xvdf", "destinations": ["s3://bucket/web"]},
    ]
    jobs = [Job(parse_request(each)) for each in requests]
    for job in jobs[:-1]:
        job.move(State.CHECKING)
    jobs[0].report(progress(430))
    assert jobs_text(jobs) == [
        "5 running: web-1 43 %, nightly checking, db-1 checking, image.manifest.xml checking, ...",
        "1 queued",
    ]
    assert jobs_text([]) == []
