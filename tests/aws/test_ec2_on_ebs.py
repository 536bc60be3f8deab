"""AMIs on EBS snapshots, and what EC2 knows about snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from amistream.aws.ec2 import Ec2
from amistream.aws.session import Aws
from amistream.errors import NameTakenError, StoreError
from amistream.flow.retry import RetryPolicy
from amistream.ports.registry import BUNDLE_TAG, JOB_TAG, Registration
from amistream.settings import Settings
from amistream.stages.register import RegistrationAttempt

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint

REGISTRATION = Registration(
    name="web 1",
    architecture="arm64",
    virtualization="hvm",
    description="what it is",
    ena=True,
    sriov=True,
    block_device_mappings={"root": "/dev/sda1", "ephemeral1": "/dev/sdc", "ephemeral0": "sdb"},
    tags={JOB_TAG: "job-1", BUNDLE_TAG: "bucket/image.manifest.xml"},
    root_device="/dev/xvda",
    volume_size_gib=3,
    volume_type="gp3",
    boot_mode="uefi",
    imds_support="v2.0",
)
RETRY = RetryPolicy(attempts=2, base_s=0, cap_s=0, stall_s=30)


@asynccontextmanager
async def opened(endpoint: EbsEndpoint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ec2]:
    for name, value in endpoint.environ().items():
        monkeypatch.setenv(name, value)
    async with Aws(Settings()) as aws:
        yield Ec2(await aws.client("ec2", endpoint.region, endpoint.url), endpoint.region, 30)


@pytest.fixture
def snapshot(ebs_endpoint: EbsEndpoint, tmp_path: Path) -> str:
    file = tmp_path / "image"
    file.write_bytes(b"root" * 1024)
    return ebs_endpoint.make_snapshot(file, volume_gib=2)


async def test_registered(ebs_endpoint: EbsEndpoint, snapshot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EC2 gets all of the registration: architecture, root, instance store volumes, boot mode, metadata, tags."""
    wish = replace(REGISTRATION, snapshot_id=snapshot)
    async with opened(ebs_endpoint, monkeypatch) as ec2:
        attempt = RegistrationAttempt(registry=ec2, registration=wish, retry=RETRY)
        image_id = await attempt.run(timeout_s=10, poll_s=1)
        found = await ec2.find("web 1")
        converted = await ec2.converted_images()
        assert await ec2.own_images() == []
    assert found is not None
    assert found.is_of(wish)
    assert found.is_by_job_of(wish)
    assert [each.id for each in converted] == [image_id]
    (image,) = ebs_endpoint.images()
    assert image["blockDeviceMapping"] == [
        {
            "deviceName": "/dev/xvda",
            "ebs": {
                "snapshotId": snapshot,
                "encrypted": False,
                "volumeSize": 3,
                "volumeType": "gp3",
                "deleteOnTermination": True,
            },
        },
        {"deviceName": "/dev/sdb", "virtualName": "ephemeral0"},
        {"deviceName": "/dev/sdc", "virtualName": "ephemeral1"},
    ]
    names = ("architecture", "virtualizationType", "rootDeviceName", "bootMode", "imdsSupport", "enaSupport")
    assert [image[name] for name in names] == ["arm64", "hvm", "/dev/xvda", "uefi", "v2.0", True]
    assert (image["description"], image["sriovNetSupport"]) == ("what it is", "simple")
    assert image["tags"] == REGISTRATION.tags


async def test_another_snapshot(ebs_endpoint: EbsEndpoint, snapshot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AMI of the same name on another snapshot is not taken for ours."""
    wish = replace(REGISTRATION, snapshot_id=snapshot)
    async with opened(ebs_endpoint, monkeypatch) as ec2:
        await ec2.register(wish)
        found = await ec2.find("web 1")
        assert found is not None
        assert not found.is_of(replace(wish, snapshot_id="snap-00000000000000001"))
        assert not found.is_of(REGISTRATION)
        with pytest.raises(NameTakenError):
            await ec2.register(wish)


async def test_dry_run(ebs_endpoint: EbsEndpoint, snapshot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run needs no snapshot, makes no AMI, and reports a missing permission."""
    async with opened(ebs_endpoint, monkeypatch) as ec2:
        await ec2.may_register(REGISTRATION)
        await ec2.may_register(replace(REGISTRATION, snapshot_id=snapshot))
        assert ebs_endpoint.images() == []
        ebs_endpoint.fault("RegisterImage", code="UnauthorizedOperation", status=403)
        with pytest.raises(StoreError, match="cannot register"):
            await ec2.may_register(REGISTRATION)


async def test_snapshots(ebs_endpoint: EbsEndpoint, snapshot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EC2 says whether it encrypts by default, and how many snapshots are pending."""
    async with ebs_endpoint.client("ebs") as ebs:
        await ebs.start_snapshot(VolumeSize=1)
    async with opened(ebs_endpoint, monkeypatch) as ec2:
        assert not await ec2.encrypts_by_default()
        ebs_endpoint.set(encryption_by_default=True)
        assert await ec2.encrypts_by_default()
        assert await ec2.pending_snapshots() == 1
