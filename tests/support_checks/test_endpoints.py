"""Each endpoint can do what its `Endpoint` says."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from support.buckets import download_bundle, list_keys, open_uploads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakeBucket
    from support.endpoints import Endpoint

BODY = b"payload" * 1000


def sha1(body: bytes) -> str:
    return base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()


def refused(call: Callable[[], object]) -> str | None:
    """Return the code of the error the call meets, if any."""
    try:
        call()
    except ClientError as error:
        code: str = error.response["Error"]["Code"]
        return code
    return None


async def test_capabilities(endpoint: Endpoint, make_bucket: MakeBucket) -> None:
    """The endpoint's statements on signatures, checksums, ownership and conditions are true."""
    bucket, closed = make_bucket(endpoint), make_bucket(endpoint, acls=False)
    with endpoint.blocking_client() as s3, replace(endpoint, secret_key="wrong").blocking_client() as bad:

        def put(key: str, **more: object) -> Callable[[], object]:
            return lambda: s3.put_object(Bucket=bucket, Key=key, Body=BODY, **more)

        assert refused(put("a", ACL="aws-exec-read", ChecksumSHA1=sha1(BODY))) is None
        reply = s3.head_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED")
        assert reply.get("ChecksumSHA1") == (sha1(BODY) if endpoint.keeps_checksums else None)
        wrong = refused(put("b", ChecksumSHA1=sha1(b"other")))
        assert wrong == ("BadDigest" if endpoint.checks_checksums else None)
        again = refused(put("a", IfNoneMatch="*"))
        assert again == ("PreconditionFailed" if endpoint.conditional_put else None)
        acl = refused(lambda: s3.put_object(Bucket=closed, Key="a", ACL="aws-exec-read"))
        assert acl == ("AccessControlListNotSupported" if endpoint.enforces_ownership else None)
        stranger = refused(bad.list_buckets)
        assert stranger == ("SignatureDoesNotMatch" if endpoint.checks_signatures else None)
        headers = s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        assert headers.get("x-amz-bucket-region") == (endpoint.region if endpoint.reports_region else None)
    async with endpoint.client() as s3:
        assert (await s3.head_object(Bucket=bucket, Key="a"))["ContentLength"] == len(BODY)


def test_small_parts(endpoint: Endpoint, make_bucket: MakeBucket) -> None:
    """Multipart uploads are listed until they end, and small parts refused where the endpoint says so."""
    bucket = make_bucket(endpoint)
    with endpoint.blocking_client() as s3:
        upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
        place = {"Bucket": bucket, "Key": "m", "UploadId": upload}
        tags = [s3.upload_part(**place, PartNumber=n, Body=b"small")["ETag"] for n in (1, 2)]
        assert open_uploads(endpoint, bucket) == [("m", upload)]
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
        code = refused(lambda: s3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}))
        assert code == ("EntityTooSmall" if endpoint.checks_parts else None)


def test_download(seaweedfs_https: Endpoint, make_bucket: MakeBucket, tmp_path: Path) -> None:
    """A bundle comes down under its last names, and nothing beside its prefix."""
    bucket = make_bucket(seaweedfs_https)
    with seaweedfs_https.blocking_client() as s3:
        for key in ("a/b/image.part.00", "a/b/image.manifest.xml", "a/c/other"):
            s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert list_keys(seaweedfs_https, bucket, "a/c") == ["a/c/other"]
    paths = download_bundle(seaweedfs_https, bucket, "a/b/image.", tmp_path / "down")
    assert [path.name for path in paths] == ["image.manifest.xml", "image.part.00"]
    assert paths[1].read_bytes() == b"a/b/image.part.00"


@pytest.mark.parametrize("name", ["moto_server", "ministack"])
def test_images(name: str, request: pytest.FixtureRequest) -> None:
    """STS answers, and images can be registered and found by name where the endpoint says so."""
    endpoint: Endpoint = request.getfixturevalue(name)
    with endpoint.blocking_client("sts") as sts:
        assert (sts.get_caller_identity()["Account"] == "123456789012") is endpoint.has_sts
    if not endpoint.registers_images:
        pytest.skip(f"this {endpoint.name} cannot register images")
    with endpoint.blocking_client("ec2") as ec2:
        wanted = {
            "Name": "support check",
            "ImageLocation": "bucket/image.manifest.xml",
            "Architecture": "arm64",
        }
        if endpoint.honours_dry_run:
            assert refused(lambda: ec2.register_image(**wanted, DryRun=True)) == "DryRunOperation"
        image = ec2.register_image(**wanted)["ImageId"]
        try:
            by_name = [{"Name": "name", "Values": ["support check"]}]
            (found,) = ec2.describe_images(Owners=["self"], Filters=by_name)["Images"]
            assert found["ImageId"] == image
            if endpoint.keeps_image_details:
                assert (found["RootDeviceType"], found["Architecture"]) == ("instance-store", "arm64")
                assert refused(lambda: ec2.register_image(**wanted)) == "InvalidAMIName.Duplicate"
        finally:
            ec2.deregister_image(ImageId=image)


def test_environ(seaweedfs_https: Endpoint) -> None:
    """The variables for a program name the endpoint's CA and nothing of this machine."""
    variables = seaweedfs_https.environ()
    assert variables["AWS_CA_BUNDLE"] == str(seaweedfs_https.ca_bundle)
    assert variables["AWS_CONFIG_FILE"] == variables["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"
    assert seaweedfs_https.secret_key not in repr(seaweedfs_https)
