"""Deletion of bundles and their AMIs: the bundle's own objects, in a safe order, never while an AMI uses them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.bundles.claim_text import is_over
from amistream.bundles.remove import Removal
from amistream.errors import RefusedError, StoreError
from amistream.ports.store import StoredClaim
from bundles.bucket import SIZES
from bundles.made import contents, flip, images, older_bundle, put_files, register, work
from jobs.work import use_endpoint
from support.buckets import list_keys, open_uploads
from support.proxy import Answer, Fault, HoldReply

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

CLAIM = b'{"job": "web", "run": "r", "holder": "h", "nonce": "n"}'
NAMES = ["holes.img.manifest.xml", "holes.img.part.0", "holes.img.part.1", "holes.img.part.2"]


async def agree(_: Removal | None) -> None:
    """Answer yes."""


async def refuse(_: Removal | None) -> None:
    raise RefusedError("unconfirmed", "cannot: the answer was no")


async def test_own_objects_only(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """The manifest goes first, then the parts in one request; objects with similar names stay."""
    proxy, bucket = make_proxy(cloud), make_bucket(cloud)
    put_files(cloud, bucket, bundle.parent, "web/")
    others = ["other", "web/holes.img.part.3", "web/holes.img.part.00", "web/holes.img.manifest.xml.old"]
    with cloud.blocking_client() as s3:
        for key in others:
            s3.put_object(Bucket=bucket, Key=key, Body=b"precious")
    async with work(tmp_path, proxy.endpoint).session() as session:
        done = await session.delete(f"s3://{bucket}/web/holes.img.manifest.xml", agree)
    assert list_keys(cloud, bucket) == sorted(others)
    assert list(done.deleted) == NAMES
    assert done.deleted_size == sum(SIZES) + bundle.stat().st_size
    assert (done.kept, done.missing, done.deregistered, done.dry_run) == ((), (), (), False)
    writes = [
        (each.method, each.path) for each in proxy.requests if each.method in ("DELETE", "POST") and not each.form
    ]
    assert writes == [("DELETE", f"/{bucket}/web/holes.img.manifest.xml"), ("POST", f"/{bucket}")]


async def test_dry_run_and_a_no(cloud: Endpoint, bucket: str, tmp_path: Path) -> None:
    """A dry run lists the objects without a question; the answer no deletes nothing."""
    address = f"s3://{bucket}/holes.img.manifest.xml"
    async with work(tmp_path, cloud).session() as session:
        done = await session.delete(address, refuse, dry_run=True)
        assert (list(done.deleted), done.dry_run) == (NAMES, True)
        with pytest.raises(RefusedError):
            await session.delete(address, refuse)
    assert list_keys(cloud, bucket) == NAMES


@pytest.mark.parametrize("known", [True, False])
async def test_a_part_that_is_another_object(known: bool, cloud: Endpoint, bucket: str, tmp_path: Path) -> None:
    """An object with a part's name and another checksum stays and is reported; without a checksum the name decides."""
    checksum = {"ChecksumAlgorithm": "SHA1"} if known else {}
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key="holes.img.part.1", Body=b"precious", **checksum)
        s3.delete_object(Bucket=bucket, Key="holes.img.part.2")
    async with work(tmp_path, cloud).session() as session:
        done = await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree)
    assert done.kept == (("holes.img.part.1",) if known else ())
    assert done.missing == ("holes.img.part.2",)
    assert list_keys(cloud, bucket) == (["holes.img.part.1"] if known else [])


async def test_under_an_image(cloud: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path) -> None:
    """While an AMI uses the bundle nothing is deleted; --deregister removes every AMI of the bundle, and no other."""
    bucket, it = make_bucket(cloud), work(tmp_path, cloud)
    put_files(cloud, bucket, bundle.parent, "web/")
    ours = register(cloud, f"{bucket}/web/holes.img.manifest.xml")
    spelled = register(cloud, f"/{bucket}/web/holes.img.manifest.xml")
    other = register(cloud, f"{bucket}/web/other.img.manifest.xml")
    address = f"s3://{bucket}/web/holes.img.manifest.xml"
    async with it.session() as session:
        for dry_run in (True, False):
            with pytest.raises(RefusedError, match=f"{ours}, {spelled} are registered") as caught:
                await session.delete(address, agree, dry_run=dry_run)
            assert "--deregister" in caught.value.hint
        assert len(list_keys(cloud, bucket)) == 4
        done = await session.delete(address, agree, deregister=True)
    assert set(done.deregistered) == {ours, spelled}
    assert {ours, spelled}.isdisjoint(images(cloud))
    assert other in images(cloud)
    assert list_keys(cloud, bucket) == []


async def test_ec2_that_does_not_answer(
    seaweedfs: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If EC2 does not answer nothing is deleted, unless EC2 is switched off."""
    use_endpoint(seaweedfs, monkeypatch)
    bucket = make_bucket(seaweedfs)
    put_files(seaweedfs, bucket, bundle.parent)
    async with work(tmp_path, seaweedfs).session() as session:
        with pytest.raises(StoreError):
            await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree)
        assert len(list_keys(seaweedfs, bucket)) == 4
        await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree, ask_ec2=False)
    assert list_keys(seaweedfs, bucket) == []


async def test_thousands_of_parts(
    cloud: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, tmp_path: Path, key_ring: KeyRing
) -> None:
    """Objects are deleted by the thousand in one request, after one check each."""
    proxy, bucket = make_proxy(cloud), make_bucket(cloud)
    manifest = older_bundle(tmp_path / "old", key_ring, [10] * 1003)
    put_files(cloud, bucket, manifest.parent)
    async with work(tmp_path, proxy.endpoint).session() as session:
        done = await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree)
    assert len(done.deleted) == 1004
    assert list_keys(cloud, bucket) == []
    assert len(proxy.seen("POST", query="delete")) == 2
    assert len(proxy.seen("HEAD", path=r".*\.part\.\d+")) == 1003


@pytest.mark.parametrize("how", ["refused", "cancelled"])
async def test_a_deletion_that_stops_midway(
    how: str, cloud: Endpoint, bucket: str, make_proxy: MakeProxy, bundle: Path, tmp_path: Path
) -> None:
    """After a deletion that stopped midway, the saved copy of the manifest finishes it."""
    action = Answer(status=403, code="AccessDenied") if how == "refused" else HoldReply()
    fault = Fault(action=action, method="POST", query="delete")
    proxy = make_proxy(cloud, fault)
    it, address = work(tmp_path, proxy.endpoint), f"s3://{bucket}/holes.img.manifest.xml"
    async with it.session() as session:
        task = asyncio.create_task(session.delete(address, agree))
        await asyncio.to_thread(proxy.wait_hit, fault)
        if how == "cancelled":
            task.cancel()
        with pytest.raises((StoreError, asyncio.CancelledError)):
            await task
        found = re.search(r"to continue: amistream delete (\S+) --manifest (\S+)", it.notes[-1])
        assert found is not None
        assert found[1] == address
        copy = Path(found[2])
        try:
            assert copy.read_bytes() == bundle.read_bytes()
            done = await session.delete(address, agree, copy=copy)
        finally:
            copy.unlink()
    assert "holes.img.manifest.xml" not in done.deleted
    assert list_keys(cloud, bucket) == []


async def test_error_inside_the_answer(
    seaweedfs: Endpoint, make_bucket: MakeBucket, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that S3 reports as not deleted, in a response with status 200, is an error."""
    use_endpoint(seaweedfs, monkeypatch)
    bucket = make_bucket(seaweedfs)
    put_files(seaweedfs, bucket, bundle.parent)
    it = work(tmp_path, seaweedfs)
    async with it.session() as session:
        client = await session._aws.client("s3", "eu-west-1", seaweedfs.url)

        async def delete_objects(**_: Any) -> dict[str, Any]:
            return {"Errors": [{"Key": "holes.img.part.0", "Code": "AccessDenied", "Message": "Access Denied"}]}

        monkeypatch.setattr(client, "delete_objects", delete_objects)
        with pytest.raises(StoreError, match="AccessDenied"):
            await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree, ask_ec2=False)
    for found in re.findall(r"--manifest (\S+)", it.notes[-1]):
        Path(found).unlink()


async def test_what_an_unfinished_upload_left(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """With the local manifest, parts and chunks of an unfinished upload are deleted."""
    with cloud.blocking_client() as s3:
        s3.delete_object(Bucket=bucket, Key="holes.img.manifest.xml")
        s3.delete_object(Bucket=bucket, Key="holes.img.part.2")
        s3.create_multipart_upload(Bucket=bucket, Key="holes.img.part.2")
    async with work(tmp_path, cloud).session() as session:
        with pytest.raises(RefusedError, match="it is not there"):
            await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree)
        done = await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree, copy=bundle)
    assert done.deleted == ("holes.img.part.0", "holes.img.part.1")
    assert list_keys(cloud, bucket) == []
    assert open_uploads(cloud, bucket) == []


async def test_a_copy_of_another_manifest(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """A local manifest that differs from the one in the bucket deletes nothing; nor does any other file."""
    other = tmp_path / "other.xml"
    other.write_text(bundle.read_text().replace("<size>41943040<", "<size>41943041<"))
    address = f"s3://{bucket}/holes.img.manifest.xml"
    async with work(tmp_path, cloud).session() as session:
        with pytest.raises(RefusedError, match="is not the given one"):
            await session.delete(address, agree, copy=other)
        with pytest.raises(RefusedError, match="cannot read the manifest"):
            await session.delete(address, agree, copy=tmp_path / "none")
    assert list_keys(cloud, bucket) == NAMES


async def test_a_directory(bundle: Path, tmp_path: Path) -> None:
    """In a directory files are read before deletion: other files stay."""
    directory = bundle.parent
    flip(directory / "holes.img.part.1")
    (directory / "notes.txt").write_text("precious")
    async with work(tmp_path).session() as session:
        done = await session.delete(str(bundle), agree)
    assert done.kept == ("holes.img.part.1",)
    assert sorted(contents(directory)) == ["holes.img.part.1", "notes.txt"]


async def test_a_manifest_that_names_other_files(bundle: Path, tmp_path: Path) -> None:
    """A manifest with names of other files deletes none of them."""
    (bundle.parent / "precious").write_text("precious")
    bundle.write_text(bundle.read_text().replace("holes.img.part.1<", "precious<"))
    async with work(tmp_path).session() as session:
        done = await session.delete(str(bundle), agree)
    assert done.kept == ("precious",)
    assert (bundle.parent / "precious").read_text() == "precious"


async def test_deregister(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """An AMI is deregistered alone, or with its bundle; a dry run does neither."""
    first = register(cloud, f"{bucket}/holes.img.manifest.xml")
    async with work(tmp_path, cloud).session() as session:
        for delete in (False, True):
            done = await session.deregister(first, refuse, delete=delete, dry_run=True)
            assert done.location == f"{bucket}/holes.img.manifest.xml"
        with pytest.raises(RefusedError, match="the answer was no"):
            await session.deregister(first, refuse)
        assert first in images(cloud)
        done = await session.deregister(first, agree)
        assert done.removed is None
        assert first not in images(cloud)
        assert list_keys(cloud, bucket) == NAMES
        with pytest.raises(RefusedError, match="has no such AMI"):
            await session.deregister(first, agree)
        second = register(cloud, f"{bucket}/holes.img.manifest.xml")
        with pytest.raises(RefusedError, match="the answer was no"):
            await session.deregister(second, refuse, delete=True)
        assert second in images(cloud)
        done = await session.deregister(second, agree, delete=True)
    assert done.removed is not None
    assert list(done.removed.deleted) == NAMES
    assert second not in images(cloud)
    assert list_keys(cloud, bucket) == []


async def test_deregister_one_of_two(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """With --delete, an AMI stays registered if another AMI uses the same bundle."""
    first = register(cloud, f"{bucket}/holes.img.manifest.xml")
    second = register(cloud, f"/{bucket}/holes.img.manifest.xml")
    async with work(tmp_path, cloud).session() as session:
        with pytest.raises(RefusedError, match=f"{second} is registered"):
            await session.deregister(first, agree, delete=True)
    assert {first, second} <= set(images(cloud))
    assert list_keys(cloud, bucket) == NAMES


async def test_an_image_without_a_bundle(cloud: Endpoint, tmp_path: Path) -> None:
    """An AMI whose location is not a manifest is not deregistered with --delete."""
    image = register(cloud, "no-location")
    async with work(tmp_path, cloud).session() as session:
        with pytest.raises(RefusedError, match="EC2 names no manifest"):
            await session.deregister(image, agree, delete=True)
    assert image in images(cloud)


async def test_parts_that_another_bundle_has_too(cloud: Endpoint, bucket: str, bundle: Path, tmp_path: Path) -> None:
    """Of two manifests with the same parts, deleting the first leaves shared parts, deleting the last removes all."""
    with cloud.blocking_client() as s3:
        s3.put_object(Bucket=bucket, Key="other-kernel.manifest.xml", Body=bundle.read_bytes())
        s3.put_object(Bucket=bucket, Key="damaged.manifest.xml", Body=b"<manifest>")
    async with work(tmp_path, cloud).session() as session:
        done = await session.delete(f"s3://{bucket}/holes.img.manifest.xml", agree)
        assert (list(done.deleted), list(done.kept)) == (NAMES[:1], NAMES[1:])
        done = await session.delete(f"s3://{bucket}/other-kernel.manifest.xml", agree)
        assert (list(done.deleted), done.kept) == (["other-kernel.manifest.xml", *NAMES[1:]], ())
    assert list_keys(cloud, bucket) == ["damaged.manifest.xml"]


@pytest.mark.parametrize(("age_s", "text", "goes"), [(60, CLAIM, False), (50_000, CLAIM, True), (50_000, b"x", False)])
async def test_a_claim_beside_the_bundle(age_s: float, text: bytes, goes: bool, bundle: Path, tmp_path: Path) -> None:
    """The claim of a job that is over goes with its bundle; that of a job that may be at work stays, as do others."""
    claim = bundle.parent / "holes.img.claim"
    claim.write_bytes(text)
    os.utime(claim, (time.time() - age_s,) * 2)
    async with work(tmp_path).session() as session:
        planned = await session.delete(str(bundle), agree, dry_run=True)
        done = await session.delete(str(bundle), agree)
    assert planned.deleted == done.deleted
    assert (claim.name in done.deleted, claim.exists(), bundle.exists()) == (goes, not goes, False)


def test_the_time_of_a_claim() -> None:
    """Beside a whole bundle a claim ends with the longest run of a host, without one with its queue's memory."""
    made_at = datetime(2026, 11, 1, tzinfo=UTC)
    claim = StoredClaim(name="image.claim", text=CLAIM, version="v", made_at=made_at)
    ends = {True: timedelta(hours=12), False: timedelta(days=15)}
    for has_bundle, age in ends.items():
        assert not is_over(claim, made_at + age, has_bundle=has_bundle)
        assert is_over(claim, made_at + age + timedelta(seconds=1), has_bundle=has_bundle)
    assert not is_over(replace(claim, made_at=None), made_at, has_bundle=True)
