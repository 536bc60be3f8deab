"""The whole life of a bundle at endpoints that know less than S3, one thing at a time; `doctor` says so beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.migrate import MigrationRequest
from amistream.checks.doctor import examine
from amistream.checks.findings import Finding, Status
from amistream.errors import RefusedError, TakenError
from amistream.events import BundleResult, State
from amistream.ports.registry import Registration
from bundles.made import Work, stored_bytes, work
from jobs.work import request, run, use_endpoint
from support.buckets import list_keys
from support.proxy import Answer, Fault, HollowReply, dry_run_answered
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action

MANIFEST = "image.manifest.xml"
EMPTY = b'<OwnershipControls xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'


def unknown(action: Action, method: str, **like: Any) -> Fault:
    return Fault(action=action, method=method, times=None, **like)


def says(status: int, code: str) -> Answer:
    return Answer(status=status, code=code)


LACKS: dict[str, tuple[str, Fault]] = {
    "If-None-Match": (
        "does not know If-None-Match",
        unknown(says(501, "NotImplemented"), "PUT|POST", header="if-none-match"),
    ),
    "checksums": (
        "does not know x-amz-checksum-sha1",
        unknown(says(400, "InvalidArgument"), "PUT", header="x-amz-checksum-sha1|x-amz-checksum-algorithm"),
    ),
    "ownership controls": (
        "cannot check if bucket",
        unknown(HollowReply(undone=True, body=EMPTY), "GET", query="ownershipControls"),
    ),
    "encryption": ("", unknown(says(501, "NotImplemented"), "GET", query="encryption")),
    "deletion of many": ("", unknown(says(400, "MissingContentMD5"), "POST", query="^delete")),
    "versioning": ("", unknown(says(501, "NotImplemented"), "GET", query="^versioning")),
    "heads of buckets": ("", unknown(says(405, "MethodNotAllowed"), "HEAD", path="/[^/]+/?")),
}
"""By the name of what an endpoint does not know: a part of the notice of `doctor` and the job, and its answer."""


async def confirmed(_: object) -> None:
    """Yes."""


@pytest.mark.parametrize("name", LACKS)
async def test_the_life_of_a_bundle(
    name: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that an endpoint does not know stops a bundle, from its checks to its removal."""
    use_endpoint(ministack, monkeypatch)
    (words, fault), bucket = LACKS[name], make_bucket(ministack)
    proxy = make_proxy(ministack, fault, dry_run_answered())
    it = work(tmp_path, proxy.endpoint)
    image, ami = random_image(tmp_path / "disk.img", 600_000), f"{bucket}/made/{MANIFEST}"
    asked = request(image, f"s3://{bucket}/made", key_ring, endpoint_url=proxy.url, ami_name=ami)
    async with Aws(it.settings) as aws:
        findings = await examine(asked, it.settings, aws)
    assert failures(findings) == []
    assert any(words in each.notice for each in findings)
    job = await run(asked, it.settings)
    assert job.state is State.DONE, job.error
    assert not words or any(words in notice for notice in job.notices)
    assert not any("certificate" in notice for notice in job.notices)
    await live_on(it, bucket, key_ring, tmp_path)
    with ministack.blocking_client("ec2") as ec2:
        assert not [each for each in ec2.describe_images(Owners=["self"])["Images"] if bucket in each["Name"]]
    assert list_keys(ministack, bucket) == []
    assert [each for each in proxy.requests if each.fault is fault]


def failures(findings: list[Finding]) -> list[Finding]:
    """The failed checks but that of the volume, which is noise and does not boot."""
    return [each for each in findings if each.status is Status.FAILED and not each.code.startswith("boot.")]


async def live_on(it: Work, bucket: str, keys: KeyRing, tmp_path: Path) -> None:
    """Take a bundle, which is registered, through all that can be done with it."""
    pair: dict[str, Any] = {"certificate": keys.user.certificate, "private_key": keys.user.key}
    made, up, moved = (f"s3://{bucket}/{place}" for place in ("made", "up", "moved"))
    async with it.session() as session:
        report = await session.verify(f"{made}/{MANIFEST}", Meter(), deep=True, **pair)
        assert report.differences == ()
        assert [each.problem for each in (await session.inventory(f"s3://{bucket}")).bundles] == [""]
        await session.download(f"{made}/{MANIFEST}", tmp_path / "down", Meter())
        await session.upload(str(tmp_path / "down" / MANIFEST), up, Meter())
        options = Registration(name=f"{bucket}/up/{MANIFEST}")
        registered = await session.register(f"{up}/{MANIFEST}", options, region="eu-west-1")
        request = MigrationRequest(region="eu-west-1", ec2_certificate=keys.ec2.certificate, **pair)
        await session.migrate(f"{made}/{MANIFEST}", moved, Meter(), request)
        report = await session.verify(f"{moved}/{MANIFEST}", Meter(), deep=True, **pair)
        assert report.differences == ()
        await session.deregister(registered.image_id, confirmed, region="eu-west-1", delete=True)
        await session.delete(f"{made}/{MANIFEST}", confirmed, deregister=True)
        await session.delete(f"{moved}/{MANIFEST}", confirmed)


async def test_an_endpoint_that_does_not_know_the_acl(
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ACL is named before the first byte, by `doctor` and the job, and another one works."""
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    fault = unknown(says(400, "InvalidArgument"), "PUT|POST", header="x-amz-acl: aws-exec-read")
    proxy = make_proxy(ministack, fault)
    it, image = work(tmp_path, proxy.endpoint), random_image(tmp_path / "disk.img", 600_000)
    to = f"s3://{bucket}/made"
    asked = request(image, to, key_ring, endpoint_url=proxy.url, register_image=False)
    async with Aws(it.settings) as aws:
        findings = await examine(asked, it.settings, aws)
    (failed,) = failures(findings)
    job = await run(asked, it.settings)
    assert job.state is State.REFUSED
    assert job.error is not None
    assert job.error.code == "bucket.acl"
    assert job.error.message == failed.found
    assert "--acl" in job.error.hint
    assert list_keys(ministack, bucket) == []
    job = await run(
        request(image, to, key_ring, endpoint_url=proxy.url, register_image=False, acl="private"), it.settings
    )
    assert job.state is State.DONE, job.error


async def test_an_endpoint_without_conditions_never_replaces_an_object(
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another's object under a part's name stops an upload, as `If-None-Match` would."""
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    proxy = make_proxy(ministack, LACKS["If-None-Match"][1])
    it = work(tmp_path, proxy.endpoint, upload_concurrency=1)
    image = random_image(tmp_path / "disk.img", 600_000)
    assert (await run(request(image, tmp_path / "made", key_ring), it.settings)).state is State.DONE
    with ministack.blocking_client() as s3:

        def come_between(request: Any) -> None:
            if request.method == "PUT" and request.path.endswith("part.00"):
                s3.put_object(Bucket=bucket, Key="made/image.part.01", Body=b"a rival's")

        proxy.at_random = come_between
        async with it.session() as session:
            with pytest.raises(TakenError):
                await session.upload(str(tmp_path / "made" / MANIFEST), f"s3://{bucket}/made", Meter())
    assert stored_bytes(ministack, bucket, "made/")["image.part.01"] == b"a rival's"


async def test_copies_that_keep_the_checksum_of_chunks(
    ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checksum of the original's chunks is no difference: such a part goes through this machine."""
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    it = work(tmp_path, ministack, multipart_threshold="5MiB", multipart_chunk="5MiB")
    image = random_image(tmp_path / "disk.img", 7_000_000)
    to = f"s3://{bucket}/made"
    asked = request(image, to, key_ring, endpoint_url=ministack.url, register_image=False, part_size="6MiB")
    assert (await run(asked, it.settings)).state is State.DONE
    pair: dict[str, Any] = {"certificate": key_ring.user.certificate, "private_key": key_ring.user.key}
    moving = MigrationRequest(region="eu-west-1", ec2_certificate=key_ring.ec2.certificate, **pair)
    async with it.session() as session:
        moved = await session.migrate(f"{to}/{MANIFEST}", f"s3://{bucket}/moved", Meter(), moving)
        report = await session.verify(f"s3://{bucket}/moved/{MANIFEST}", Meter(), deep=True, **pair)
    assert (moved.parts, report.differences) == (2, ())


async def test_an_endpoint_that_does_not_report_the_bundle_of_an_ami(
    moto_server: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an AMI may be any bundle's: the list says so, and a bundle is deleted only if EC2 is not to be asked."""
    use_endpoint(moto_server, monkeypatch)
    to = f"s3://{make_bucket(moto_server)}/made"
    it, image = work(tmp_path, moto_server), random_image(tmp_path / "disk.img", 600_000)
    job = await run(request(image, to, key_ring, endpoint_url=moto_server.url, ami_name="unreported"), it.settings)
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, BundleResult)
    ami = job.result.image_id
    assert ami is not None
    pair: dict[str, Any] = {"certificate": key_ring.user.certificate, "private_key": key_ring.user.key}
    async with it.session() as session:
        assert (await session.verify(f"{to}/{MANIFEST}", Meter(), deep=True, **pair)).differences == ()
        assert [each.images for each in (await session.inventory(to)).bundles] == [None]
        with pytest.raises(RefusedError, match="EC2 does not report") as caught:
            await session.delete(f"{to}/{MANIFEST}", confirmed, deregister=True)
        assert "--no-ec2" in caught.value.hint
        with pytest.raises(RefusedError, match="EC2 names no manifest"):
            await session.deregister(ami, confirmed, region="eu-west-1", delete=True)
        await session.deregister(ami, confirmed, region="eu-west-1")
        await session.delete(f"{to}/{MANIFEST}", confirmed, ask_ec2=False)
