"""Registration of existing bundles."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import DifferenceError, RefusedError, RegisterError
from amistream.flow import cancel
from amistream.ports.registry import Registration
from bundles.bucket import SIZES
from bundles.made import contents, images, older_bundle, put_files, register, stored_bytes, work
from support.loop import clock
from support.proxy import Answer, Fault, HoldReply, PauseReply, PauseRequest, dry_run_answered

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy


async def test_register(cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path) -> None:
    """A bundle is registered with the manifest's and the given options; repeated, it gives the same AMI."""
    proxy = make_proxy(cloud, dry_run_answered())
    location = f"{bucket}/holes.img.manifest.xml"
    wish = Registration(name=location, tags={"team": "web"}, ena=True, block_device_mappings={"ephemeral0": "sdb"})
    it = work(tmp_path, proxy.endpoint)
    async with it.session() as session:
        done = await session.register(f"s3://{location}", wish)
        again = await session.register(f"s3://{location}", wish)
        assert it.notes == []
        other = await session.register(f"s3://{location}", Registration(name="another name"))
    assert again == done
    assert other.image_id != done.image_id
    assert it.notes == [f"{done.image_id} is registered on this bundle too"]
    assert (done.image_name, done.region) == (location, "eu-west-1")
    asked = [each.parameters for each in proxy.requests if b"RegisterImage" in each.form]
    sent = [each for each in asked if "DryRun" not in each]
    assert len(sent) == 2
    assert sent[0]["ImageLocation"] == location
    assert sent[0]["Architecture"] == "x86_64"
    assert sent[0]["VirtualizationType"] == "hvm"
    assert sent[0]["EnaSupport"] == "true"
    assert sent[0]["BlockDeviceMapping.1.DeviceName"] == "/dev/sdb"
    assert "KernelId" not in sent[0]


async def test_register_with_a_kernel(
    cloud: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """A manifest with a kernel makes a paravirtual AMI with that kernel and RAM disk, unless the options differ."""
    manifest = older_bundle(tmp_path / "old", key_ring, SIZES, kernel="aki-12345678", ramdisk="ari-12345678")
    proxy, bucket = make_proxy(cloud, dry_run_answered()), make_bucket(cloud)
    put_files(cloud, bucket, manifest.parent)
    async with work(tmp_path, proxy.endpoint).session() as session:
        await session.register(f"s3://{bucket}/holes.img.manifest.xml", Registration())
        await session.register(
            f"s3://{bucket}/holes.img.manifest.xml", Registration(name="hvm one", virtualization="hvm")
        )
    sent = [each.parameters for each in proxy.requests if b"RegisterImage" in each.form and b"DryRun" not in each.form]
    sent_kernels = [(each["VirtualizationType"], each.get("KernelId"), each.get("RamdiskId")) for each in sent]
    assert sent_kernels == [("paravirtual", "aki-12345678", "ari-12345678"), ("hvm", None, None)]
    assert re.fullmatch(r"holes\.img \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d [0-9a-f]{6}", sent[0]["Name"])


async def test_registrations_that_cannot_be(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """A directory, an incomplete bundle and a taken name are refused, and no AMI is made."""
    taken = register(cloud, f"{bucket} taken")
    before = images(cloud)
    address = f"s3://{bucket}/holes.img.manifest.xml"
    async with work(tmp_path, cloud).session() as session:
        with pytest.raises(RefusedError, match="EC2 reads a bundle from S3 only"):
            await session.register(str(bundle), Registration())
        with pytest.raises(RefusedError, match=f"{taken} has it in eu-west-1"):
            await session.register(address, Registration(name=f"{bucket} taken"))
        with pytest.raises(RefusedError, match="it is in eu-west-1"):
            await session.register(address, Registration(), region="us-east-1")
        with cloud.blocking_client() as s3:
            s3.delete_object(Bucket=bucket, Key="holes.img.part.1")
        with pytest.raises(DifferenceError, match=r"holes\.img\.part\.1 is missing"):
            await session.register(address, Registration())
    assert images(cloud) == before


async def test_cancelled_registration(
    cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A registration cancelled after EC2 made the AMI leaves no AMI."""
    fault = Fault(action=HoldReply(), method="POST", form="Action=RegisterImage&(?!.*DryRun)")
    proxy = make_proxy(cloud, dry_run_answered(), fault)
    location = f"{bucket}/holes.img.manifest.xml"
    before = images(cloud)
    it = work(tmp_path, proxy.endpoint)
    async with it.session() as session:
        task = asyncio.create_task(session.register(f"s3://{location}", Registration(name=location)))
        await asyncio.to_thread(proxy.wait_hit, fault)
        assert len(images(cloud)) == len(before) + 1
        task.cancel()
        proxy.clock = clock(it.settings.stall_timeout_s)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert images(cloud) == before
    assert stored_bytes(cloud, bucket) == contents(bundle.parent)


async def test_cancelled_twice(
    cloud: Endpoint, bucket: str, make_proxy: MakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AMI that a cancelled registration leaves is named, even if another cancel comes while it is removed."""
    monkeypatch.setattr(cancel, "SETTLE_S", 0.2)
    made = Fault(action=HoldReply(), method="POST", form="Action=RegisterImage&(?!.*DryRun)")
    look = Fault(action=PauseReply(), method="POST", form="Action=DescribeImages.*Filter", nth=2)
    denied = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form="DeregisterImage")
    proxy = make_proxy(cloud, dry_run_answered(), made, look, denied)
    it, location = work(tmp_path, proxy.endpoint), f"{bucket}/holes.img.manifest.xml"
    async with it.session() as session:
        task = asyncio.create_task(session.register(f"s3://{location}", Registration(name=location)))
        for fault in (made, look):
            await asyncio.to_thread(proxy.wait_hit, fault)
            task.cancel()
        await asyncio.to_thread(proxy.let_go, look)
        with pytest.raises(asyncio.CancelledError):
            await task
    (note,) = it.notes
    assert f"could not be removed: the AMI {location!r}: cannot deregister" in note


async def test_a_cancel_keeps_the_ami_of_another(
    cloud: Endpoint, bucket: str, make_proxy: MakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel without an answer removes no AMI that somebody else registered meanwhile under the same name."""
    monkeypatch.setattr(cancel, "SETTLE_S", 0.2)
    held = Fault(action=PauseRequest(), method="POST", form="Action=RegisterImage&(?!.*DryRun)")
    proxy = make_proxy(cloud, dry_run_answered(), held)
    it, location = work(tmp_path, proxy.endpoint), f"{bucket}/holes.img.manifest.xml"
    async with it.session() as session:
        task = asyncio.create_task(session.register(f"s3://{location}", Registration(name=location)))
        await asyncio.to_thread(proxy.wait_hit, held)
        another = register(cloud, location)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.to_thread(proxy.let_go, held)
    assert another in images(cloud)
    assert [f"amistream deregister {another}" in note for note in it.notes] == [True]


async def test_image_that_becomes_nothing(cloud: Endpoint, bucket: str, make_proxy: MakeProxy, tmp_path: Path) -> None:
    """When EC2 cannot report the AMI's state, the AMI stays, and the message says how to look it up."""
    looks = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form="ImageId.1=", times=None)
    proxy = make_proxy(cloud, dry_run_answered(), looks)
    before = images(cloud)
    async with work(tmp_path, proxy.endpoint).session() as session:
        with pytest.raises(RegisterError) as caught:
            await session.register(f"s3://{bucket}/holes.img.manifest.xml", Registration(name=f"{bucket}/waited"))
    assert caught.value.code == "register.unknown"
    assert "describe-images" in caught.value.hint
    assert len(images(cloud)) == len(before) + 1


async def test_refused_registration(
    cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """A registration that EC2 refuses ends with EC2's reason, and the bundle stays unchanged."""
    denied = Fault(
        action=Answer(status=400, code="InvalidManifest", message="HTTP 403"),
        method="POST",
        form="Action=RegisterImage&(?!.*DryRun)",
    )
    proxy = make_proxy(cloud, dry_run_answered(), denied)
    before, it = images(cloud), work(tmp_path, proxy.endpoint)
    async with it.session() as session:
        with pytest.raises(RegisterError, match="InvalidManifest"):
            await session.register(f"s3://{bucket}/holes.img.manifest.xml", Registration())
    assert (images(cloud), it.notes) == (before, [])
    assert stored_bytes(cloud, bucket) == contents(bundle.parent)


async def test_registered_twice_at_a_time(
    cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """Two commands that register one bundle under one name at the same time get the same AMI, and none removes it."""
    held = Fault(action=PauseRequest(), method="POST", form="Action=RegisterImage&(?!.*DryRun)")
    slow, quick = make_proxy(cloud, dry_run_answered(), held), make_proxy(cloud, dry_run_answered())
    location = f"{bucket}/holes.img.manifest.xml"
    before = images(cloud)

    async def registered(proxy: FaultProxy) -> str:
        async with work(tmp_path, proxy.endpoint).session() as session:
            return (await session.register(f"s3://{location}", Registration(name=location))).image_id

    second = asyncio.create_task(registered(slow))
    await asyncio.to_thread(slow.wait_hit, held)
    first = await registered(quick)
    await asyncio.to_thread(slow.let_go, held)
    assert await second == first
    assert images(cloud) == [*before, first]
