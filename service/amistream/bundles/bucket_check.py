"""Checks a bucket before a bundle is copied into it or registered there."""

from __future__ import annotations

from amistream.aws import buckets
from amistream.aws.session import Aws
from amistream.bundles.meter import Note
from amistream.bundles.place import BucketPlace
from amistream.flow.retry import retry_policy, with_retries
from amistream.settings import Settings


async def check_bucket(place: BucketPlace, settings: Settings, aws: Aws, note: Note, *, region: str = "") -> None:
    """Refuse a bucket that is not in `region`, or whose ACLs are disabled. Raises `RefusedError` or `StoreError`."""
    bucket, timeout_s = place.location.bucket, settings.stall_timeout_s
    buckets.check_region(bucket, region, place.region)
    client = await aws.client("s3", place.region, settings.endpoint_url.rstrip("/"))
    doubts = [
        await with_retries(
            retry_policy(settings),
            f"read the ownership controls of bucket {bucket}",
            lambda _: buckets.check_acls(client, bucket, timeout_s),
        ),
        buckets.encryption_doubt(bucket, await buckets.default_encryption(client, bucket, timeout_s)),
    ]
    for doubt in filter(None, doubts):
        note(f"{doubt.found}: {doubt.why}; {doubt.fix}")
