"""The main job as a user runs it: a real volume, the real daemon and command, real endpoints over HTTP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.settings import memory_ceiling
from amistream.values import MIB
from support.buckets import download_bundle, list_keys, open_uploads
from support.daemons import Daemon, identity, owner, running_daemon
from support.proxy import Fault, StallBody, dry_run_answered
from support.referee import check_bundle, read_bundle
from support.volumes import ext4_image, loop_device, random_image, xfs_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a real ext4 file system with files in it."""
    return ext4_image(tmp_path_factory.mktemp("volume") / "root.img", 64 * MIB)


@pytest.fixture
def daemon(tmp_path: Path, ministack: Endpoint) -> Iterator[Daemon]:
    with running_daemon(tmp_path, ministack, part_size="1MiB", register_poll_s=0.05, stall_timeout_s=3) as running:
        yield running


@pytest.fixture
def proxy(make_proxy: MakeProxy, ministack: Endpoint) -> FaultProxy:
    return make_proxy(ministack, dry_run_answered())


def fits(directory: Path, image: Path, keys: KeyRing) -> None:
    check_bundle(directory, image, keys.user.key, keys.user.certificate)


def test_a_volume_becomes_a_registered_image(
    daemon: Daemon,
    volume: Path,
    proxy: FaultProxy,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """One command makes the AMI; the bucket's objects give the volume back; EC2 reports the AMI as instance-store."""
    bucket = make_bucket(ministack)
    done = daemon.command(
        *("bundle", volume, "--to", f"s3://{bucket}/images", "--ami-name", f"built in {bucket}"),
        *(*identity(key_ring), "--endpoint-url", proxy.url, "--tag", "Team=build", "--json"),
    )
    assert done.returncode == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    assert job["state"] == "done"
    download_bundle(ministack, bucket, "images/", tmp_path / "got")
    fits(tmp_path / "got", volume, key_ring)
    with ministack.blocking_client("ec2") as ec2:
        (image,) = ec2.describe_images(ImageIds=[job["result"]["image_id"]])["Images"]
    assert (image["RootDeviceType"], image["Name"]) == ("instance-store", f"built in {bucket}")
    assert {put.headers["x-amz-acl"] for put in proxy.seen("PUT")} == {"aws-exec-read"}
    log = [json.loads(line) for line in daemon.process.output().splitlines()]
    (end,) = [line for line in log if line["event"] == "job.end"]
    assert (end["job"], end["state"]) == (job["id"], "done")


def test_over_https_into_a_store_that_checks_everything(
    seaweedfs_https: Endpoint,
    volume: Path,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """With signatures, checksums and TLS all checked, the bundle is exact to the byte."""
    bucket = make_bucket(seaweedfs_https)
    with running_daemon(tmp_path, seaweedfs_https, part_size="1MiB") as daemon:
        done = daemon.command(
            *("bundle", volume, "--to", f"s3://{bucket}", "--no-register", *identity(key_ring)),
            *("--endpoint-url", seaweedfs_https.url),
        )
    assert done.returncode == 0, done.stderr
    download_bundle(seaweedfs_https, bucket, "", tmp_path / "got")
    fits(tmp_path / "got", volume, key_ring)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_block_device_becomes_a_bundle(
    kind: str, daemon: Daemon, key_ring: KeyRing, tmp_path: Path, volume: Path
) -> None:
    """A loop device is bundled like a disk, whatever its file system."""
    image = volume if kind == "ext4" else xfs_image(tmp_path / "xfs.img", 300 * MIB)
    with loop_device(image) as device:
        done = daemon.command("bundle", device, "--to", tmp_path / "out", *identity(key_ring))
    assert done.returncode == 0, done.stderr
    fits(tmp_path / "out", image, key_ring)


def test_a_server_that_stops_reading_costs_one_attempt(
    daemon: Daemon,
    volume: Path,
    ministack: Endpoint,
    make_proxy: MakeProxy,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """A stalled part is sent again after the stall timeout, and the job goes on."""
    stalled = Fault(action=StallBody(after=65536), path=".*part.01")
    proxy = make_proxy(ministack, dry_run_answered(), stalled)
    bucket = make_bucket(ministack)
    done = daemon.command(
        *("bundle", volume, "--to", f"s3://{bucket}", "--no-register", *identity(key_ring), "--endpoint-url", proxy.url)
    )
    assert done.returncode == 0, done.stderr
    assert len(proxy.seen("PUT", path=".*part.01")) == 2
    assert len(proxy.seen("PUT", path=".*part.00")) == 1
    assert "request.retry" in daemon.process.output()
    download_bundle(ministack, bucket, "", tmp_path / "got")
    fits(tmp_path / "got", volume, key_ring)


def test_cancel_while_bundling_leaves_nothing(
    daemon: Daemon,
    volume: Path,
    ministack: Endpoint,
    make_proxy: MakeProxy,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """A cancelled job removes its parts, and the daemon takes the next job."""
    bucket = make_bucket(ministack)
    stalled = Fault(action=StallBody(after=0), path=".*part.04")
    proxy = make_proxy(ministack, dry_run_answered(), stalled)
    options = ("--no-register", *identity(key_ring), "--endpoint-url", proxy.url)
    detached = daemon.command("bundle", volume, "--to", f"s3://{bucket}", *options, "--detach")
    assert detached.returncode == 0, detached.stderr
    proxy.wait_hit(stalled)
    cancelled = daemon.command("cancel", detached.stdout.strip())
    assert cancelled.returncode == 0, cancelled.stderr
    assert daemon.curl(f"/v1/jobs/{detached.stdout.strip()}")[1]["state"] == "cancelled"
    assert list_keys(ministack, bucket) == []
    assert open_uploads(ministack, bucket) == []
    again = daemon.command("bundle", volume, "--to", tmp_path / "out", *identity(key_ring))
    assert again.returncode == 0, again.stderr


def test_memory_does_not_grow_with_the_volume(tmp_path: Path, key_ring: KeyRing) -> None:
    """The daemon's peak memory stays under its ceiling for a volume of twice that size."""
    image = random_image(tmp_path / "disk.img", 400 * MIB)
    with running_daemon(tmp_path, None, forked=False) as daemon:
        done = daemon.command("bundle", image, "--to", tmp_path / "out", *identity(key_ring))
        assert done.returncode == 0, done.stderr
        assert daemon.peak_rss() < 200 * MIB


@pytest.mark.parametrize("jobs", [1, 2, 4, 8])
def test_memory_of_several_jobs_stays_below_the_formula(
    jobs: int, tmp_path: Path, key_ring: KeyRing, ministack: Endpoint, make_bucket: MakeBucket
) -> None:
    """Jobs that begin together and whose uploads are slow stay below the ceiling for their number."""
    bucket = make_bucket(ministack)
    image = random_image(tmp_path / "disk.img", 16 * MIB)
    sizes = {"part_size": MIB, "upload_concurrency": 4, "block_size": 2 * MIB, "workers": 2}
    body = {"source": str(image), "register_image": False, "endpoint_url": ministack.url, **owner(key_ring)}
    with running_daemon(tmp_path, ministack, forked=False, max_jobs=jobs, **sizes) as daemon:
        ids = [daemon.submit(**body, destinations=[f"s3://{bucket}/{number}"]) for number in range(jobs)]
        assert {daemon.wait_ended(each)["state"] for each in ids} == {"done"}
        assert daemon.peak_rss() < memory_ceiling(**sizes, jobs=jobs)


def test_every_endpoint_answers_to_curl(daemon: Daemon, volume: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """Each response of the contract's endpoints to curl matches the published document."""
    body = {
        "source": str(volume),
        "destinations": [str(tmp_path / "out")],
        **owner(key_ring),
        "account": "1234-5678-9012",
    }
    status, document = daemon.curl("/v1/openapi.json")
    assert status == 200
    status, job = daemon.curl("/v1/jobs", "-d", json.dumps(body), "-H", "Idempotency-Key: one")
    assert status == 202
    status, events = daemon.curl(f"/v1/jobs/{job['id']}/events", "-N")
    assert status == 200
    states = [json.loads(line[6:])["job"]["state"] for line in events.splitlines() if line.startswith("data: ")]
    assert states[-1] == "done"
    assert daemon.curl("/v1/jobs", "-d", json.dumps(body), "-H", "Idempotency-Key: one") == (
        200,
        daemon.curl(f"/v1/jobs/{job['id']}")[1],
    )
    assert daemon.curl("/v1/jobs?state=done")[1]["jobs"][0]["id"] == job["id"]
    assert daemon.curl(f"/v1/jobs/{job['id']}", "-X", "DELETE")[0] == 409
    assert daemon.curl(f"/v1/jobs/{job['id']}/resume", "-X", "POST")[0] == 409
    assert daemon.curl("/v1/health")[1]["status"] == "ok"
    status, found = daemon.curl("/v1/doctor", "-d", json.dumps({**body, "destinations": [str(tmp_path / "new")]}))
    assert status == 200
    # The volume holds no system.
    assert {finding["name"] for finding in found["findings"] if finding["status"] not in ("ok", "notice")} == {"boot"}
    assert "amistream_" in daemon.curl("/metrics")[1]
    status, refused = daemon.curl("/v1/jobs", "-d", json.dumps({**body, "sauce": 1}))
    assert (status, refused["error"]["field"]) == (422, "sauce")
    assert daemon.curl("/v1/queue/drain", "-X", "POST")[0] == 409
    assert set(document["paths"]) == {
        *("/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/resume", "/v1/jobs/{id}/log", "/v1/jobs/{id}/events"),
        *("/v1/doctor", "/v1/health", "/v1/queue/drain", "/v1/openapi.json", "/metrics"),
    }


def test_no_secret_reaches_a_log_or_a_process_list(
    daemon: Daemon, volume: Path, ministack: Endpoint, proxy: FaultProxy, make_bucket: MakeBucket, key_ring: KeyRing
) -> None:
    """Neither the key, nor the IV, nor a credential appears in the log, the events or the daemon's command line."""
    bucket = make_bucket(ministack)
    done = daemon.command(
        *("bundle", volume, "--to", f"s3://{bucket}", "--ami-name", f"x {bucket}", *identity(key_ring)),
        *("--endpoint-url", proxy.url, "--json"),
    )
    assert done.returncode == 0, done.stderr
    download_bundle(ministack, bucket, "", volume.parent / "secret-got")
    bundle = read_bundle(volume.parent / "secret-got", key_ring.user.key)
    job_id = json.loads(done.stdout)["id"]
    shown = "".join(
        (
            daemon.process.output(),
            done.stdout,
            done.stderr,
            daemon.curl(f"/v1/jobs/{job_id}/events")[1],
            Path(f"/proc/{daemon.process.pid}/cmdline").read_text(),
        )
    )
    key_text = "".join(key_ring.user.key.read_text().splitlines()[1:3])
    for secret in (bundle.aes_key, bundle.aes_iv, ministack.secret_key, key_text):
        assert secret
        assert secret not in shown
    subprocess.run(["rm", "-r", volume.parent / "secret-got"], check=True)
