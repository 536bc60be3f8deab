"""Buckets of a test's own: made, looked at, and removed without touching another."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from support.endpoints import Endpoint


def create_bucket(endpoint: Endpoint, bucket: str, *, acls: bool = True) -> None:
    """Create a bucket whose objects may, or may not, have ACLs."""
    ownership = "ObjectWriter" if acls else "BucketOwnerEnforced"
    with endpoint.blocking_client() as s3:
        s3.create_bucket(
            Bucket=bucket,
            CreateBucketConfiguration={"LocationConstraint": endpoint.region},
            ObjectOwnership=ownership,
        )
        # Two of the endpoints ignore the ownership given when the bucket is created, and one of them
        # may not know its new bucket at once.
        rules = {"Rules": [{"ObjectOwnership": ownership}]}
        for _ in range(20):
            with suppress(s3.exceptions.NoSuchBucket):
                s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=rules)
                return
    raise AssertionError(f"{endpoint.name} made the bucket {bucket} and does not know it")


def remove_bucket(endpoint: Endpoint, bucket: str) -> None:
    """Delete a bucket with everything in it, unfinished uploads included."""
    with endpoint.blocking_client() as s3:
        for key, upload in open_uploads(endpoint, bucket):
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        for key in list_keys(endpoint, bucket):
            s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)


def keep_versions(endpoint: Endpoint, bucket: str) -> None:
    with endpoint.blocking_client() as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def remove_versions(endpoint: Endpoint, bucket: str) -> None:
    """Delete all versions in a bucket, so that it can be removed."""
    with endpoint.blocking_client() as s3:
        reply = s3.list_object_versions(Bucket=bucket)
        for each in [*reply.get("Versions", []), *reply.get("DeleteMarkers", [])]:
            s3.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])


def list_keys(endpoint: Endpoint, bucket: str, prefix: str = "") -> list[str]:
    """Return the keys in the bucket that begin with `prefix`, sorted."""
    with endpoint.blocking_client() as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(each["Key"] for page in pages for each in page.get("Contents", []))


def open_uploads(endpoint: Endpoint, bucket: str) -> list[tuple[str, str]]:
    """Return key and upload id of every unfinished multipart upload in the bucket."""
    with endpoint.blocking_client() as s3:
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        return sorted((each["Key"], each["UploadId"]) for page in pages for each in page.get("Uploads", []))


def download_bundle(endpoint: Endpoint, bucket: str, prefix: str, directory: Path) -> list[Path]:
    """Copy every object whose key begins with `prefix` into `directory`, under its last name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    with endpoint.blocking_client() as s3:
        for key in list_keys(endpoint, bucket, prefix):
            path = directory / key.rpartition("/")[2]
            body = s3.get_object(Bucket=bucket, Key=key)["Body"]
            with body, path.open("wb") as output:
                for chunk in body.iter_chunks(1 << 20):
                    output.write(chunk)
            paths.append(path)
    return paths
