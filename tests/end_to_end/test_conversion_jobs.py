"""Conversions as a user runs them: a disk, the real daemon and commands, a strict endpoint over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from jobs.converting import Conversions, make_disk
from support.daemons import Daemon, running_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint


@pytest.fixture
def conversions(ebs_endpoint: EbsEndpoint, tmp_path: Path) -> Conversions:
    return Conversions(disk=make_disk(tmp_path / "converted.img"), endpoint=ebs_endpoint, directory=tmp_path)


def shown(daemon: Daemon, *argv: object) -> str:
    done = daemon.command(*argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(conversions: Conversions, daemon: Daemon) -> str:
    """Submit a job, and wait until one of its blocks is held in the middle; returns its id."""
    endpoint = conversions.endpoint
    endpoint.fault("PutSnapshotBlock", "pause", nth=12, times=None)
    made = daemon.command("convert", conversions.disk, "--ami-name", "web 1", "--puts", 2, "--detach")
    assert made.returncode == 0, made.stderr
    endpoint.wait_paused(2)
    return made.stdout.strip()


def test_a_disk_becomes_an_image_on_ebs(conversions: Conversions, tmp_path: Path) -> None:
    """One command makes snapshot and AMI; the other commands and the metrics show the job by its blocks."""
    endpoint, blocks = conversions.endpoint, len(conversions.blocks)
    with running_daemon(tmp_path, endpoint, register_poll_s=0.05, endpoint_url=endpoint.url) as daemon:
        done = daemon.command("convert", conversions.disk, "--ami-name", "web 1", "--json")
        assert done.returncode == 0, done.stderr
        job: dict[str, Any] = json.loads(done.stdout)
        result = job["result"]
        assert (job["kind"], job["state"], result["blocks"]) == ("convert", "done", blocks)
        assert [each["imageId"] for each in endpoint.images()] == [result["image_id"]]
        conversions.holds(result["snapshot_id"])
        assert result["snapshot_id"] in shown(daemon, "jobs")
        text = shown(daemon, "status", job["id"])
        assert f"{blocks} of {blocks} blocks of 512 KiB" in text
        (converted,) = re.findall(r"^amistream_converted_bytes_total (\S+)$", daemon.curl("/metrics")[1], re.MULTILINE)
        assert float(converted) == blocks << 19


def test_a_cancelled_conversion(conversions: Conversions, tmp_path: Path) -> None:
    """The command `cancel` returns once the snapshot is deleted."""
    endpoint = conversions.endpoint
    with running_daemon(tmp_path, endpoint, register_poll_s=0.05, endpoint_url=endpoint.url) as daemon:
        job_id = held(conversions, daemon)
        shown(daemon, "cancel", job_id)
        assert conversions.left() == []
        assert daemon.job(job_id)["state"] == "cancelled"
        endpoint.let_go()
    assert conversions.left() == []


@pytest.mark.parametrize("how", ["interrupt", "finish", "cancel"])
def test_a_daemon_that_is_stopped(how: str, conversions: Conversions, tmp_path: Path) -> None:
    """A stopped daemon finishes its conversion, keeps its blocks for `resume`, or removes the snapshot, as is set."""
    endpoint = conversions.endpoint
    settings: dict[str, Any] = {
        "register_poll_s": 0.05,
        "endpoint_url": endpoint.url,
        "on_stop": how,
        "resume_on_start": False,
    }
    with running_daemon(tmp_path, endpoint, **settings) as daemon:
        job_id = held(conversions, daemon)
        # Another SIGTERM, at the end of the block, would end the job where it is.
        if how == "finish":
            os.kill(daemon.process.pid, signal.SIGTERM)
            endpoint.clear_faults()
            endpoint.let_go()
            daemon.curl(f"/v1/jobs/{job_id}/events", "-N")
    endpoint.clear_faults()
    endpoint.let_go()
    with running_daemon(tmp_path, endpoint, **settings) as daemon:
        job = daemon.job(job_id)
        assert job["state"] == {"interrupt": "interrupted", "finish": "done", "cancel": "cancelled"}[how]
        if how == "interrupt":
            assert 0 < job["kept_blocks"] < len(conversions.blocks)
            assert f"{job['kept_blocks']} blocks; " in shown(daemon, "status", job_id)
            (snapshot,) = endpoint.snapshots()
            assert snapshot["state"] == "pending"
            shown(daemon, "resume", job_id)
            job = daemon.job(job_id)
            assert job["result"]["snapshot_id"] == snapshot["id"]
            assert len(conversions.puts()) <= len(conversions.blocks) + 2
    if how == "cancel":
        assert conversions.left() == []
    else:
        assert conversions.left() == [job["result"]["snapshot_id"], job["result"]["image_id"]]
        conversions.holds(job["result"]["snapshot_id"])
