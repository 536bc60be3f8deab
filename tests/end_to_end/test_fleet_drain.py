"""A host that leaves the fleet, on request or because its instance ends, takes no more jobs, and others go on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from bundles.made import older_bundle, put_files
from support.daemons import running_daemon
from support.fleet_queues import Queues, open_queues
from support.metadata import on_instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

PATIENCE_S = 60


@pytest.fixture
def queues(ministack: Endpoint) -> Iterator[Queues]:
    with open_queues(ministack) as made:
        yield made


@pytest.fixture
def manifest(ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path) -> str:
    """The address of a bundle in a bucket."""
    made = older_bundle(tmp_path / "old", key_ring, [3000, 100])
    bucket = make_bucket(ministack)
    put_files(ministack, bucket, made.parent)
    return f"s3://{bucket}/{made.name}"


def waiting(queues: Queues) -> int:
    """Messages that any host could receive now."""
    with queues.endpoint.blocking_client("sqs") as sqs:
        return len(sqs.receive_message(QueueUrl=queues.jobs, MaxNumberOfMessages=10).get("Messages", []))


def test_a_host_is_drained(queues: Queues, manifest: str, ministack: Endpoint, tmp_path: Path) -> None:
    """A drained host says so, leaves the jobs of the queue to others, and does those of its socket still."""
    with running_daemon(tmp_path, ministack, **queues.settings(queue_visibility_s=6)) as daemon:
        done = daemon.command("fleet", "drain", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["url"], told["status"], told["jobs"], told["places"]) == (queues.jobs, "stopping", 0, 0)
        queues.send("web", "verify", manifest=manifest)
        own = daemon.wait_ended(daemon.submit(kind="verify", manifest=manifest, endpoint_url=ministack.url))
        assert own["state"] == "done"
        assert [job["id"] for job in daemon.curl("/v1/jobs")[1]["jobs"]] == [own["id"]]
        again = daemon.command("fleet", "drain")
        assert (again.returncode, again.stdout) == (0, f"this host takes no more jobs from {queues.jobs}\n")
    assert waiting(queues) == 1


def test_a_host_without_a_queue_is_not_drained(tmp_path: Path) -> None:
    """A daemon that takes no jobs from a queue cannot be drained, and says what it has instead."""
    with running_daemon(tmp_path, None) as daemon:
        done = daemon.command("fleet", "drain")
        assert (done.returncode, "takes no jobs from a queue" in done.stderr) == (2, True)


def test_an_instance_that_ends(queues: Queues, manifest: str, ministack: Endpoint, tmp_path: Path) -> None:
    """A daemon whose spot instance is about to be interrupted leaves the jobs of the queue to others."""
    notice = {"spot/instance-action": '{"action": "terminate", "time": "2026-11-29T08:22:00Z"}'}
    settings = queues.settings(queue_watch_notices=True, queue_visibility_s=6)
    with on_instance(ministack, notice) as instance, running_daemon(tmp_path, instance, **settings) as daemon:
        end = time.monotonic() + PATIENCE_S
        while daemon.curl("/v1/health")[1]["queue"]["status"] != "stopping":
            assert time.monotonic() < end
        queues.send("web", "verify", manifest=manifest)
        assert daemon.curl("/v1/jobs")[1]["jobs"] == []
        assert "the spot instance is interrupted" in daemon.process.output()
    assert waiting(queues) == 1
