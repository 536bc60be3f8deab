"""Verifications as jobs of the real daemon: over HTTP, by the commands, cancelled, and after a SIGKILL."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bundles.made import older_bundle, put_files
from support.daemons import Daemon, running_daemon
from support.proxy import Fault, PauseRequest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy

SIZES = [3000, 3000, 100]


@pytest.fixture
def proxy(make_proxy: MakeProxy, ministack: Endpoint) -> FaultProxy:
    return make_proxy(ministack)


@pytest.fixture
def manifest(ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path) -> str:
    """The address of a bundle of three parts in a bucket."""
    made = older_bundle(tmp_path / "old", key_ring, SIZES)
    bucket = make_bucket(ministack)
    put_files(ministack, bucket, made.parent)
    return f"s3://{bucket}/{made.name}"


def held_part(proxy: FaultProxy) -> Fault:
    """Hold every look at the second part."""
    fault = Fault(action=PauseRequest(), method="HEAD", path=".*part.1", times=None)
    proxy.add(fault)
    return fault


def submitted(daemon: Daemon, manifest: str, proxy: FaultProxy) -> str:
    done = daemon.command("verify", manifest, "--endpoint-url", proxy.url, "--detach")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_verification_over_http(manifest: str, ministack: Endpoint, tmp_path: Path) -> None:
    """The result is what `verify --json` writes, and the commands for jobs show it."""
    with running_daemon(tmp_path, ministack, endpoint_url=ministack.url) as daemon:
        job_id = daemon.submit(kind="verify", manifest=manifest)
        job = daemon.wait_ended(job_id)
        assert (job["kind"], job["state"], job["source"]) == ("verify", "done", manifest)
        here = json.loads(verified_here(daemon, manifest))
        assert {**job["result"], "elapsed_s": 0} == {**here, "elapsed_s": 0}
        assert manifest in daemon.command("jobs").stdout
        shown = daemon.command("status", job_id).stdout
        assert "3 parts" in shown
        assert daemon.command("watch", job_id).returncode == 0
        assert daemon.curl("/v1/jobs", "-d", json.dumps({"kind": "verify", "manifest": "image.xml"}))[0] == 422
        document: dict[str, Any] = daemon.curl("/v1/openapi.json")[1]
        assert {"VerifyRequest", "Report"} <= set(document["components"]["schemas"])


def verified_here(daemon: Daemon, manifest: str) -> str:
    """Run the command without --detach: it verifies in its own process."""
    own = replace(daemon, environ={**daemon.environ, "AMISTREAM_STATE_DIR": str(daemon.socket.with_name("no keys"))})
    done = own.command("verify", manifest, "--json")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_differences_have_an_exit_status(manifest: str, ministack: Endpoint, tmp_path: Path) -> None:
    """A job that found a difference has failed; `watch` shows the report and ends as `verify` does."""
    bucket, _, name = manifest.removeprefix("s3://").partition("/")
    with ministack.blocking_client("s3") as s3:
        s3.delete_object(Bucket=bucket, Key=name.replace("manifest.xml", "part.1"))
    with running_daemon(tmp_path, ministack, endpoint_url=ministack.url) as daemon:
        job_id = daemon.command("verify", manifest, "--detach").stdout.strip()
        done = daemon.command("watch", job_id)
        assert done.returncode == 5
        assert "DIFFERENT" in done.stdout
        job = daemon.job(job_id)
        assert (job["state"], job["error"]["code"], job["resumable"]) == ("failed", "bundle.part.missing", False)
        assert [each["what"] for each in job["result"]["differences"]] == ["part.missing"]


def test_a_cancelled_verification(manifest: str, proxy: FaultProxy, ministack: Endpoint, tmp_path: Path) -> None:
    """The command `cancel` ends it in the middle of a request."""
    fault = held_part(proxy)
    with running_daemon(tmp_path, ministack, endpoint_url=proxy.url) as daemon:
        job_id = submitted(daemon, manifest, proxy)
        proxy.wait_hit(fault)
        assert daemon.job(job_id)["state"] == "verifying"
        assert daemon.command("cancel", job_id).returncode == 0
        assert daemon.job(job_id)["state"] == "cancelled"


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_killed_daemon(
    by_itself: bool, manifest: str, proxy: FaultProxy, ministack: Endpoint, tmp_path: Path
) -> None:
    """After a SIGKILL the next daemon begins the verification again, by itself or for `resume`."""
    fault = held_part(proxy)
    settings: dict[str, Any] = {"endpoint_url": proxy.url, "resume_on_start": by_itself}
    with running_daemon(tmp_path, ministack, **settings) as daemon:
        job_id = submitted(daemon, manifest, proxy)
        proxy.wait_hit(fault)
        os.kill(daemon.process.pid, signal.SIGKILL)
    # The next daemon would replace it, but is ready only once it has.
    daemon.socket.unlink()
    proxy.let_go(fault)
    with running_daemon(tmp_path, ministack, **settings) as daemon:
        if not by_itself:
            assert daemon.job(job_id)["resumable"]
            assert "begins again" in daemon.command("status", job_id).stdout
            assert daemon.command("resume", job_id).returncode == 0
        job = daemon.wait_ended(job_id)
        assert (job["state"], job["result"]["differences"]) == ("done", [])
