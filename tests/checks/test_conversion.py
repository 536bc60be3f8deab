"""The preflight of a conversion: what it settles, and what it refuses before a snapshot is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.aws.session import Aws
from amistream.checks.conversion import BundleSource, VolumeSource
from amistream.checks.doctor import examine
from amistream.checks.findings import Status
from amistream.conversion import ConversionPlan
from amistream.events import JobKind
from amistream.ports.registry import BUNDLE_TAG, JOB_TAG
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from bundles.made import put_files
from checks.conversions import JOB, Desk
from jobs.work import request as bundle_request
from jobs.work import run, settings, use_endpoint
from support.boot_disks import partitioned
from support.volumes import MIB, ext4_image, random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.ebs_endpoint import EbsEndpoint, EbsServer
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@pytest.fixture
def desk(ebs_endpoint: EbsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    use_endpoint(ebs_endpoint, monkeypatch)
    return Desk(tmp_path, ebs_endpoint)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a table."""
    return partitioned(random_image(tmp_path / "disk.img", 4 * MIB), "mbr").path


async def bundled(image: Path, to: Path, keys: KeyRing, tmp_path: Path, **fields: object) -> Path:
    """Bundle the image into a directory, and return its manifest."""
    job = await run(bundle_request(image, to, keys, **fields), settings(tmp_path))
    assert job.result is not None, job.error
    return to / "image.manifest.xml"


async def test_volume(desk: Desk, disk: Path) -> None:
    """A disk in a file gets a snapshot of whole GiB, and an AMI with all that was asked for."""
    fields = {
        "ami_name": "web 1",
        "architecture": "x86_64",
        "block_device_mappings": {"root": "/dev/sda1", "ephemeral0": "sdb"},
        "boot_mode": "legacy-bios",
        "ena": True,
        "imds_support": "v2.0",
        "tags": {"team": "web"},
        "snapshot_tags": {"of": "web"},
        "description": "a server",
        "volume_size": "2GiB",
    }
    async with desk.ready(disk, **fields) as ready:
        assert isinstance(ready.source, VolumeSource)
        assert ready.source.volume.size == ready.image_size == 4 * MIB
        order, registration = ready.order, ready.registration
        assert isinstance(ready.plan, ConversionPlan)
    assert (order.volume_gib, order.description, order.encrypted, order.timeout_min) == (2, "a server", False, 1440)
    assert order.tags == {"of": "web", JOB_TAG: JOB}
    assert registration is not None
    assert (registration.name, registration.architecture, registration.virtualization) == ("web 1", "x86_64", "hvm")
    assert (registration.root_device, registration.volume_size_gib, registration.volume_type) == ("/dev/xvda", 2, "gp3")
    assert (registration.boot_mode, registration.imds_support) == ("legacy-bios", "v2.0")
    assert (registration.ena, registration.sriov, registration.snapshot_id) == (True, False, "")
    assert registration.block_device_mappings == {"ephemeral0": "sdb"}
    assert registration.tags == {"team": "web", JOB_TAG: JOB}
    assert desk.endpoint.images() == []


async def test_larger_than_an_ami_of_s3(desk: Desk, tmp_path: Path) -> None:
    """A disk of more than 10 GiB is converted, and its holes are left out."""
    image = sparse_image(tmp_path / "large.img", (11 << 30) + 7, [(0, MIB)])
    async with desk.ready(image, register_image=False) as ready:
        assert (ready.order.volume_gib, ready.registration) == (12, None)
        assert ready.plan.extents is not None
        assert sum(each.length for each in ready.plan.extents) < 2 * MIB


async def test_bare_file_system(desk: Desk, tmp_path: Path) -> None:
    """A bare file system is refused for hvm, and taken with a kernel, a boot sector of its own, or without an AMI."""
    image = ext4_image(tmp_path / "root.img", 4 * MIB)
    error = await desk.refused(image)
    assert (error.code, error.field) == ("boot.bare_file_system", "partition")
    assert error.hint.startswith("--partition mbr puts a table and GRUB before it")
    error = await desk.refused(image, virtualization="paravirtual")
    assert error.code == "kernel.missing"
    desk.notices.clear()
    async with desk.ready(image, virtualization="paravirtual", kernel="aki-12345678") as ready:
        assert ready.registration is not None
        assert (ready.registration.virtualization, ready.registration.root_device) == ("paravirtual", "/dev/sda1")
        assert ready.registration.kernel == "aki-12345678"
    assert any("paravirtual" in notice and "m1" in notice for notice in desk.notices)
    desk.notices.clear()
    async with desk.ready(image, register_image=False):
        pass
    assert desk.notices == []
    with image.open("r+b") as file:
        file.write(b"\xeb\x58\x90EXTLINUX".ljust(510, b"\0") + b"\x55\xaa")
    async with desk.ready(image):
        pass
    assert any("boot sector of its own" in notice for notice in desk.notices)


async def test_bundle(desk: Desk, disk: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A bundle in a directory gives architecture and devices; its key and signature are checked."""
    fields = {"block_device_mappings": {"ami": "sda1", "ephemeral0": "sdb"}, "architecture": "i386"}
    manifest = await bundled(disk, tmp_path / "out", key_ring, tmp_path, **fields)
    user = {"certificate": str(key_ring.user.certificate), "private_key": str(key_ring.user.key)}
    async with desk.ready(manifest, **user) as ready:
        assert isinstance(ready.source, BundleSource)
        assert ready.image_size == 4 * MIB
        assert len(ready.source.unlocked.parts) > 1
        registration = ready.registration
    assert registration is not None
    assert (registration.architecture, registration.virtualization) == ("i386", "hvm")
    assert registration.block_device_mappings == {"ephemeral0": "sdb"}
    assert registration.tags[BUNDLE_TAG] == ready.order.tags[BUNDLE_TAG] == str(manifest)
    assert any("--ena" in notice for notice in desk.notices)
    assert any("amistream inspect" in notice for notice in desk.notices)
    stranger = {"certificate": str(key_ring.stranger.certificate), "private_key": str(key_ring.stranger.key)}
    error = await desk.refused(manifest, **stranger)
    assert error.code.startswith("key.") or error.code.startswith("bundle.signature")
    error = await desk.refused(manifest, partition="mbr", **user)
    assert (error.code, error.field) == ("source.bundle", "partition")
    (tmp_path / "out" / "image.part.01").unlink()
    error = await desk.refused(manifest, **user)
    assert error.code == "bundle.part.missing"
    assert error.message.startswith("cannot convert")


async def test_bundle_of_a_bare_file_system(desk: Desk, key_ring: KeyRing, tmp_path: Path) -> None:
    """The first bytes of a bundle's image show a bare file system; with a kernel in the manifest it is paravirtual."""
    image = ext4_image(tmp_path / "root.img", 4 * MIB)
    user = {"certificate": str(key_ring.user.certificate), "private_key": str(key_ring.user.key)}
    manifest = await bundled(image, tmp_path / "out", key_ring, tmp_path)
    error = await desk.refused(manifest, **user)
    assert (error.code, error.field) == ("boot.bare_file_system", "partition")
    assert error.hint.startswith("`amistream unbundle` it, and convert that image: --partition mbr")
    old = {"virtualization": "paravirtual", "kernel": "aki-12345678", "block_device_mappings": {"root": "/dev/sda1"}}
    manifest = await bundled(image, tmp_path / "old", key_ring, tmp_path, **old)
    error = await desk.refused(manifest, **user)
    assert error.code == "kernel.region"
    async with desk.ready(manifest, kernel="aki-87654321", virtualization="paravirtual", **user) as ready:
        assert ready.registration is not None
        assert (ready.registration.kernel, ready.registration.root_device) == ("aki-87654321", "/dev/sda1")


async def test_product_codes_of_a_bundle(desk: Desk, disk: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A notice names the product codes of a manifest: RegisterImage takes none."""
    user = {"certificate": str(key_ring.user.certificate), "private_key": str(key_ring.user.key)}
    manifest = await bundled(disk, tmp_path / "out", key_ring, tmp_path, product_codes=["A1B2C3D4", "E5F6"])
    async with desk.ready(manifest, **user):
        pass
    (said,) = [each for each in desk.notices if "product codes" in each]
    assert said.startswith("an AMI on EBS does not get the product codes of the manifest: A1B2C3D4, E5F6")


async def test_ami_of_the_bundle(
    ebs_server: EbsServer,
    seaweedfs: Endpoint,
    make_bucket: MakeBucket,
    disk: Path,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The AMI that is registered from a bundle gives the networks, the description and, if asked for, the tags."""
    use_endpoint(seaweedfs, monkeypatch)
    bucket = make_bucket(seaweedfs)
    manifest = await bundled(disk, tmp_path / "out", key_ring, tmp_path)
    put_files(seaweedfs, bucket, manifest.parent, "web/")
    user = {"certificate": str(key_ring.user.certificate), "private_key": str(key_ring.user.key)}
    with ebs_server.account(like=seaweedfs) as account, account.blocking_client("ec2") as ec2:
        for service, endpoint in (("S3", seaweedfs), ("EC2", account), ("EBS", account), ("STS", account)):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", endpoint.url)
        location = f"{bucket}/web/image.manifest.xml"
        tags = [{"Key": "team", "Value": "web"}, {"Key": JOB_TAG, "Value": "old"}]
        ec2.register_image(
            Name="old web",
            Description="a server",
            ImageLocation=location,
            Architecture="x86_64",
            VirtualizationType="hvm",
            EnaSupport=True,
            SriovNetSupport="simple",
            TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
        )
        desk = Desk(tmp_path, account, {"endpoint_url": ""})
        async with desk.ready(f"s3://{location}", copy_tags=True, **user) as ready:
            registration = ready.registration
        assert registration is not None
        assert registration.name.startswith("old web 20")
        assert (registration.ena, registration.sriov, registration.description) == (True, True, "a server")
        assert registration.tags == {"team": "web", JOB_TAG: JOB, BUNDLE_TAG: location}
        assert not any("--ena" in notice for notice in desk.notices)
        async with desk.ready(f"s3://{location}", ena=False, sriov=False, ami_name="new", **user) as ready:
            registration = ready.registration
        assert registration is not None
        assert (registration.ena, registration.sriov, registration.name) == (False, False, "new")
        assert set(registration.tags) == {JOB_TAG, BUNDLE_TAG}
        await confined(desk, f"s3://{location}", manifest, user)


async def confined(desk: Desk, address: str, manifest: Path, user: dict[str, str]) -> None:
    """A member of the group may convert a bundle in S3 with a key within the roots, and none in a directory."""
    keys = Path(user["private_key"]).parent
    async with desk.ready(address, roots=Roots([keys]), **user) as ready:
        assert isinstance(ready.source, BundleSource)
    error = await desk.refused(address, roots=Roots([manifest.parent]), **user)
    assert error.field in {"certificate", "private_key"}
    error = await desk.refused(manifest, roots=Roots([keys, manifest.parent]), **user)
    assert (error.code, error.field) == ("source.bundle", "source")


async def test_name_taken(desk: Desk, disk: Path) -> None:
    """A taken name is refused, unless it is that of this very job's AMI."""
    with desk.endpoint.blocking_client("ec2") as ec2:
        taken = ec2.register_image(Name="web 1", ImageLocation="b/m.xml")["ImageId"]
        error = await desk.refused(disk, ami_name="web 1")
        assert (error.code, error.field) == ("ami_name.taken", "ami_name")
        assert taken in error.message
        ec2.deregister_image(ImageId=taken)
        async with desk.ready(disk, ami_name="web 1") as ready:
            pass
        assert ready.registration is not None
        tags = [{"Key": key, "Value": value} for key, value in ready.registration.tags.items()]
        specification = [{"ResourceType": "image", "Tags": tags}]
        ec2.register_image(Name="web 1", ImageLocation="b/m.xml", TagSpecifications=specification)
        async with desk.ready(disk, settled=ready, ami_name="web 1") as again:
            assert again.registration == ready.registration


async def test_sizes(desk: Desk, disk: Path, tmp_path: Path) -> None:
    """A volume smaller than the image is refused, and so is an empty image."""
    large = sparse_image(tmp_path / "large.img", (1 << 30) + 1, [(0, MIB)])
    error = await desk.refused(large, volume_size="1GiB", register_image=False)
    assert (error.code, error.field) == ("volume_size.small", "volume_size")
    assert error.hint.startswith("--volume-size 2GiB")
    empty = tmp_path / "empty.img"
    empty.touch()
    error = await desk.refused(empty, register_image=False)
    assert (error.code, error.message.split(":")[0]) == ("source.empty", f"cannot convert {empty}")


async def test_encryption(desk: Desk, disk: Path) -> None:
    """A notice says that the account encrypts by default; a key is named to EBS by its ARN."""
    async with desk.ready(disk):
        pass
    assert not any("encrypt" in notice for notice in desk.notices)
    desk.endpoint.set(encryption_by_default=True)
    async with desk.ready(disk) as ready:
        assert not ready.order.encrypted
    assert any("encrypts by default" in notice for notice in desk.notices)
    region, account = desk.endpoint.region, desk.endpoint.account_id
    async with desk.ready(disk, kms_key_id="1234abcd-12ab-34cd-56ef-1234567890ab") as ready:
        assert ready.order.encrypted
        assert ready.order.kms_key_id == f"arn:aws:kms:{region}:{account}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    error = await desk.refused(disk, kms_key_id=f"arn:aws:kms:us-east-1:{account}:key/1234abcd")
    assert (error.code, error.field) == ("kms_key_id.region", "kms_key_id")


async def test_denied(desk: Desk, disk: Path) -> None:
    """A missing right to register is found by the dry run; rights that are not needed are not."""
    desk.endpoint.fault("GetEbsEncryptionByDefault", code="UnauthorizedOperation", status=403, times=None)
    desk.endpoint.fault("DescribeSnapshots", code="UnauthorizedOperation", status=403, times=None)
    async with desk.ready(disk):
        pass
    desk.endpoint.fault("RegisterImage", code="UnauthorizedOperation", status=403, times=None)
    error = await desk.refused(disk)
    assert error.code == "aws.UnauthorizedOperation"


async def test_an_endpoint_without_the_direct_apis(
    ebs_server: EbsServer, seaweedfs: Endpoint, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that has no EBS direct APIs is refused before the first byte is read, with what to do instead."""
    use_endpoint(seaweedfs, monkeypatch)
    with ebs_server.account(like=seaweedfs) as account:
        for service, endpoint in (("EC2", account), ("EBS", seaweedfs), ("STS", account)):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", endpoint.url)
        error = await Desk(tmp_path, account, {"endpoint_url": ""}).refused(disk)
    assert (error.code, error.field) == ("snapshot.no_direct_apis", "endpoint_url")
    assert "AWS_ENDPOINT_URL_EBS" in error.hint


async def test_many_pending(desk: Desk, disk: Path) -> None:
    """A notice comes before EBS refuses further snapshots."""
    async with desk.endpoint.client("ebs") as ebs:
        for _ in range(90):
            await ebs.start_snapshot(VolumeSize=1)
    async with desk.ready(disk):
        pass
    assert any(notice.startswith("90 snapshots are pending") for notice in desk.notices)


async def test_devices(desk: Desk, disk: Path) -> None:
    """Instance store volumes may share a device neither with each other nor with the root."""
    error = await desk.refused(disk, block_device_mappings={"ephemeral0": "sdb", "ephemeral1": "/dev/sdb"})
    assert error.code == "mapping.twice"
    error = await desk.refused(disk, block_device_mappings={"ephemeral0": "sda"}, root_device="/dev/sda")
    assert error.code == "mapping.root"


async def test_memory(desk: Desk, disk: Path) -> None:
    """A limit of memory lowers the blocks in flight, down to a refusal."""
    async with desk.ready(disk, workers=1, puts=64, memory_limit="160MiB") as ready:
        assert ready.plan.puts == 8
    error = await desk.refused(disk, workers=1, memory_limit="140MiB")
    assert error.code == "memory_limit.too_small"


async def test_doctor_without_a_source(desk: Desk) -> None:
    """Without a source the doctor looks at the machine, the credentials and EBS."""
    chosen = settings(desk.tmp_path, endpoint_url=desk.endpoint.url)
    asked = ConvertCheckRequest(kind=JobKind.CONVERT, encrypted=True)
    async with Aws(chosen) as aws:
        found = {each.name: each.status for each in await examine(asked, chosen, aws)}
    assert (found["source"], found["volume_size"]) == (Status.SKIPPED, Status.SKIPPED)
    names = ("libraries", "memory_limit", "credentials", "region", "direct_apis", "encryption", "snapshots")
    assert [found[name] for name in names] == [Status.OK] * len(names)
