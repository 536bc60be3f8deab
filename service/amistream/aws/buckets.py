"""Requests about a bucket: its existence and region, its ACLs and encryption, a probe object; creation and deletion.

Each function makes one request, not repeated here, and raises `StoreError` (translated) or `RefusedError`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from socket import gaierror
from typing import Any

from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

from amistream.aws.dialect import Dialect, answer_of, dialect_of, in_dialect, is_not_understood, learn_anew
from amistream.aws.error_table import MAKE_BUCKET, USE_SSE_S3
from amistream.aws.regions import FALLBACK_REGION, on_aws
from amistream.aws.session import Aws
from amistream.aws.translate import ENABLE_ACLS, asking, error_code, http_status, is_unreadable, translate, wanted
from amistream.errors import AmistreamError, DeniedError, NoBucketError, NotSupportedError, RefusedError, StoreError
from amistream.flow.retry import Alive, RetryPolicy, with_retries
from amistream.ports.store import sha1_of, whole_checksum
from amistream.settings import Acl


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketFacts:
    """S3's answer about a bucket: its region, or the error for using it."""

    region: str = ""
    error: AmistreamError | None = None
    ahead_s: float | None = None
    """Seconds that S3's clock is ahead of this machine's; None for an answer without a date."""


async def find_bucket(aws: Aws, bucket: str, *, region: str, endpoint_url: str, timeout_s: float) -> BucketFacts:
    """Look up the bucket, first in `region`. Raises `StoreError` without a usable answer.

    The error is transient unless nothing answers at that name or address.
    """
    asked = region or await aws.first_region()
    client = await aws.client("s3", asked, endpoint_url)
    what = f"use the bucket {bucket}"
    async with asking(what, timeout_s, bucket=bucket):
        try:
            reply = await client.head_bucket(Bucket=bucket)
            headers = reply["ResponseMetadata"]["HTTPHeaders"]
            # Compatible endpoints, which the SDK's own settings may name too, may have no regions.
            is_aws = on_aws(client.meta.endpoint_url)
            found = wanted(reply, "BucketRegion") if is_aws else reply.get("BucketRegion", asked)
            return BucketFacts(region=str(found), ahead_s=_ahead_s(headers))
        except ClientError as error:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            actual = str(headers.get("x-amz-bucket-region", ""))
            if http_status(error) in (301, 400) and actual:
                return BucketFacts(region=actual, ahead_s=_ahead_s(headers))
            refused: AmistreamError = NoBucketError(
                "bucket.missing",
                f"cannot {what}: there is no such bucket",
                hint=f"check the name, or create it: {MAKE_BUCKET.replace('BUCKET', bucket)}",
                field="destinations",
            )
            if http_status(error) in {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}:
                # The endpoint does not know the question; the next ones show whether there is a bucket.
                return BucketFacts(region=asked, ahead_s=_ahead_s(headers))
            if http_status(error) != HTTPStatus.NOT_FOUND:
                refused = translate(await _with_reason(client, bucket, error), what, bucket=bucket)
                if refused.transient:
                    raise refused from error
            return BucketFacts(error=refused, ahead_s=_ahead_s(headers))
        except (EndpointConnectionError, ConnectTimeoutError) as error:
            away = translate(error, what, bucket=bucket)
            raise (away.permanent() if _is_nowhere(error) else away) from error


async def _with_reason(client: Any, bucket: str, error: ClientError) -> ClientError:
    """The same error with its code, such as ExpiredToken: S3 answers a HEAD without a body, so ask once more."""
    if http_status(error) != HTTPStatus.BAD_REQUEST:
        return error
    try:
        await client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as explained:
        return explained if http_status(explained) == HTTPStatus.BAD_REQUEST else error
    return error


async def bucket_region(aws: Aws, bucket: str, *, region: str, endpoint_url: str, timeout_s: float) -> str:
    """The bucket's region, from `find_bucket`. Raises when the bucket does not exist or access is denied."""
    answer = await find_bucket(aws, bucket, region=region, endpoint_url=endpoint_url, timeout_s=timeout_s)
    if answer.error is not None:
        raise answer.error
    return answer.region


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketDoubt:
    """A fact about a bucket that may make a bundle there useless, and the remedy."""

    found: str
    why: str
    fix: str


def check_region(bucket: str, region: str, found: str) -> None:
    """Refuse a bucket that is `found` in another region than the requested one."""
    if region and region != found:
        raise RefusedError(
            "bucket.region",
            f"cannot use the bucket {bucket} in {region}: it is in {found}, and EC2 registers in the bucket's region "
            "only",
            hint=f"give --region {found}, or choose a bucket in {region}",
            field="region",
        )


async def check_acls(client: Any, bucket: str, retry: RetryPolicy) -> BucketDoubt | None:
    """Refuse a bucket whose ACLs are disabled, because EC2 reads a bundle through its ACL."""
    what = f"read the ownership controls of bucket {bucket}"

    async def ask(_: Alive) -> Any:
        async with asking(what, bucket=bucket):
            reply = await client.get_bucket_ownership_controls(Bucket=bucket)
            return wanted(reply, "OwnershipControls", "Rules")

    try:
        rules = await with_retries(retry, what, ask)
    except StoreError as error:
        code = error_code(answer_of(error))
        if code == "OwnershipControlsNotFoundError":
            return None  # a bucket older than these controls: ACLs are enabled
        answer = answer_of(error)
        if not isinstance(answer, ClientError) and not is_unreadable(answer):
            raise
        # Compatible endpoints refuse the question in many ways; the probe shows whether the ACL is taken.
        denied = isinstance(error, DeniedError)
        return BucketDoubt(
            found=f"cannot check if bucket {bucket} has ACLs enabled ({code or 'the answer cannot be understood'})",
            why="with ACLs disabled EC2 could not read the bundle",
            fix="allow s3:GetBucketOwnershipControls to have it checked"
            if denied
            else "check it with the endpoint's own tools, if EC2 is to read the bundle",
        )
    if any(rule.get("ObjectOwnership") == "BucketOwnerEnforced" for rule in rules):
        raise RefusedError(
            "bucket.acls_disabled",
            f"cannot bundle to {bucket}: its ACLs are disabled, and EC2 can read a bundle only through its ACL",
            hint=ENABLE_ACLS.replace("BUCKET", bucket),
            field="destinations",
        )
    return None


async def default_encryption(client: Any, bucket: str, timeout_s: float) -> str | None:
    """Find the algorithm that the bucket encrypts with by default: '' for none, None if not known."""
    try:
        async with asking("read its encryption", timeout_s):
            reply = await client.get_bucket_encryption(Bucket=bucket)
            rules = wanted(reply, "ServerSideEncryptionConfiguration", "Rules")
    except StoreError as error:
        return "" if error_code(error.__cause__) == "ServerSideEncryptionConfigurationNotFoundError" else None
    kinds = [rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "") for rule in rules]
    return next((kind for kind in kinds if kind.startswith("aws:kms")), "".join(kinds[:1]))


def encryption_doubt(bucket: str, algorithm: str | None) -> BucketDoubt | None:
    if not (algorithm or "").startswith("aws:kms"):
        return None
    return BucketDoubt(
        found=f"bucket {bucket} encrypts with KMS by default",
        why="EC2 may not be able to read the bundle",
        fix=USE_SSE_S3.replace("BUCKET", bucket),
    )


async def keeps_versions(client: Any, bucket: str, timeout_s: float) -> bool:
    """True if the bucket keeps what is deleted, as versions; False also where that is not known."""
    try:
        async with asking("see whether it keeps versions", timeout_s):
            return bool((await client.get_bucket_versioning(Bucket=bucket)).get("Status") == "Enabled")
    except StoreError:
        return False


async def put_probe(client: Any, bucket: str, key: str, acl: Acl, timeout_s: float) -> Dialect:
    """Put an empty object as a job puts its parts, to find what is missing before the first byte.

    Returns what the endpoint understands of it. Raises `StoreError`; the error for an unknown ACL says so.
    """
    what = f"write to s3://{bucket}/{key.rpartition('/')[0]} with the ACL {acl.value}"
    sha1 = whole_checksum(sha1_of(b""))

    async def put(dialect: Dialect, **with_acl: str) -> None:
        async with asking(what, timeout_s, bucket=bucket):
            protection = {**await dialect.of_body(sha1, b""), **dialect.of_object, **dialect.if_absent}
            try:
                wanted(await client.put_object(Bucket=bucket, Key=key, Body=b"", **with_acl, **protection), "ETag")
            except ClientError as error:
                if http_status(error) != HTTPStatus.PRECONDITION_FAILED:
                    raise
                # It is there from an attempt whose answer was lost.

    learn_anew(client, bucket)
    try:
        await in_dialect(client, bucket, "PutObject", partial(put, ACL=acl.value))
    except StoreError as error:
        if not is_not_understood(client, error):
            raise
        try:
            await in_dialect(client, bucket, "PutObject", put)
        except StoreError:
            raise error from None
        await delete_probe(client, bucket, key, timeout_s)
        raise NotSupportedError(
            "bucket.acl",
            f"cannot {what}: the endpoint does not know this ACL ({error_code(answer_of(error))})",
            hint="give another --acl: public-read if others are to read the bundle, private if it is only stored",
            field="acl",
        ) from error
    return dialect_of(client, bucket)


async def delete_probe(client: Any, bucket: str, key: str, timeout_s: float) -> None:
    """Delete the probe, to find out whether the job can clean up after itself."""
    try:
        async with asking(f"delete s3://{bucket}/{key}", timeout_s, bucket=bucket):
            await client.delete_object(Bucket=bucket, Key=key)
    except StoreError as cause:
        first = cause.hint if cause.transient else "allow s3:DeleteObject"
        raise StoreError(
            "bucket.no_delete",
            f"cannot clean up in s3://{bucket}/{key.rpartition('/')[0]}: {cause.message}",
            hint=f"{first}, then remove the probe: aws s3 rm s3://{bucket}/{key}",
            field="destinations",
            transient=cause.transient,
        ) from cause


def _is_nowhere(error: BaseException) -> bool:
    """True if a connection failed because nothing listens, nothing answers, or the name does not resolve."""
    cause = getattr(error, "kwargs", {}).get("error")
    reason = getattr(cause, "os_error", cause)
    return isinstance(error, ConnectTimeoutError) or isinstance(reason, ConnectionRefusedError | gaierror)


def _ahead_s(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp() - time.time()
    except ValueError:
        return None


async def make_bucket(client: Any, bucket: str, region: str, timeout_s: float) -> None:
    """Create the bucket in `region`, with ACLs enabled. Raises `StoreError`."""
    place: dict[str, Any] = {}
    if region != FALLBACK_REGION:
        # AWS rejects us-east-1 here.
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    async with asking(f"create the bucket {bucket} in {region}", timeout_s, bucket=bucket):
        try:
            await client.create_bucket(Bucket=bucket, ObjectOwnership="BucketOwnerPreferred", **place)
        except ClientError as error:
            if not place or not is_not_understood(client, error):
                raise
            # Other clouds have one place, or name it in their own way.
            await client.create_bucket(Bucket=bucket)


async def delete_if_empty(client: Any, bucket: str, timeout_s: float) -> bool:
    """Delete the bucket if it has no objects; returns whether it was deleted. Raises `StoreError`."""
    async with asking(f"delete the bucket {bucket}", timeout_s, bucket=bucket):
        try:
            await client.delete_bucket(Bucket=bucket)
        except ClientError as error:
            if error_code(error) != "BucketNotEmpty":
                raise
            return False
    return True
