"""Whole jobs in this process against real endpoints: bundled, committed, registered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from amistream.events import BundleResult, State
from jobs.runs import REGISTER
from jobs.work import request, run, settings
from support.proxy import Answer
from support.referee import check_bundle
from support.volumes import sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud
    from support.keys import KeyRing


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
    assert isinstance(job.result, BundleResult), job.error
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
    assert isinstance(job.result, BundleResult), job.error
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


async def test_registered_from_s3(cloud: Cloud, image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """The bundle in the bucket satisfies every referee, its manifest is written last, and EC2 shows the AMI."""
    name = f"image of {cloud.bucket}"
    asked = cloud.request(
        image,
        key_ring,
        register_image=True,
        ami_name=name,
        description="a test",
        tags={"Team": "build"},
        ena=True,
        sriov=True,
        block_device_mappings={"ami": "sda1", "ephemeral0": "sdb"},
        account=None,
    )
    job = await run(asked, settings(tmp_path))
    assert isinstance(job.result, BundleResult), job.error
    fits(cloud.downloaded(tmp_path / "got"), image, key_ring)
    (known,) = cloud.images(name)
    assert known["ImageId"] == job.result.image_id
    assert known["RootDeviceType"] == "instance-store"
    tags = {tag["Key"]: tag["Value"] for tag in known["Tags"]}
    assert tags == {"Team": "build", "amistream:job": job.id}
    (sent,) = [each for each in cloud.proxy.requests if re.search(REGISTER, each.form.decode())]
    wanted = {
        "ImageLocation": f"{cloud.bucket}/x/image.manifest.xml",
        "VirtualizationType": "hvm",
        "Architecture": "x86_64",
        "EnaSupport": "true",
        "SriovNetSupport": "simple",
        "Description": "a test",
        "BlockDeviceMapping.1.VirtualName": "ephemeral0",
        "BlockDeviceMapping.1.DeviceName": "/dev/sdb",
    }
    assert {name: sent.parameters.get(name) for name in wanted} == wanted
    puts = cloud.proxy.seen("PUT")
    assert {put.headers["x-amz-acl"] for put in puts} == {"aws-exec-read"}
    # The probe is empty and has no digest of ours.
    assert all("x-amz-checksum-sha1" in put.headers for put in puts if "probe" not in put.path)
    assert [put.path.endswith(".xml") for put in puts] == [False] * (len(puts) - 1) + [True]
    assert cloud.proxy.requests.index(puts[-1]) < cloud.proxy.requests.index(sent)


async def test_registered_by_a_user_who_may_not_tag(
    cloud: Cloud, image: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """An AMI gets no mark of its job where EC2 would refuse it."""
    denied = Answer(status=403, code="UnauthorizedOperation")
    await cloud.breaks(denied, method="POST", form="(?=.*TagSpecification).*DryRun=true")
    name = f"image of {cloud.bucket}"
    job = await run(cloud.request(image, key_ring, register_image=True, ami_name=name), settings(tmp_path))
    assert job.state is State.DONE, job.error
    assert [image.get("Tags", []) for image in cloud.images(name)] == [[]]


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
    assert isinstance(job.result, BundleResult)
    assert (progress.bytes_done, progress.bytes_total) == (3_000_000, 3_000_000)
    assert progress.parts_made == progress.parts_stored == job.result.parts
    assert [stage.name for stage in progress.stages] == [
        *("read", "archive", "compress", "join", "encrypt", "split", "upload")
    ]
    for before, after in zip(progress.stages, progress.stages[1:], strict=False):
        assert before.bytes_out == after.bytes_in
