"""Whole jobs in this process against real endpoints: bundled, committed, registered, or cleaned up."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from jobs.work import request, run, running_engine, settings, use_endpoint
from support.buckets import download_bundle, list_keys, open_uploads
from support.loop import clock
from support.proxy import Action, Answer, DropReply, Fault, PauseRequest, StallBody, dry_run_answered
from support.referee import check_bundle
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy

REGISTER = "Action=RegisterImage&(?!.*DryRun)"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Ministack behind a proxy that answers dry runs as AWS does."""

    proxy: FaultProxy
    bucket: str
    endpoint: Endpoint

    def images(self, name: str) -> list[dict[str, Any]]:
        with self.endpoint.blocking_client("ec2") as ec2:
            found: list[dict[str, Any]] = ec2.describe_images(
                Owners=["self"], Filters=[{"Name": "name", "Values": [name]}]
            )["Images"]
        return found

    def left(self) -> list[object]:
        return [*list_keys(self.endpoint, self.bucket), *open_uploads(self.endpoint, self.bucket)]


class MakeCloud:
    """Makes clouds with faults of the test's own."""

    def __init__(self, endpoint: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy) -> None:
        self._endpoint, self._make_bucket, self._make_proxy = endpoint, make_bucket, make_proxy

    def __call__(self, *faults: Fault) -> Cloud:
        proxy = self._make_proxy(self._endpoint, dry_run_answered(), *faults)
        return Cloud(proxy=proxy, bucket=self._make_bucket(self._endpoint), endpoint=self._endpoint)


@pytest.fixture
def cloud(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> MakeCloud:
    use_endpoint(ministack, monkeypatch)
    return MakeCloud(ministack, make_bucket, make_proxy)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 3_000_000)


def fits(directory: Path, image: Path, keys: KeyRing) -> None:
    check_bundle(directory, image, keys.user.key, keys.user.certificate)


@pytest.mark.parametrize("part_size", ["16KiB", "64KiB", "10MiB"])
@pytest.mark.parametrize("compress", ["fast", "balanced", "small", "auto", "9"])
async def test_a_directory_bundle_satisfies_every_referee(
    part_size: str, compress: str, image: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """One part or hundreds, at each compression, openssl, gzip, tar and Python give the image back."""
    asked = request(image, tmp_path / "out", key_ring, part_size=part_size, compress=compress)
    job = await run(asked, settings(tmp_path))
    assert job.result is not None, job.error
    fits(tmp_path / "out", image, key_ring)
    assert job.result.parts == len(list((tmp_path / "out").glob("image.part.*")))
    assert job.result.image_id is None


@pytest.mark.parametrize("sparse", ["auto", "always", "never"])
@pytest.mark.parametrize("workers", [1, 2, 5])
async def test_holes_zeros_noise_and_text_in_one_stream(
    sparse: str, workers: int, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A volume of holes, written zeros, noise and text, with mixed kinds of block, satisfies every referee."""
    image = sparse_image(tmp_path / "disk.img", 40_000_000, [(0, 3_000_000), (20_000_000, 5_000_000)])
    with image.open("r+b") as file:
        file.seek(10_000_000)
        file.write(bytes(3_000_000) + b"some text, over and over\n" * 100_000)
    asked = request(
        image, tmp_path / "out", key_ring, sparse=sparse, workers=workers, compress="auto", memory_limit="256MiB"
    )
    job = await run(asked, settings(tmp_path, block_size="64KiB"))
    assert job.result is not None, job.error
    fits(tmp_path / "out", image, key_ring)
    assert {"zeros", "stored", "level 1"} <= set(job.result.compression)
    assert sum(job.result.compression.values()) >= (40_000_000 if sparse == "never" else 13_000_000)


async def test_a_memory_limit_that_cannot_be_kept(image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """A limit under what one part needs is refused with that figure; one above it is kept by fewer parts in flight."""
    asked = request(image, tmp_path / "out", key_ring, memory_limit="64MiB")
    job = await run(asked, settings(tmp_path))
    assert job.error is not None
    assert (job.state, job.error.code) == (State.REFUSED, "memory_limit.too_small")


async def test_all_that_a_manifest_can_hold(image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """Optional elements come in the order of the format, and the signature covers them."""
    asked = request(
        image,
        tmp_path / "out",
        key_ring,
        prefix="my.image-1",
        architecture="i386",
        account="1234-5678-9012",
        virtualization="paravirtual",
        kernel="aki-12345678",
        ramdisk="ari-12345678",
        product_codes=["A1B2", "C3D4"],
        ancestors=["ami-12345678"],
        block_device_mappings={"ephemeral0": "sdb", "ami": "sda1", "root": "/dev/sda1"},
    )
    job = await run(asked, settings(tmp_path))
    assert job.state is State.DONE, job.error
    fits(tmp_path / "out", image, key_ring)
    manifest = (tmp_path / "out" / "my.image-1.manifest.xml").read_text()
    assert (
        "<machine_configuration><architecture>i386</architecture><block_device_mapping>"
        "<mapping><virtual>ami</virtual><device>sda1</device></mapping>"
        "<mapping><virtual>ephemeral0</virtual><device>sdb</device></mapping>"
        "<mapping><virtual>root</virtual><device>/dev/sda1</device></mapping></block_device_mapping>"
        "<kernel_id>aki-12345678</kernel_id><ramdisk_id>ari-12345678</ramdisk_id>"
        "<product_codes><product_code>A1B2</product_code><product_code>C3D4</product_code></product_codes>"
        "</machine_configuration><image><name>my.image-1</name><user>123456789012</user><type>machine</type>"
        "<ancestry><ancestor_ami_id>ami-12345678</ancestor_ami_id></ancestry><digest algorithm='SHA1'>"
    ) in manifest


async def test_without_a_key_one_is_made_and_kept(image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """The first job makes a private key pair and says so; the second uses it."""
    for number in range(2):
        asked = request(image, tmp_path / str(number), key_ring, certificate=None, private_key=None)
        job = await run(asked, settings(tmp_path))
        assert job.state is State.DONE, job.error
        assert any(("made", "used")[number] in notice for notice in job.notices)
        state = tmp_path / "state"
        check_bundle(tmp_path / str(number), image, state / "user-private-key.pem", state / "user-certificate.pem")
    assert (state.stat().st_mode & 0o777, (state / "user-private-key.pem").stat().st_mode & 0o777) == (0o700, 0o600)


async def test_registered_from_s3(
    cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing, ministack: Endpoint
) -> None:
    """The bundle in the bucket satisfies every referee, and EC2 shows the AMI as instance-store."""
    there = cloud()
    asked = request(
        image,
        f"s3://{there.bucket}/images/one",
        key_ring,
        endpoint_url=there.proxy.url,
        ami_name=f"image of {there.bucket}",
        description="a test",
        tags={"Team": "build"},
        ena=True,
        sriov=True,
        block_device_mappings={"ami": "sda1", "ephemeral0": "sdb"},
        account=None,
    )
    job = await run(asked, settings(tmp_path))
    assert job.result is not None, job.error
    download_bundle(ministack, there.bucket, "images/one/", tmp_path / "got")
    fits(tmp_path / "got", image, key_ring)
    (known,) = there.images(f"image of {there.bucket}")
    assert known["ImageId"] == job.result.image_id
    assert known["RootDeviceType"] == "instance-store"
    assert known["Tags"] == [{"Key": "Team", "Value": "build"}]
    (sent,) = [
        each for each in there.proxy.requests if b"Action=RegisterImage&" in each.form and b"DryRun" not in each.form
    ]
    wanted = {
        "ImageLocation": f"{there.bucket}/images/one/image.manifest.xml",
        "VirtualizationType": "hvm",
        "Architecture": "x86_64",
        "EnaSupport": "true",
        "SriovNetSupport": "simple",
        "Description": "a test",
        "BlockDeviceMapping.1.VirtualName": "ephemeral0",
        "BlockDeviceMapping.1.DeviceName": "/dev/sdb",
    }
    assert {name: sent.parameters.get(name) for name in wanted} == wanted
    puts = there.proxy.seen("PUT")
    assert {put.headers["x-amz-acl"] for put in puts} == {"aws-exec-read"}
    # The probe is empty and has no digest of ours.
    assert all("x-amz-checksum-sha1" in put.headers for put in puts if "probe" not in put.path)


async def test_the_manifest_is_written_last(cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """No manifest exists before every part does, and registration comes after it."""
    there = cloud()
    job = await run(request(image, f"s3://{there.bucket}", key_ring, endpoint_url=there.proxy.url), settings(tmp_path))
    assert job.state is State.DONE, job.error
    order = [each.path.rpartition(".")[2] for each in there.proxy.seen("PUT") if "probe" not in each.path]
    assert order.index("xml") == len(order) - 1
    assert there.proxy.requests.index(there.proxy.seen("PUT")[-1]) < len(there.proxy.requests) - 1


@pytest.mark.parametrize(
    "action",
    [Answer(status=503, code="SlowDown"), StallBody(after=1000), DropReply()],
    ids=["slow down", "stops reading", "reply lost"],
)
async def test_a_passing_fault_does_not_fail_the_job(
    action: Action, cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing, ministack: Endpoint
) -> None:
    """A part and the manifest that each fail once cost an attempt, not the job."""
    there = cloud(Fault(action=action, path=".*part.03"), Fault(action=action, path=".*manifest.xml"))
    chosen = settings(tmp_path)
    there.proxy.clock = clock(chosen.stall_timeout_s)
    asked = request(image, f"s3://{there.bucket}/x", key_ring, endpoint_url=there.proxy.url, register_image=False)
    job = await run(asked, chosen)
    await asyncio.to_thread(there.proxy.hang_up)
    assert job.state is State.DONE, job.error
    download_bundle(ministack, there.bucket, "x/", tmp_path / "got")
    fits(tmp_path / "got", image, key_ring)


@pytest.mark.parametrize("path", [".*part.07", ".*manifest.xml"])
async def test_a_lasting_fault_fails_the_job_and_keeps_its_parts_until_they_are_removed(
    path: str, cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A lasting failure of the store is reported with its cause and how to continue; a removal then leaves nothing."""
    there = cloud(Fault(action=Answer(status=500, code="InternalError"), path=path, times=None))
    asked = request(image, f"s3://{there.bucket}", key_ring, endpoint_url=there.proxy.url)
    async with running_engine(settings(tmp_path)) as engine:
        job = Job(asked)
        await engine.enter(job)
        await engine.run(job)
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert job.error is not None
        assert job.error.code == "aws.InternalError"
        assert "tried 6 times" in job.error.message
        assert f"amistream resume {job.id}" in job.error.hint
        assert there.left() != []
        removed = job.again()
        await engine.clean(removed)
    assert removed.state is State.CANCELLED
    assert there.left() == []


async def test_a_source_that_changes_fails_the_job(
    cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A torn image is never shipped."""
    held = Fault(action=PauseRequest(), path=".*part.00")
    there = cloud(held)
    asked = request(image, f"s3://{there.bucket}", key_ring, endpoint_url=there.proxy.url)
    running = asyncio.create_task(run(asked, settings(tmp_path)))
    await asyncio.to_thread(there.proxy.wait_hit, held)
    with image.open("r+b") as file:
        file.write(b"changed")
    await asyncio.to_thread(there.proxy.let_go, held)
    job = await running
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "source.changed")
    assert there.left() == []


async def test_a_failed_registration_keeps_the_bundle(
    cloud: MakeCloud, image: Path, tmp_path: Path, key_ring: KeyRing, ministack: Endpoint
) -> None:
    """A bundle that EC2 refuses to register is kept; the hint says how to register it."""
    there = cloud(Fault(action=Answer(status=400, code="InvalidManifest"), method="POST", form=REGISTER, times=None))
    asked = request(image, f"s3://{there.bucket}/x", key_ring, endpoint_url=there.proxy.url)
    job = await run(asked, settings(tmp_path))
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "aws.InvalidManifest")
    assert f"amistream register s3://{there.bucket}/x/image.manifest.xml --ami-name" in job.error.hint
    download_bundle(ministack, there.bucket, "x/", tmp_path / "got")
    fits(tmp_path / "got", image, key_ring)


async def test_cancel_at_twenty_random_moments_leaves_nothing(
    cloud: MakeCloud, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A job that is cancelled at any step leaves no object, upload, AMI, thread or task; the engine stays usable."""
    there = cloud()
    image = random_image(tmp_path / "disk.img", 12_000_000)
    chosen = settings(
        tmp_path, multipart_threshold="5MiB", multipart_chunk="5MiB", part_size="6MiB", block_size="64KiB"
    )
    dice = random.Random(20261122)
    async with running_engine(chosen) as engine:

        async def one(name: str, cancel_after_s: float | None) -> Job:
            asked = request(
                image, f"s3://{there.bucket}/{name}", key_ring, endpoint_url=there.proxy.url, ami_name=f"{name} of it"
            )
            job = Job(asked)
            await engine.enter(job)
            task = asyncio.create_task(engine.run(job))
            if cancel_after_s is not None:
                await asyncio.wait({task}, timeout=cancel_after_s)
                # One that has not begun is ended by the queue, not here.
                async for event in job.events():
                    if event.job.state is not State.QUEUED:
                        break
                task.cancel()
            await asyncio.wait({task})
            return job

        await one("first", None)  # makes the SDK's clients
        started = time.perf_counter()
        whole = await one("whole", None)
        took = time.perf_counter() - started
        assert whole.state is State.DONE, whole.error
        kept = there.left()
        states = []
        for number in range(20):
            job = await one(f"cancelled-{number}", dice.uniform(0, took / 2))
            assert job.state in (State.CANCELLED, State.DONE)
            if job.state is State.DONE:
                kept = there.left()
                continue
            states.append(job.state)
            assert there.left() == kept
            assert there.images(f"cancelled-{number} of it") == []
            assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}  # type: ignore[union-attr]
            assert job.notices == tuple(note for note in job.notices if "could not be removed" not in note)
        # How many came in time is the machine's matter; tests/faults cancels at every step there is.
        assert states
        last = await one("after", None)
        assert last.state is State.DONE, last.error


async def test_nine_gib_of_holes_come_back_identical(tmp_path: Path, key_ring: KeyRing) -> None:
    """An image over 8 GiB, whose size needs GNU tar's base-256 field, satisfies every referee."""
    size = 9 * 2**30
    extents = [(0, 4096), (4 * 2**30 + 512, 100_000), (8 * 2**30, 8192), (size - 4096, 4096)]
    image = sparse_image(tmp_path / "disk.img", size, extents)
    job = await run(request(image, tmp_path / "out", key_ring, part_size="10MiB"), settings(tmp_path))
    assert job.state is State.DONE, job.error
    fits(tmp_path / "out", image, key_ring)


async def test_progress_goes_up_to_the_end(image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """The last progress shows for every stage that all bytes were read and stored."""
    job = await run(request(image, tmp_path / "out", key_ring), settings(tmp_path))
    progress = job.progress
    assert progress is not None
    assert job.result is not None
    assert (progress.bytes_done, progress.bytes_total) == (3_000_000, 3_000_000)
    assert progress.parts_made == progress.parts_stored == job.result.parts
    assert [stage.name for stage in progress.stages] == [
        *("read", "archive", "compress", "join", "encrypt", "split", "upload")
    ]
    for before, after in zip(progress.stages, progress.stages[1:], strict=False):
        assert before.bytes_out == after.bytes_in
