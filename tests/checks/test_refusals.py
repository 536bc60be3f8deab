"""Every refusal: one clear message that names the input, with its fix, before the first byte; nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from jobs.work import request, run, settings, use_endpoint
from support.buckets import list_keys, open_uploads
from support.proxy import Answer, Fault
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A job that would succeed, for a test to spoil."""

    image: Path
    keys: KeyRing
    tmp_path: Path

    async def refused(self, to: str | Path, *, code: str, says: str, **changes: Any) -> str:
        """Run the spoiled job; assert how it is refused; return the hint."""
        chosen = settings(self.tmp_path, **changes.pop("settings", {}))
        job = await run(request(self.image, to, self.keys, **changes), chosen)
        assert job.error is not None, job.view()
        assert (job.state, job.error.code) == (State.REFUSED, code)
        assert job.error.message.startswith("cannot ")
        assert says in job.error.message
        assert job.error.hint
        return job.error.hint


@pytest.fixture
def scene(tmp_path: Path, key_ring: KeyRing) -> Scene:
    return Scene(image=random_image(tmp_path / "disk.img", 700_000), keys=key_ring, tmp_path=tmp_path)


@pytest.fixture
def bucket(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(ministack, monkeypatch)
    return make_bucket(ministack)


async def test_a_missing_source(scene: Scene) -> None:
    """A source that is not there is named."""
    hint = await scene.refused(
        scene.tmp_path / "out", code="source.missing", says="nothing.img: there is no such file", source="/nothing.img"
    )
    assert "lsblk" in hint
    assert not (scene.tmp_path / "out").exists()


async def test_a_directory_as_source(scene: Scene) -> None:
    """A directory is no volume."""
    await scene.refused(scene.tmp_path / "out", code="source.kind", says="it is a directory", source="/etc")


async def test_an_empty_image(scene: Scene) -> None:
    """EC2 refuses empty images, so they are refused here first."""
    scene.image.write_bytes(b"")
    await scene.refused(scene.tmp_path / "out", code="source.empty", says="it is empty")


async def test_an_image_over_ten_gib(scene: Scene) -> None:
    """An image that EC2 would not boot is refused with its size and the limit."""
    os.truncate(scene.image, 10 * 2**30 + 1)
    hint = await scene.refused(scene.tmp_path / "out", code="source.too_large", says="at most 10 GiB")
    assert "resize2fs" in hint


async def test_too_many_parts(scene: Scene) -> None:
    """Parts so small that the manifest would fail EC2's check are refused."""
    os.truncate(scene.image, 2**30)
    await scene.refused(
        scene.tmp_path / "out", code="part_size.too_small", says="into parts of 16384 bytes", part_size="16KiB"
    )


async def test_a_key_that_does_not_fit_its_certificate(scene: Scene) -> None:
    """A certificate and a key that are no pair are both named."""
    stranger = str(scene.keys.stranger.key)
    hint = await scene.refused(
        scene.tmp_path / "out", code="key.mismatch", says=f"{stranger}: they are not a pair", private_key=stranger
    )
    assert "modulus" in hint


async def test_half_a_key_pair(scene: Scene) -> None:
    """A certificate without its key is refused rather than replaced."""
    await scene.refused(scene.tmp_path / "out", code="key.half", says="only a certificate was given", private_key=None)


async def test_an_exposed_key(scene: Scene, tmp_path: Path) -> None:
    """A key that others can read is refused with the chmod that mends it."""
    copy = tmp_path / "open.pem"
    copy.write_bytes(scene.keys.user.key.read_bytes())
    copy.chmod(0o644)
    hint = await scene.refused(tmp_path / "out", code="key.exposed", says=str(copy), private_key=str(copy))
    assert hint == f"chmod 600 {copy}"


async def test_no_ec2_certificate(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without EC2's certificate every place that was looked at is named."""
    monkeypatch.setenv("EC2_AMITOOL_HOME", "/opt/ami-tools")
    await scene.refused(
        scene.tmp_path / "out",
        code="ec2_certificate.missing",
        says="/opt/ami-tools/etc/ec2/amitools/cert-ec2.pem, /etc/ec2/amitools/cert-ec2.pem, /usr/share/euca2ools",
        ec2_certificate=None,
        region="eu-west-1",
    )


@pytest.mark.parametrize("region", ["xx-north-1", None])
async def test_a_region_of_no_known_partition(scene: Scene, region: str | None) -> None:
    """An unknown region needs an explicit certificate."""
    hint = await scene.refused(
        scene.tmp_path / "out",
        code="ec2_certificate.unknown_region",
        says=region or "(none)",
        ec2_certificate=None,
        region=region,
    )
    assert "--ec2-cert" in hint


async def test_no_account(scene: Scene) -> None:
    """Without an account id and credentials the option is named."""
    hint = await scene.refused(scene.tmp_path / "out", code="account.missing", says="account id", account=None)
    assert "--account" in hint


async def test_a_bundle_is_there_already(scene: Scene, tmp_path: Path) -> None:
    """A finished bundle is never overwritten."""
    first = await run(request(scene.image, tmp_path / "out", scene.keys), settings(tmp_path))
    assert first.state is State.DONE
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hint = await scene.refused(tmp_path / "out", code="destination.exists", says="image.manifest.xml")
    assert "--prefix" in hint
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


async def test_parts_of_an_unfinished_bundle_are_there(scene: Scene, tmp_path: Path) -> None:
    """Parts without a manifest may be somebody's work, and are left alone."""
    (tmp_path / "image.part.00").write_bytes(b"x")
    await scene.refused(tmp_path, code="destination.leftover", says="1 parts of an unfinished bundle")
    assert (tmp_path / "image.part.00").read_bytes() == b"x"


async def test_a_missing_bucket(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A bucket that is not there is named, with the command that makes one."""
    hint = await scene.refused(
        f"s3://{bucket}-no/x", code="bucket.missing", says=f"{bucket}-no: there is no", endpoint_url=ministack.url
    )
    assert f"aws s3api create-bucket --bucket {bucket}-no --object-ownership BucketOwnerPreferred" in hint


async def test_a_bucket_with_acls_disabled(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket
) -> None:
    """A bucket whose ACLs are disabled is refused with the command that enables them."""
    closed = make_bucket(ministack, acls=False)
    hint = await scene.refused(f"s3://{closed}/x", code="bucket.acls_disabled", says=closed, endpoint_url=ministack.url)
    assert hint.startswith(f"aws s3api put-bucket-ownership-controls --bucket {closed}")
    assert list_keys(ministack, closed) == []


async def test_acls_disabled_where_the_controls_cannot_be_seen(
    scene: Scene, bucket: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy
) -> None:
    """Without the right to see the controls, the probe object finds the disabled ACLs."""
    closed = make_bucket(ministack, acls=False)
    hidden = Fault(action=Answer(status=403, code="AccessDenied"), method="GET", query="ownershipControls")
    proxy = make_proxy(ministack, hidden)
    hint = await scene.refused(
        f"s3://{closed}/x", code="aws.AccessControlListNotSupported", says="ACLs disabled", endpoint_url=proxy.url
    )
    assert f"--bucket {closed}" in hint


async def test_a_bucket_in_another_region(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A region that is not the bucket's is refused with the right one."""
    hint = await scene.refused(
        f"s3://{bucket}/x",
        code="bucket.region",
        says="it is in eu-west-1",
        endpoint_url=ministack.url,
        region="us-east-1",
    )
    assert "--region eu-west-1" in hint


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_access_denied(
    method: str, scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Missing permissions are found before the first byte, and all that are needed are listed."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method=method, path=f"/{bucket}.*")
    proxy = make_proxy(ministack, denied)
    hint = await scene.refused(
        f"s3://{bucket}/x", code="aws.AccessDenied", says="access is denied", endpoint_url=proxy.url
    )
    assert "s3:PutObjectAcl" in hint
    assert list_keys(ministack, bucket) == []


async def test_no_right_to_delete(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """A job that could not clean up after itself does not begin."""
    proxy = make_proxy(ministack, Fault(action=Answer(status=403, code="AccessDenied"), method="DELETE"))
    hint = await scene.refused(
        f"s3://{bucket}/x", code="bucket.no_delete", says="cannot clean up", endpoint_url=proxy.url
    )
    assert "s3:DeleteObject" in hint


@pytest.mark.parametrize("spoiled", ["secret", "access key"])
async def test_wrong_credentials(
    spoiled: str, scene: Scene, seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that the endpoint does not take are told from missing rights, where S3 tells."""
    made = make_bucket(seaweedfs)
    use_endpoint(seaweedfs, monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY" if spoiled == "secret" else "AWS_ACCESS_KEY_ID", "wrongwrongwrong")
    hint = await scene.refused(
        f"s3://{made}/x", code="aws.AccessDenied", says="access is denied", endpoint_url=seaweedfs.url
    )
    assert "credentials" in hint


async def test_no_credentials(scene: Scene, ministack: Endpoint) -> None:
    """Without any credentials the ways to give some are named."""
    hint = await scene.refused(
        "s3://bucket/x", code="aws.credentials", says="no AWS credentials", endpoint_url=ministack.url
    )
    assert "AWS_PROFILE" in hint


async def test_an_endpoint_that_does_not_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ministack: Endpoint
) -> None:
    """An endpoint that is down is named."""
    use_endpoint(ministack, monkeypatch)
    hint = await scene.refused(
        "s3://bucket/x", code="aws.unreachable", says="http://127.0.0.1:1/", endpoint_url="http://127.0.0.1:1"
    )
    assert "--endpoint-url" in hint


async def test_a_taken_ami_name(scene: Scene, bucket: str, ministack: Endpoint) -> None:
    """A name that another image has is refused with that image's id."""
    with ministack.blocking_client("ec2") as ec2:
        taken = ec2.register_image(Name=f"taken in {bucket}", ImageLocation="b/m.xml")["ImageId"]
    hint = await scene.refused(
        f"s3://{bucket}/x", code="ami_name.taken", says=taken, endpoint_url=ministack.url, ami_name=f"taken in {bucket}"
    )
    assert f"aws ec2 deregister-image --image-id {taken}" in hint


async def test_no_right_to_register(scene: Scene, bucket: str, ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """The dry run of RegisterImage finds a missing right before the first byte."""
    denied = Answer(status=403, code="UnauthorizedOperation", message="You are not authorized")
    proxy = make_proxy(ministack, Fault(action=denied, method="POST", form="Action=RegisterImage.*DryRun=true"))
    hint = await scene.refused(
        f"s3://{bucket}/x", code="aws.UnauthorizedOperation", says="may not do this", endpoint_url=proxy.url
    )
    assert "ec2:RegisterImage" in hint
    assert list_keys(ministack, bucket) == []
    assert open_uploads(ministack, bucket) == []


async def test_inheriting_off_ec2(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inheriting where there is no metadata service fails soon and says so."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    await scene.refused(scene.tmp_path / "out", code="metadata.unreachable", says="metadata service", inherit=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_source(tmp_path: Path) -> None:
    """A source that the process may not read is refused with where to look."""
    image = random_image(tmp_path / "disk.img", 1000)
    image.chmod(0o600)
    script = (
        "import json, os, sys; from pathlib import Path; from amistream.source.file import open_volume;"
        "from amistream.errors import RefusedError\n"
        "os.setuid(65534)\n"
        "try: open_volume(Path(sys.argv[1]))\n"
        "except RefusedError as error: print(json.dumps(error.as_dict()))"
    )
    open_to_all = [tmp_path, *tmp_path.parents]
    modes = [path.stat().st_mode for path in open_to_all]
    try:
        for path in open_to_all:
            path.chmod(0o755)
        made = subprocess.run([sys.executable, "-c", script, image], capture_output=True, check=True, text=True)
    finally:
        for path, mode in zip(open_to_all, modes, strict=True):
            path.chmod(mode)
    error = json.loads(made.stdout)
    assert error["code"] == "source.unreadable"
    assert f"ls -l {image}" in error["hint"]
