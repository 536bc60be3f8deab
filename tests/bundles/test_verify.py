"""`verify` from outside: one request a part, nothing downloaded; data that a place does not report is no difference."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from amistream.aws.regions import on_aws
from amistream.bundles import acls
from amistream.bundles.acls import EC2_READER, who_can_read
from amistream.cli.report_text import report_text
from amistream.errors import StoreError
from amistream.events import BundleResult
from amistream.flow.gather import gather_limited
from amistream.keys import own_identity
from amistream.reports import Access, Report, Signature
from bundles.made import flip, older_bundle, put_files, verify_at
from bundles.shell_bundle import Faults, Form, shell_bundle
from jobs.work import request, run, settings, use_endpoint
from support.proxy import Answer, Fault, PauseRequest, TruncateReply
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyPair, KeyRing

PARTS = r".*\.part\.\d+"
READER = {"Type": "CanonicalUser", "ID": EC2_READER}
OWNER = {"Grantee": {"Type": "CanonicalUser", "ID": "75aa57f0"}, "Permission": "FULL_CONTROL"}


async def shallow(address: str, tmp_path: Path, pair: KeyPair | None = None, **more: Any) -> Report:
    files = (pair.certificate if pair else None, None)
    return await verify_at(address, settings(tmp_path, **more), files)


@pytest.fixture
def moto(moto_server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Start an S3 that keeps grants, and no checksums."""
    use_endpoint(moto_server, monkeypatch)
    return moto_server


@pytest.fixture
def seaweed(seaweedfs: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Start an S3 that keeps checksums."""
    use_endpoint(seaweedfs, monkeypatch)
    return seaweedfs


async def put_quickly(endpoint: Endpoint, bucket: str, directory: Path, prefix: str) -> None:
    async with endpoint.client(max_pool_connections=20) as s3:

        async def put(path: Path) -> None:
            await s3.put_object(Bucket=bucket, Key=f"{prefix}{path.name}", Body=path.read_bytes())

        await gather_limited(put, directory.iterdir(), 20)


async def test_hundreds_of_parts(
    moto: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Each of 300 parts costs one HEAD, sixteen at a time; only the manifest is downloaded."""
    older_bundle(tmp_path / "bundle", key_ring, [16] * 300, digits=3)
    bucket = make_bucket(moto)
    await put_quickly(moto, bucket, tmp_path / "bundle", "x/")
    pause = Fault(action=PauseRequest(), method="HEAD", path=PARTS, times=None)
    proxy = make_proxy(moto, pause)
    looking = asyncio.create_task(
        shallow(f"s3://{bucket}/x/holes.img.manifest.xml", tmp_path, endpoint_url=proxy.endpoint.url)
    )
    for _ in range(16):
        await asyncio.to_thread(proxy.wait_hit, pause)
    assert len(proxy.seen("HEAD", PARTS)) == 16
    await asyncio.to_thread(proxy.let_go, pause)
    report = await looking
    assert (report.differences, report.parts, report.digests.unkept) == ((), 300, 300)
    asked = [each.path for each in proxy.seen("HEAD", PARTS)]
    assert (len(asked), len(set(asked))) == (300, 300)
    got = [(each.path, each.query) for each in proxy.seen("GET") if "acl" not in each.query]
    assert got == [(f"/{bucket}/x/holes.img.manifest.xml", "")]
    others = [each for each in proxy.requests if each.path not in asked]
    assert [(each.method, "acl" in each.query) for each in others] == [
        ("HEAD", False),
        ("HEAD", False),
        ("GET", False),
        ("GET", True),
    ]
    with moto.blocking_client() as s3:
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": path.split("/", 2)[2]} for path in asked]})


async def test_checksums_of_the_store(
    seaweed: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A part replaced by another of its size is found by the checksum that S3 keeps, unread."""
    bucket, proxy = make_bucket(seaweed), make_proxy(seaweed)
    image = random_image(tmp_path / "disk.img", 1_000_000)
    it = settings(tmp_path, endpoint_url=seaweed.url)
    made = await run(request(image, f"s3://{bucket}/x", key_ring, register_image=False), it)
    assert isinstance(made.result, BundleResult), made.error
    with seaweed.blocking_client() as s3:
        size = s3.head_object(Bucket=bucket, Key="x/image.part.01")["ContentLength"]
        s3.put_object(Bucket=bucket, Key="x/image.part.01", Body=bytes(size), ChecksumAlgorithm="SHA1")
        s3.delete_object(Bucket=bucket, Key="x/image.part.02")
    report = await shallow(made.result.manifest, tmp_path, key_ring.user, endpoint_url=proxy.endpoint.url)
    assert [(each.what, each.part) for each in report.differences] == [
        ("part.missing", "image.part.02"),
        ("part.digest", "image.part.01"),
    ]
    assert re.fullmatch("[0-9a-f]{40}", report.differences[1].found)
    assert report.digests.compared == report.parts - 1
    assert report.signature is Signature.RIGHT
    assert proxy.seen("GET", PARTS) == []


async def test_a_directory_is_read(key_ring: KeyRing, tmp_path: Path) -> None:
    """The parts of a directory are read and compared, because that costs no download."""
    manifest = shell_bundle(tmp_path / "bundle", random_image(tmp_path / "disk.img", 300_000), key_ring)
    flip(tmp_path / "bundle" / "image.part.03")
    report = await shallow(str(manifest), tmp_path)
    assert [(each.what, each.part) for each in report.differences] == [("part.digest", "image.part.03")]
    assert (report.digests.compared, report.access) == (5, Access.NONE)


async def grant(endpoint: Endpoint, bucket: str, *keys: str) -> None:
    with endpoint.blocking_client() as s3:
        for key in keys:
            s3.put_object_acl(Bucket=bucket, Key=key, GrantRead=f"id={EC2_READER}")


async def test_access(moto: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path) -> None:
    """If the manifest's ACL has the grant to EC2, each part's must have it, too."""
    older_bundle(tmp_path / "bundle", key_ring, [16] * 3, digits=2)
    bucket = make_bucket(moto)
    put_files(moto, bucket, tmp_path / "bundle")
    address = f"s3://{bucket}/holes.img.manifest.xml"
    assert (await shallow(address, tmp_path, endpoint_url=moto.url)).access is Access.NOT_TOLD
    names = [f"holes.img.part.{number:02d}" for number in range(3)]
    await grant(moto, bucket, "holes.img.manifest.xml", *names[:2])
    report = await shallow(address, tmp_path, endpoint_url=moto.url)
    assert report.access is Access.PRIVATE
    assert [(each.what, each.part) for each in report.differences] == [("access.private", names[2])]
    await grant(moto, bucket, names[2])
    report = await shallow(address, tmp_path, endpoint_url=moto.url)
    assert (report.access, report.differences) == (Access.GRANTED, ())


async def test_access_on_aws(
    moto: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On AWS, which reports grants, objects without one are private."""
    older_bundle(tmp_path / "bundle", key_ring, [16], digits=2)
    bucket = make_bucket(moto)
    put_files(moto, bucket, tmp_path / "bundle")
    monkeypatch.setattr(acls, "on_aws", lambda _: True)
    report = await shallow(f"s3://{bucket}/holes.img.manifest.xml", tmp_path, endpoint_url=moto.url)
    assert [each.part for each in report.differences] == ["holes.img.manifest.xml", "holes.img.part.00"]
    assert "so EC2 cannot" in report.differences[0].message


async def test_access_that_is_denied(
    moto: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> None:
    """Without permission to read ACLs verify says so, which is no difference; another failure is a store error."""
    older_bundle(tmp_path / "bundle", key_ring, [16], digits=2)
    bucket = make_bucket(moto)
    put_files(moto, bucket, tmp_path / "bundle")
    address = f"s3://{bucket}/holes.img.manifest.xml"
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", query="acl", times=None)
    report = await shallow(address, tmp_path, endpoint_url=make_proxy(moto, denied).endpoint.url)
    assert (report.access, report.differences) == (Access.NOT_ALLOWED, ())
    gone = Fault(action=Answer(status=404, code="NoSuchKey"), method="GET", query="acl", times=None)
    with pytest.raises(StoreError, match="see the ACL"):
        await shallow(address, tmp_path, endpoint_url=make_proxy(moto, gone).endpoint.url)


def test_grants() -> None:
    """Read is granted to EC2 by id or by name, or to everyone; an ACL for the owner alone is private."""
    everybody = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
    assert who_can_read([OWNER, {"Grantee": READER, "Permission": "READ"}]) is Access.GRANTED
    assert who_can_read([{"Grantee": {"DisplayName": "za-team", "ID": "x"}, "Permission": "READ"}]) is Access.GRANTED
    assert who_can_read([OWNER, {"Grantee": everybody, "Permission": "READ"}]) is Access.PUBLIC
    assert who_can_read([OWNER, {"Grantee": READER, "Permission": "WRITE"}]) is Access.PRIVATE
    assert who_can_read([OWNER]) is Access.PRIVATE
    # In GovCloud and China EC2's account has another id.
    elsewhere = {"Grantee": {"Type": "CanonicalUser", "ID": "of GovCloud"}, "Permission": "READ"}
    assert who_can_read([OWNER, elsewhere]) is Access.PRIVATE
    assert who_can_read([OWNER, elsewhere], "75aa57f0") is Access.GRANTED
    assert who_can_read([OWNER], "75aa57f0") is Access.PRIVATE


def test_aws_by_its_address() -> None:
    """AWS is recognised by its own host names only."""
    assert on_aws("https://s3.eu-west-1.amazonaws.com")
    assert on_aws("https://s3.cn-north-1.amazonaws.com.cn")
    assert not on_aws("http://127.0.0.1:9000")
    assert not on_aws("https://amazonaws.com.example.org")


async def test_a_cut_reply_is_asked_again(
    moto: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A deep verification repeats a read whose reply was truncated."""
    image = random_image(tmp_path / "disk.img", 200_000)
    shell_bundle(tmp_path / "bundle", image, key_ring)
    bucket = make_bucket(moto)
    put_files(moto, bucket, tmp_path / "bundle")
    cut = Fault(action=TruncateReply(lacking=5000), method="GET", path=PARTS, nth=2)
    proxy = make_proxy(moto, cut)
    it = settings(tmp_path, endpoint_url=proxy.endpoint.url)
    address = f"s3://{bucket}/image.manifest.xml"
    report = await verify_at(address, it, (None, key_ring.user.key), deep=True)
    assert report.differences == ()
    assert len(proxy.seen("GET", PARTS)) == report.parts + 1


async def test_a_dead_store(
    moto: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A store that does not return a part is a failure, not a difference, and ends all reads."""
    shell_bundle(tmp_path / "bundle", random_image(tmp_path / "disk.img", 900_000), key_ring)
    bucket = make_bucket(moto)
    put_files(moto, bucket, tmp_path / "bundle")
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", path=PARTS, nth=3, times=None)
    it = settings(tmp_path, endpoint_url=make_proxy(moto, denied).endpoint.url)
    with pytest.raises(StoreError, match="AccessDenied"):
        await verify_at(f"s3://{bucket}/image.manifest.xml", it, (None, key_ring.user.key), deep=True)


async def test_the_kept_pair(key_ring: KeyRing, tmp_path: Path) -> None:
    """Without a key option the generated pair is used; a bundle of another pair is another user's, not invalid."""
    it = settings(tmp_path)
    own_identity(it.state_dir)
    image = random_image(tmp_path / "disk.img", 100_000)
    ours = await run(request(image, tmp_path / "ours", key_ring, certificate=None, private_key=None), it)
    assert isinstance(ours.result, BundleResult), ours.error
    report = await verify_at(ours.result.manifest, it, deep=True)
    assert (report.signature, report.differences) == (Signature.RIGHT, ())
    text = Path(ours.result.manifest).read_text()
    Path(ours.result.manifest).write_text(text.replace("<architecture>x86_64", "<architecture>i386"))
    report = await shallow(ours.result.manifest, tmp_path)
    assert [each.what for each in report.differences] == ["signature.wrong"]
    theirs = shell_bundle(tmp_path / "theirs", image, key_ring)
    report = await shallow(str(theirs), tmp_path)
    assert (report.signature, report.differences) == (Signature.OTHER, ())
    assert "give the --cert and --private-key that it was made with" in report_text(report)


async def test_a_manifest_written_again(key_ring: KeyRing, tmp_path: Path) -> None:
    """A manifest of ours verifies from its raw bytes, and parsed and written again, in single or double quotes."""
    image = random_image(tmp_path / "disk.img", 100_000)
    job = await run(request(image, tmp_path / "bundle", key_ring), settings(tmp_path))
    assert isinstance(job.result, BundleResult), job.error
    manifest = Path(job.result.manifest)
    raw = manifest.read_text()
    assert (await shallow(str(manifest), tmp_path, key_ring.user)).signature is Signature.RIGHT
    double = ET.tostring(ET.fromstring(raw), encoding="unicode")  # noqa: S314 - it is our own
    single = re.sub(r'="([^"]*)"', r"='\1'", double)
    assert (single != raw, double != single) == (True, True)
    for text, state in ((single, Signature.RIGHT), (double, Signature.REWRITTEN)):
        manifest.write_text(text)
        report = await shallow(str(manifest), tmp_path, key_ring.user)
        assert (report.signature, report.differences) == (state, ())


async def test_worth_knowing(key_ring: KeyRing, tmp_path: Path) -> None:
    """A member of another name, and padding that some readers refuse, are noted and are no differences."""
    image = random_image(tmp_path / "disk.img", 50_000)
    faults = Faults(tar=lambda data: data + bytes(1_000_000))
    manifest = shell_bundle(tmp_path / "bundle", image, key_ring, member="root.img", faults=faults)
    files = (key_ring.user.certificate, key_ring.user.key)
    report = await verify_at(str(manifest), settings(tmp_path), files, deep=True)
    assert report.differences == ()
    assert ["'root.img'" in report.notes[0], "bytes of zeros" in report.notes[1]] == [True, True]


async def test_a_certificate_alone(key_ring: KeyRing, tmp_path: Path) -> None:
    """A certificate is enough to check the signature; one that does not match is a difference, because it was given."""
    manifest = shell_bundle(tmp_path / "bundle", random_image(tmp_path / "disk.img", 9000), key_ring, form=Form())
    assert (await shallow(str(manifest), tmp_path, key_ring.user)).signature is Signature.RIGHT
    report = await shallow(str(manifest), tmp_path, key_ring.stranger)
    assert [each.what for each in report.differences] == ["signature.wrong"]
