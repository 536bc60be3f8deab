"""Conversions to EBS as a user runs them: another client reads the image back, through ListSnapshotBlocks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bundles.shell_bundle import EVERYTHING, Form, shell_bundle
from end_to_end.converting import GIB, Conversions, digests, fits, run
from support.boot_disks import BootDisk, boot_disk, partitioned
from support.daemons import identity, running_daemon
from support.ebs_endpoint import BLOCK
from support.live_disks import in_use
from support.referee import read_bundle
from support.volumes import MIB, ext4_image, files_tree, random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.ebs_endpoint import EbsEndpoint, EbsServer
    from support.endpoints import Endpoint
    from support.keys import KeyRing

SNAPSHOT_ONLY = ("--no-register",)


@pytest.fixture
def conversions(ebs_endpoint: EbsEndpoint, tmp_path: Path) -> Conversions:
    return Conversions(endpoint=ebs_endpoint, directory=tmp_path)


@pytest.fixture(scope="module")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 file system with files in it, whose free blocks are zeros."""
    return ext4_image(tmp_path_factory.mktemp("volume") / "root.img", 12 * MIB)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> BootDisk:
    """A GPT disk with a boot loader and an ext4 root, whose free blocks are noise."""
    directory = tmp_path_factory.mktemp("disk")
    return boot_disk(directory / "disk.img", files_tree(directory / "tree", 4 * MIB), 24 * MIB, "gpt")


def opened_by(keys: KeyRing) -> tuple[object, ...]:
    """Options that open a bundle."""
    return ("--private-key", keys.user.key, "--cert", keys.user.certificate)


def bundle(source: Path | str, to: Path, keys: KeyRing, *options: object, endpoint: Endpoint | None = None) -> Path:
    """Bundle with the real command; returns the manifest."""
    here = ("--in-process", "--no-register", "--no-inherit", "--arch", "x86_64")
    run(to.parent, endpoint, "bundle", source, "--to", to, *identity(keys), *here, *options)
    return to / "image.manifest.xml"


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_any_size(size: int, conversions: Conversions, tmp_path: Path) -> None:
    """An image ends anywhere in a block; the rest of its last block is zeros."""
    image = random_image(tmp_path / "disk.img", size)
    conversions.fits(conversions.convert(image, *SNAPSHOT_ONLY), image)


def test_beyond_a_whole_size(conversions: Conversions, tmp_path: Path) -> None:
    """A sparse image of 3 GiB and 7 bytes becomes the snapshot of a volume of 4 GiB."""
    image = sparse_image(tmp_path / "disk.img", 3 * GIB + 7, [(0, 5000), (GIB - 9, 18), (3 * GIB, 7)])
    conversions.fits(conversions.convert(image, *SNAPSHOT_ONLY), image)


def test_zeros(conversions: Conversions, tmp_path: Path) -> None:
    """An image of zeros, written or holes, becomes a snapshot without a block."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(3 * BLOCK))
    os.truncate(image, 5 * BLOCK + 1)
    job = conversions.convert(image, *SNAPSHOT_ONLY)
    conversions.fits(job, image)
    assert job["result"]["blocks"] == 0


def test_ten_gib(conversions: Conversions, tmp_path: Path) -> None:
    """A sparse disk of 10 GiB costs what its data cost."""
    spans = [(0, MIB), (4 * GIB - 4096, 8192), (7 * GIB + 12_345, 3 * MIB), (10 * GIB - 1, 1)]
    image = sparse_image(tmp_path / "disk.img", 10 * GIB, spans)
    job = conversions.convert(image, *SNAPSHOT_ONLY)
    conversions.fits(job, image)
    assert job["result"]["blocks_read"] < 64


def test_a_file_system(file_system: Path, conversions: Conversions) -> None:
    """A bare ext4 becomes a snapshot of the same bytes."""
    conversions.fits(conversions.convert(file_system, *SNAPSHOT_ONLY), file_system)


def test_a_disk(disk: BootDisk, conversions: Conversions) -> None:
    """With --sparse never every byte of a GPT disk is in the snapshot, and an AMI of it is registered."""
    job = conversions.convert(disk.path, "--sparse", "never", "--ami-name", "web 1", "--tag", "Team=build", "--ena")
    conversions.fits(job, disk.path)
    (image,) = conversions.endpoint.images()
    assert (image["imageId"], image["name"]) == (job["result"]["image_id"], "web 1")
    assert image["snapshots"] == [job["result"]["snapshot_id"]]
    with conversions.endpoint.blocking_client("ec2") as ec2:
        (shown,) = ec2.describe_images(ImageIds=[image["imageId"]])["Images"]
    assert (shown["Architecture"], shown["VirtualizationType"], shown["EnaSupport"]) == ("x86_64", "hvm", True)
    (root,) = shown["BlockDeviceMappings"]
    assert root["DeviceName"] == shown["RootDeviceName"] == "/dev/xvda"
    assert root["Ebs"]["SnapshotId"] == job["result"]["snapshot_id"]


def test_a_disk_and_its_bundle(disk: BootDisk, conversions: Conversions, tmp_path: Path, key_ring: KeyRing) -> None:
    """A disk and the bundle of it give the same snapshot: the image that `unbundle` gives."""
    manifest = bundle(disk.path, tmp_path / "bundle", key_ring)
    run(tmp_path, None, "unbundle", manifest, tmp_path / "image.img", *opened_by(key_ring))
    job = conversions.convert(manifest, *opened_by(key_ring), "--ami-name", "web 1")
    conversions.fits(job, tmp_path / "image.img")
    again = conversions.convert(disk.path, *SNAPSHOT_ONLY)
    assert again["result"]["checksum"] == job["result"]["checksum"]
    assert again["result"]["snapshot_id"] != job["result"]["snapshot_id"]


OTHER_TOOLS: dict[str, dict[str, Any]] = {
    "ec2-ami-tools": {"form": Form(quote="'"), "sparse": True, "digits": 1},
    "euca2ools": {"form": Form(encoding="ASCII", **EVERYTHING), "sparse": False, "tar_format": ("--format=posix",)},
}


@pytest.mark.parametrize("made_as", OTHER_TOOLS.values(), ids=OTHER_TOOLS)
def test_a_bundle_of_another_tool(
    made_as: dict[str, Any], conversions: Conversions, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A bundle gives its image, whoever made it."""
    spans = [(0, 70_000), (2 * BLOCK - 4096, 8192), (5 * BLOCK, 2 * BLOCK)]
    image = sparse_image(tmp_path / "disk.img", 9 * BLOCK + 1024, spans)
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, part_size=4 * MIB, **made_as)
    conversions.fits(conversions.convert(manifest, *opened_by(key_ring), *SNAPSHOT_ONLY), image)


def test_a_pipe(conversions: Conversions, tmp_path: Path) -> None:
    """A stream of an announced size becomes the snapshot of its bytes."""
    image = random_image(tmp_path / "disk.img", 3 * BLOCK + 77)
    job = conversions.convert("-", "--image-size", image.stat().st_size, *SNAPSHOT_ONLY, given=image.read_bytes())
    conversions.fits(job, image)


def test_a_live_tree(disk: BootDisk, conversions: Conversions, tmp_path: Path, key_ring: KeyRing) -> None:
    """A mounted root becomes a disk like its own, the same as by way of a bundle, and an AMI."""
    with in_use(disk, tmp_path / "root") as live:
        manifest = bundle(live.root, tmp_path / "bundle", key_ring, "--partition", "clone")
        job = conversions.convert(live.root, "--partition", "clone", "--ami-name", "web 1")
    run(tmp_path, None, "unbundle", manifest, tmp_path / "image.img", *opened_by(key_ring))
    conversions.fits(job, tmp_path / "image.img")


def test_the_way_back(conversions: Conversions, tmp_path: Path, key_ring: KeyRing) -> None:
    """A snapshot gives the bundle that its disk gives, and a snapshot like itself."""
    # A snapshot knows no holes within blocks, and its time stands in the archive.
    disk = sparse_image(tmp_path / "disk.img", GIB, [(0, 2 * BLOCK), (700 * BLOCK, BLOCK), (GIB - BLOCK, BLOCK)])
    job = conversions.convert(disk, *SNAPSHOT_ONLY)
    snapshot = job["result"]["snapshot_id"]
    with conversions.endpoint.blocking_client("ec2") as ec2:
        (found,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    os.utime(disk, (int(found["StartTime"].timestamp()),) * 2)
    cloud = conversions.endpoint
    bundle(snapshot, tmp_path / "of-snapshot", key_ring, "--endpoint-url", cloud.url, endpoint=cloud)
    bundle(disk, tmp_path / "of-disk", key_ring)
    one, other = (read_bundle(tmp_path / name, key_ring.user.key) for name in ("of-snapshot", "of-disk"))
    assert (one.tar_sha1, one.image_size) == (other.tar_sha1, other.image_size)
    assert [each.path.stat().st_size for each in one.parts] == [each.path.stat().st_size for each in other.parts]
    run(tmp_path, None, "unbundle", one.directory / "image.manifest.xml", tmp_path / "image", *opened_by(key_ring))
    assert dict(digests(tmp_path / "image")) == dict(digests(disk))
    copy = conversions.convert(snapshot, *SNAPSHOT_ONLY)
    assert copy["result"]["checksum"] == job["result"]["checksum"]


def test_a_bundle_in_s3(
    ebs_server: EbsServer,
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """The daemon makes an AMI on EBS of a bundle that it made in a bucket."""
    bucket = make_bucket(seaweedfs)
    disk = partitioned(random_image(tmp_path / "disk.img", 3 * MIB + BLOCK), "mbr")
    with (
        ebs_server.account(like=seaweedfs) as cloud,
        running_daemon(tmp_path, cloud, part_size="1MiB", register_poll_s=0.05, endpoint_url=cloud.url) as daemon,
    ):
        made = daemon.command(
            *("bundle", disk.path, "--to", f"s3://{bucket}/web"),
            *("--no-register", "--arch", "x86_64", *identity(key_ring)),
        )
        assert made.returncode == 0, made.stderr
        words = ("convert", f"s3://{bucket}/web/image.manifest.xml", "--ami-name", "web 1", *opened_by(key_ring))
        done = daemon.command(*words, "--json")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)["result"]
        fits(cloud, result, disk.path, tmp_path / "back.img")
        assert [each["imageId"] for each in cloud.images()] == [result["image_id"]]
        log = [json.loads(line) for line in daemon.process.output().splitlines()]
        ends = [(line["job"], line["state"]) for line in log if line["event"] == "job.end"]
        assert ends[-1] == (json.loads(done.stdout)["id"], "done")


def test_what_completes_a_snapshot(
    ebs_endpoint: EbsEndpoint, make_proxy: MakeProxy, file_system: Path, tmp_path: Path
) -> None:
    """EBS is told how many blocks there are, and their LINEAR checksum: it would refuse a snapshot that lacks one."""
    proxy = make_proxy(ebs_endpoint)
    words = ("convert", file_system, "--no-register", "--in-process", "--endpoint-url", proxy.url)
    run(tmp_path, ebs_endpoint, *words)
    (completion,) = proxy.seen("POST", path="/snapshots/completion/.*")
    expected = list(dict(digests(file_system)).values())
    assert {name: completion.headers[name] for name in completion.headers if name.startswith("x-amz-ch")} == {
        "x-amz-changedblockscount": str(len(expected)),
        "x-amz-checksum": base64.b64encode(hashlib.sha256(b"".join(expected)).digest()).decode(),
        "x-amz-checksum-algorithm": "SHA256",
        "x-amz-checksum-aggregation-method": "LINEAR",
    }


def test_moto(moto_server: Endpoint, file_system: Path, tmp_path: Path) -> None:
    """Moto, which verifies nothing but is somebody else's, gives the image back."""
    words = ("convert", file_system, "--no-register", "--in-process", "--endpoint-url", moto_server.url, "--json")
    result = json.loads(run(tmp_path, moto_server, *words))["result"]
    with moto_server.blocking_client("ebs") as ebs:
        listed = ebs.list_snapshot_blocks(SnapshotId=result["snapshot_id"])
        found = {
            block["BlockIndex"]: hashlib.sha256(
                ebs.get_snapshot_block(
                    SnapshotId=result["snapshot_id"], BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
                )["BlockData"].read()
            ).digest()
            for block in listed["Blocks"]
        }
    assert found == dict(digests(file_system))
