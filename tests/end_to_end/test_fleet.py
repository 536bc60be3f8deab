"""Real daemons on one real queue: results, dead letters, a host that sleeps past its lease, one that is stopped."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from bundles.made import older_bundle, put_files
from support.buckets import download_bundle, list_keys
from support.daemons import owner, running_daemon
from support.fleet_queues import Queues, open_queues
from support.proxy import Fault, PauseRequest
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.daemons import Daemon
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy

SIZES = [3000, 3000, 100]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Endpoint:
    """Ministack, or the endpoint that a test names."""
    endpoint: Endpoint = request.getfixturevalue(getattr(request, "param", "ministack"))
    return endpoint


@pytest.fixture
def queues(place: Endpoint) -> Iterator[Queues]:
    with open_queues(place) as made:
        yield made


@pytest.fixture
def proxy(make_proxy: MakeProxy, place: Endpoint) -> FaultProxy:
    return make_proxy(place)


@pytest.fixture
def manifest(place: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path) -> str:
    """The address of a bundle of three parts in a bucket."""
    made = older_bundle(tmp_path / "old", key_ring, SIZES)
    bucket = make_bucket(place)
    put_files(place, bucket, made.parent)
    return f"s3://{bucket}/{made.name}"


def held_part(proxy: FaultProxy) -> Fault:
    """Hold every look at the second part."""
    fault = Fault(action=PauseRequest(), method="HEAD", path=".*part.1", times=None)
    proxy.add(fault)
    return fault


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def health(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.curl("/v1/health")[1]["queue"]
    return found


def begin_to_stop(daemon: Daemon) -> None:
    """Send the first signal: the second one, at the end, cuts the last poll off."""
    os.kill(daemon.process.pid, signal.SIGTERM)
    daemon.process.wait_ready(lambda: health(daemon)["status"] == "stopping")


def metric(daemon: Daemon, name: str) -> float:
    text = daemon.curl("/metrics")[1]
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"amistream_queue_{name} ")))


def test_jobs_of_a_queue(queues: Queues, manifest: str, ministack: Endpoint, tmp_path: Path) -> None:
    """A job has a result, and what cannot be a job has one too, and is a dead letter with its code."""
    queues.send("web", "verify", manifest=manifest)
    queues.send("foreign", "verify", manifest="/etc/shadow")
    queues.send_text("poison")
    with running_daemon(tmp_path, ministack, **queues.settings()) as daemon:
        results = {result["job"]: result for result in queues.wait_results(3)}
        assert {job: (result["outcome"], result["code"]) for job, result in results.items()} == {
            "web": ("done", ""),
            "foreign": ("refused", "manifest.directory"),
            "": ("refused", "message.malformed"),
        }
        assert results["web"]["result"]["parts"] == len(SIZES)
        assert daemon.job(results["web"]["job_id"])["state"] == "done"
        assert (health(daemon)["status"], health(daemon)["url"]) == ("ok", queues.jobs)
        assert metric(daemon, "received_total") == 3
    assert queues.left() == 0
    letters = queues.letters()
    assert {each["code"] for each in letters} == {"manifest.directory", "message.malformed"}
    assert {each["body"] for each in letters} >= {"poison"}


@pytest.mark.parametrize("place", ["ministack", "moto_server"], indirect=True)
def test_a_host_that_sleeps_past_its_lease(
    queues: Queues, manifest: str, proxy: FaultProxy, place: Endpoint, tmp_path: Path
) -> None:
    """A suspended host that wakes up finds its job given to another: it sends no result and deletes no message.

    Ministack refuses the handle that it has; moto takes it, and would hold or delete the message.
    """
    fault = held_part(proxy)
    settings = queues.settings(queue_visibility_s=3)
    with running_daemon(folder(tmp_path, "a"), place, **by_proxy(settings, place, proxy)) as zombie:
        queues.send("web", "verify", manifest=manifest)
        proxy.wait_hit(fault)
        assert health(zombie)["jobs"] == 1
        os.kill(zombie.process.pid, signal.SIGSTOP)
        try:
            with running_daemon(folder(tmp_path, "b"), place, **settings):
                (result,) = queues.wait_results(1)
        finally:
            asked = len(proxy.requests)
            os.kill(zombie.process.pid, signal.SIGCONT)
        assert (result["outcome"], result["attempt"]) == ("done", 2)
        (job,) = zombie.curl("/v1/jobs")[1]["jobs"]
        ended = zombie.wait_ended(job["id"])
        assert (ended["state"], ended["error"]["code"]) == ("interrupted", "lease.lost")
        assert metric(zombie, "leases_lost_total") == 1
    assert actions(proxy, asked) == []
    assert queues.take_results() == []
    assert queues.letters() == []
    assert queues.left() == 0


def test_a_bundle_of_a_host_that_sleeps(
    queues: Queues,
    proxy: FaultProxy,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """The next host removes what the sleeping one stored and makes the bundle; that one changes nothing more."""
    bucket = make_bucket(ministack)
    image = random_image(tmp_path / "disk.img", 2_000_000)
    fault = Fault(action=PauseRequest(), method="PUT", path=".*part.03", times=None)
    proxy.add(fault)
    roots = f"{tmp_path}:{key_ring.user.key.parent}"
    settings = queues.settings(queue_visibility_s=3, source_roots=roots, part_size="256KiB", upload_concurrency=1)
    with running_daemon(folder(tmp_path, "a"), ministack, **by_proxy(settings, ministack, proxy)) as zombie:
        request = {"source": str(image), "destinations": [f"s3://{bucket}/web"], **owner(key_ring)}
        queues.send("web", "bundle", **request, register_image=False)
        proxy.wait_hit(fault)
        os.kill(zombie.process.pid, signal.SIGSTOP)
        try:
            with running_daemon(folder(tmp_path, "b"), ministack, **settings):
                (result,) = queues.wait_results(1)
        finally:
            asked = len(proxy.requests)
            os.kill(zombie.process.pid, signal.SIGCONT)
        assert (result["outcome"], result["attempt"], result["error"]) == ("done", 2, None)
        (job,) = zombie.curl("/v1/jobs")[1]["jobs"]
        ended = zombie.wait_ended(job["id"])
        assert (ended["state"], ended["error"]["code"]) == ("interrupted", "lease.lost")
    assert actions(proxy, asked) == []
    assert queues.take_results() == []
    got = folder(tmp_path, "got")
    download_bundle(ministack, bucket, "web/", got)
    check_bundle(got, image, key_ring.user.key, key_ring.user.certificate)
    assert not [key for key in list_keys(ministack, bucket) if "claim" in key]


def by_proxy(settings: dict[str, Any], endpoint: Endpoint, proxy: FaultProxy) -> dict[str, Any]:
    """The settings of a daemon whose every request passes the proxy."""
    return {
        name: value.replace(endpoint.url, proxy.url) if isinstance(value, str) else value
        for name, value in settings.items()
    }


def actions(proxy: FaultProxy, first: int) -> list[str]:
    """The requests from the first on that may have changed something, in a bucket or with a message."""
    found = []
    for request in proxy.requests[first:]:
        target = request.headers.get("x-amz-target", "").rpartition(".")[2]
        if target.startswith(("Send", "Delete", "Change")) or (not target and request.method not in {"GET", "HEAD"}):
            found.append(f"{request.method} {request.path} {target}")
    return found


def test_a_stopped_host_gives_its_jobs_back(
    queues: Queues, manifest: str, proxy: FaultProxy, ministack: Endpoint, tmp_path: Path
) -> None:
    """SIGTERM with `on_stop = interrupt` gives a running job back at once, and the next host does it."""
    fault = held_part(proxy)
    settings = queues.settings(on_stop="interrupt")
    with running_daemon(folder(tmp_path, "a"), ministack, **{**settings, "endpoint_url": proxy.url}):
        queues.send("web", "verify", manifest=manifest)
        proxy.wait_hit(fault)
    with running_daemon(folder(tmp_path, "b"), ministack, **settings):
        (result,) = queues.wait_results(1)
        assert (result["outcome"], result["attempt"]) == ("done", 2)
    assert queues.left() == 0


def test_a_killed_daemon_goes_on(
    queues: Queues, manifest: str, proxy: FaultProxy, ministack: Endpoint, tmp_path: Path
) -> None:
    """The next daemon on the host continues with the message that the killed one held, in the same attempt."""
    fault = held_part(proxy)
    settings = queues.settings(endpoint_url=proxy.url, queue_visibility_s=30)
    with running_daemon(tmp_path, ministack, **settings) as daemon:
        queues.send("web", "verify", manifest=manifest)
        proxy.wait_hit(fault)
        os.kill(daemon.process.pid, signal.SIGKILL)
    daemon.socket.unlink()
    proxy.let_go(fault)
    with running_daemon(tmp_path, ministack, **settings) as daemon:
        (result,) = queues.wait_results(1)
        assert (result["outcome"], result["attempt"]) == ("done", 1)
        assert metric(daemon, "received_total") == 0
        begin_to_stop(daemon)
    assert queues.left() == 0


def test_two_versions(
    queues: Queues, manifest: str, ministack: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of a later version is left by a host that does not know it, and is done by one that does."""
    later = folder(tmp_path, "later")
    (later / "sitecustomize.py").write_text(LATER_VERSION)
    settings = queues.settings(queue_visibility_s=3)
    with running_daemon(folder(tmp_path, "a"), ministack, **settings) as old:
        queues.send_text(json.dumps({"v": 2, "job": "new", "kind": "verify", "request": {"manifest": manifest}}))
        queues.send("web", "verify", manifest=manifest)
        (result,) = queues.wait_results(1)
        assert (result["job"], result["outcome"]) == ("web", "done")
        old.process.wait_ready(lambda: metric(old, "given_back_total") >= 1)
        assert (health(old)["status"], len(old.curl("/v1/jobs")[1]["jobs"])) == ("ok", 1)
        # Of two that ask the old one might get the message each time, and longer pauses lie between.
        assert old.command("fleet", "drain").returncode == 0
        monkeypatch.setenv("PYTHONPATH", str(later))
        with running_daemon(later, ministack, **settings) as new:
            (result,) = queues.wait_results(1)
            assert (result["job"], result["outcome"], result["attempt"] > 1) == ("new", "done", True)
            assert new.job(result["job_id"])["state"] == "done"
    assert queues.letters() == []


LATER_VERSION = """
from typing import Literal
from amistream.fleet import messages

class Later(messages.MessageModel):
    v: Literal[1, 2]

messages.MessageModel = Later
messages._check_version = lambda version, job: None
"""
"""Lets a daemon know messages of version 2, which are like those of version 1."""


def test_a_queue_that_is_deleted(
    queues: Queues, manifest: str, proxy: FaultProxy, ministack: Endpoint, tmp_path: Path
) -> None:
    """The daemon goes on with its jobs and serves its socket; health has the reason."""
    fault = held_part(proxy)
    url = queues.jobs.replace(ministack.url, proxy.url)
    settings = queues.settings(endpoint_url=proxy.url, queue_url=url, queue_visibility_s=300)
    with (
        running_daemon(tmp_path, ministack, **settings) as daemon,
        ministack.blocking_client("sqs") as sqs,
    ):
        queues.send("web", "verify", manifest=manifest)
        proxy.wait_hit(fault)
        sqs.delete_queue(QueueUrl=queues.jobs)
        # Else it notices at the end of its poll.
        proxy.hang_up()
        daemon.process.wait_ready(
            lambda: "aws.QueueDoesNotExist" in {each["code"] for each in health(daemon)["errors"]}
        )
        assert health(daemon)["status"] == "trouble"
        assert health(daemon)["jobs"] == 1
        own = daemon.submit(kind="verify", manifest=manifest)
        proxy.let_go(fault)
        assert daemon.wait_ended(own)["state"] == "done"
        (result,) = queues.wait_results(1)
        assert (result["job"], result["outcome"]) == ("web", "done")
        sqs.create_queue(QueueName=queues.jobs.rpartition("/")[2])
