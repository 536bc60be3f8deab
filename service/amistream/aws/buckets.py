"""Questions to ask of a bucket before a bundle is put there: is it, where is it, can EC2 read from it, may we write.

Each raises `StoreError` (translated) or `RefusedError` with the fix; nothing is left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from amistream.aws.session import Aws
from amistream.aws.translate import ENABLE_ACLS, error_code, http_status, translate
from amistream.errors import RefusedError, StoreError
from amistream.settings import Acl

FALLBACK_REGION = "us-east-1"
_NOT_TOLD = frozenset({"AccessDenied", "NotImplemented", "MethodNotAllowed"})

T = TypeVar("T")


async def bucket_region(aws: Aws, bucket: str, *, region: str, endpoint_url: str, timeout_s: float) -> str:
    """The region the bucket is in; `region` is where to ask first. Raises when there is no such bucket or no access."""
    asked = region or await aws.default_region() or FALLBACK_REGION
    client = await aws.client("s3", asked, endpoint_url)
    what = f"use the bucket {bucket}"
    try:
        async with asyncio.timeout(timeout_s):
            reply = await client.head_bucket(Bucket=bucket)
    except ClientError as error:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        told = str(headers.get("x-amz-bucket-region", ""))
        if http_status(error) in (301, 400) and told:
            return told
        if http_status(error) == 404:  # noqa: PLR2004 - HTTP's own number
            raise RefusedError(
                "bucket.missing",
                f"cannot {what}: there is no such bucket",
                hint=f"make it with `aws s3 mb s3://{bucket}`, or check the name in --to",
                field="destinations",
            ) from error
        raise translate(error, what, bucket=bucket) from error
    except (BotoCoreError, TimeoutError) as error:
        raise translate(error, what, bucket=bucket) from error
    headers = reply["ResponseMetadata"]["HTTPHeaders"]
    return str(reply.get("BucketRegion") or headers.get("x-amz-bucket-region") or asked)


async def check_acls(client: Any, bucket: str, timeout_s: float) -> str:
    """Refuse a bucket whose ACLs are disabled: EC2 reads a bundle through its ACL. Returns a notice or ''."""
    try:
        reply = await _ask(client.get_bucket_ownership_controls(Bucket=bucket), timeout_s)
    except ClientError as error:
        if error_code(error) == "OwnershipControlsNotFoundError":
            return ""  # a bucket from before these controls: ACLs are on
        if error_code(error) in _NOT_TOLD or http_status(error) in (403, 501):
            return f"could not see whether bucket {bucket} has ACLs enabled ({error_code(error)})"
        raise translate(error, f"see the ownership controls of bucket {bucket}", bucket=bucket) from error
    except (BotoCoreError, TimeoutError) as error:
        raise translate(error, f"see the ownership controls of bucket {bucket}", bucket=bucket) from error
    rules = reply["OwnershipControls"]["Rules"]
    if any(rule["ObjectOwnership"] == "BucketOwnerEnforced" for rule in rules):
        raise RefusedError(
            "bucket.acls_disabled",
            f"cannot bundle to {bucket}: its ACLs are disabled, and EC2 can read a bundle through its ACL only",
            hint=ENABLE_ACLS.replace("BUCKET", bucket),
            field="destinations",
        )
    return ""


async def encryption_notice(client: Any, bucket: str, timeout_s: float) -> str:
    """A notice when the bucket encrypts with KMS by default, under which EC2 may not be able to read; or ''."""
    try:
        reply = await _ask(client.get_bucket_encryption(Bucket=bucket), timeout_s)
    except (ClientError, BotoCoreError, TimeoutError):
        return ""  # worth a notice only when known
    rules = reply.get("ServerSideEncryptionConfiguration", {}).get("Rules", ())
    kinds = [rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "") for rule in rules]
    if any(kind.startswith("aws:kms") for kind in kinds):
        return (
            f"bucket {bucket} encrypts with KMS by default; EC2 may not be able to read the bundle. "
            f"Use SSE-S3: aws s3api put-bucket-encryption --bucket {bucket} --server-side-encryption-configuration "
            '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\''
        )
    return ""


async def check_writable(client: Any, bucket: str, key_prefix: str, acl: Acl, timeout_s: float, *, probe: str) -> None:
    """Put an empty object with the bundle's ACL and delete it: finds a missing permission before the first byte.

    `probe` is its name, always the same for one job, so that a probe that a crash left is found again.
    """
    key = f"{key_prefix}/{probe}" if key_prefix else probe
    what = f"write to s3://{bucket}/{key_prefix} with the ACL {acl.value}"
    try:
        await _ask(client.put_object(Bucket=bucket, Key=key, Body=b"", ACL=acl.value), timeout_s)
    except (ClientError, BotoCoreError, TimeoutError) as error:
        raise translate(error, what, bucket=bucket) from error
    try:
        await _ask(client.delete_object(Bucket=bucket, Key=key), timeout_s)
    except (ClientError, BotoCoreError, TimeoutError) as error:
        raise StoreError(
            "bucket.no_delete",
            f"cannot clean up in s3://{bucket}/{key_prefix}: {translate(error, 'delete', bucket=bucket).message}",
            hint=f"allow s3:DeleteObject, then remove the probe: aws s3 rm s3://{bucket}/{key}",
            field="destinations",
        ) from error


async def _ask(call: Awaitable[T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        return await call
