"""Buckets whose owner has set more than a bundle needs: a policy that demands encryption, and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.migrate import MigrationRequest
from amistream.checks.doctor import examine
from amistream.errors import DeniedError
from amistream.events import State
from bundles.made import work
from jobs.work import request, run, use_endpoint
from support.buckets import keep_versions, list_keys, remove_versions
from support.proxy import Answer, Fault
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

MANIFEST = "image.manifest.xml"
POLICY = 'User: u is not authorized to perform: s3:PutObject on "b/k" with an explicit deny in a resource-based policy'


async def confirmed(_: object) -> None:
    """Yes."""


class EncryptionPolicy:
    """Denies objects whose request does not name AES256, as the policy in AWS's own documentation does."""

    def __init__(self, says: str) -> None:
        self._answer = Answer(status=403, code="AccessDenied", message=says)

    def __call__(self, request: Any) -> Answer | None:
        makes = (request.method == "PUT" and "uploadId" not in request.query) or request.query.startswith("uploads")
        named = request.headers.get("x-amz-server-side-encryption") == "AES256"
        return self._answer if makes and not named else None


@pytest.mark.parametrize("says", [POLICY, "Access Denied"], ids=["newer", "older"])
@pytest.mark.parametrize("sse", ["auto", "AES256"])
async def test_a_policy_that_demands_encryption(
    sse: str,
    says: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts, whole and in chunks, copies and the manifest name their encryption."""
    use_endpoint(ministack, monkeypatch)
    bucket, proxy = make_bucket(ministack), make_proxy(ministack)
    proxy.at_random = EncryptionPolicy(says)
    it = work(tmp_path, proxy.endpoint, sse=sse, multipart_threshold="5MiB", multipart_chunk="5MiB")
    image, to = random_image(tmp_path / "disk.img", 6_500_000), f"s3://{bucket}/made"
    job = await run(
        request(image, to, key_ring, endpoint_url=proxy.url, register_image=False, part_size="6MiB"), it.settings
    )
    assert job.state is State.DONE, job.error
    assert bool([each for each in proxy.requests if each.status == 403]) == (sse == "auto")
    pair: dict[str, Any] = {"certificate": key_ring.user.certificate, "private_key": key_ring.user.key}
    moving = MigrationRequest(region="eu-west-1", ec2_certificate=key_ring.ec2.certificate, **pair)
    async with it.session() as session:
        await session.migrate(f"{to}/{MANIFEST}", f"s3://{bucket}/moved", Meter(), moving)


async def test_a_denial_for_another_reason(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, key_ring: KeyRing, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A denial that no encryption mends is reported as the bucket gave it first."""
    use_endpoint(ministack, monkeypatch)
    proxy = make_proxy(ministack, Fault(action=Answer(status=403, code="AccessDenied", message=POLICY), times=None))
    it, image = work(tmp_path, proxy.endpoint), random_image(tmp_path / "disk.img", 600_000)
    to = f"s3://{make_bucket(ministack)}/made"
    job = await run(request(image, to, key_ring, endpoint_url=proxy.url, register_image=False), it.settings)
    assert job.state is State.REFUSED
    assert job.error is not None
    assert "resource-based policy denies s3:PutObject explicitly" in job.error.hint
    assert len(proxy.seen("PUT")) == 2


@pytest.fixture
def versioned(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    keep_versions(ministack, bucket)
    return bucket


def kept_sizes(endpoint: Endpoint, bucket: str) -> dict[str, int]:
    """Bytes that the bucket's versions hold, by key."""
    with endpoint.blocking_client() as s3:
        found = s3.list_object_versions(Bucket=bucket).get("Versions", [])
    sizes: dict[str, int] = {}
    for each in found:
        sizes[each["Key"]] = sizes.get(each["Key"], 0) + each["Size"]
    return {key: size for key, size in sizes.items() if size}


@pytest.mark.parametrize("versions_too", [False, True])
async def test_a_bucket_that_keeps_versions(
    versions_too: bool,
    versioned: str,
    ministack: Endpoint,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """`doctor`, the job and `delete` say that nothing is freed; with its versions a bundle goes, and nothing else."""
    image, to = random_image(tmp_path / "disk.img", 600_000), f"s3://{versioned}/made"
    it = work(tmp_path, ministack)
    with ministack.blocking_client() as s3:
        # An older object under a part's name, which somebody deleted.
        s3.put_object(Bucket=versioned, Key="made/image.part.00", Body=b"older")
        s3.delete_object(Bucket=versioned, Key="made/image.part.00")
    asked = request(image, to, key_ring, endpoint_url=ministack.url, register_image=False)
    async with Aws(it.settings) as aws:
        findings = await examine(asked, it.settings, aws)
    assert any(each.notice.startswith(f"bucket {versioned} keeps versions: ") for each in findings)
    job = await run(asked, it.settings)
    assert any(notice.startswith(f"bucket {versioned} keeps versions: ") for notice in job.notices)
    async with it.session() as session:
        await session.delete(f"{to}/{MANIFEST}", confirmed, versions_too=versions_too)
    assert list_keys(ministack, versioned) == []
    assert any("keeps versions" in note and "--versions" in note for note in it.notes) != versions_too
    kept = kept_sizes(ministack, versioned)
    if versions_too:
        assert kept == {"made/image.part.00": 5}
    else:
        assert sum(kept.values()) > 600_000
    remove_versions(ministack, versioned)


async def test_versions_that_may_not_be_deleted(
    versioned: str,
    ministack: Endpoint,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
) -> None:
    """The missing permission is named, and the bundle itself is gone."""
    image, to = random_image(tmp_path / "disk.img", 600_000), f"s3://{versioned}/made"
    proxy = make_proxy(
        ministack, Fault(action=Answer(status=403, code="AccessDenied"), method="POST", nth=2, times=None)
    )
    it = work(tmp_path, proxy.endpoint)
    asked = request(image, to, key_ring, endpoint_url=proxy.url, register_image=False)
    assert (await run(asked, it.settings)).state is State.DONE
    async with it.session() as session:
        with pytest.raises(DeniedError) as caught:
            await session.delete(f"{to}/{MANIFEST}", confirmed, versions_too=True, ask_ec2=False)
    assert "s3:DeleteObjectVersion" in caught.value.hint
    assert list_keys(ministack, versioned) == []
    remove_versions(ministack, versioned)
