"""The daemon's metrics and its line in `systemctl status`, with a queue."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from amistream.daemon.main import Status
from amistream.daemon.metrics import Metrics
from amistream.errors import StoreError
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
    """The line has the number of jobs and the trouble, is sent when it changes, and says nothing while stopping."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        status = Status("amistream on a socket")
        status.tell(None)
        async with running(tmp_path / "state") as rig:
            job = await rig.begin("web")
            for _ in range(2):
                status.tell(rig.intake)
            rig.queue.faults["receive"] = StoreError("aws.AccessDenied", "cannot receive:\nMAINPID=1")
            await rig.hands.end(job)
            await rig.pass_time(25)
            await rig.queue.wait_until(lambda: bool(rig.intake.health().errors))
            status.tell(rig.intake)
            rig.intake.stop()
            status.tell(rig.intake)
            status.stop()
            del rig.queue.faults["receive"]
            status.tell(rig.intake)
        lines = [manager.recv(300).decode() for _ in range(5)]
        assert lines == [
            "STATUS=amistream on a socket",
            "STATUS=amistream on a socket; 1 job of the queue",
            "STATUS=amistream on a socket; 0 jobs of the queue; cannot receive: MAINPID=1",
            "STATUS=amistream on a socket; 0 jobs of the queue, no more are taken; cannot receive: MAINPID=1",
            "STOPPING=1\nSTATUS=waiting for the jobs to end",
        ]
