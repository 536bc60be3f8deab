"""Looks at a bucket before a bundle is copied into it: what would make it useless there is refused at the start."""

from __future__ import annotations

from amistream.aws import buckets
from amistream.aws.error_table import USE_SSE_S3
from amistream.aws.session import Aws
from amistream.bundles.meter import Note
from amistream.bundles.place import BucketPlace
from amistream.errors import RefusedError
from amistream.flow.retry import retry_policy, with_retries
from amistream.settings import Settings


async def check_bucket(place: BucketPlace, settings: Settings, aws: Aws, note: Note, *, region: str = "") -> None:
    """Refuse a bucket that is not in `region`, or whose ACLs are disabled. Raises `RefusedError` or `StoreError`."""
    bucket, timeout_s = place.location.bucket, settings.stall_timeout_s
    if region and region != place.region:
        raise RefusedError(
            "bucket.region",
            f"cannot use the bucket {bucket} in {region}: it is in {place.region}, and EC2 registers in the "
            "bucket's region only",
            hint=f"give --region {place.region}, or choose a bucket in {region}",
            field="region",
        )
    client = await aws.client("s3", place.region, settings.endpoint_url.rstrip("/"))
    notice = await with_retries(
        retry_policy(settings),
        f"see the ownership controls of bucket {bucket}",
        lambda _: buckets.check_acls(client, bucket, timeout_s),
    )
    if notice:
        note(f"{notice}: allow s3:GetBucketOwnershipControls to have it checked")
    if (await buckets.default_encryption(client, bucket, timeout_s) or "").startswith("aws:kms"):
        fix = USE_SSE_S3.replace("BUCKET", bucket)
        note(f"bucket {bucket} encrypts with KMS by default, and EC2 may not be able to read the bundle: {fix}")
