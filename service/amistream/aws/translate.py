"""Turns what the SDK raises into a `StoreError` with the cause and the fix in it. One table, one border.

The codes are those of the S3 and EC2 API references; which of them pass by themselves follows AWS's own list of
retryable errors, except that 400 `BadDigest` is repeated too: the bytes were damaged on the way.
"""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as SdkConnectionError,
)

from amistream.errors import StoreError

_TRANSIENT = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "Unavailable", "InternalError", "InternalFailure"),
        *("Throttling", "ThrottlingException", "RequestLimitExceeded", "EC2ThrottledException"),
        *("RequestTimeout", "RequestTimeoutException", "IncompleteBody", "BadDigest", "XAmzContentChecksumMismatch"),
        *("OperationAborted", "ConditionalRequestConflict"),
        *("ExpiredToken", "ExpiredTokenException"),  # the provider chain may have newer ones by the next try
    }
)

ENABLE_ACLS = (
    "aws s3api put-bucket-ownership-controls --bucket BUCKET "
    "--ownership-controls 'Rules=[{ObjectOwnership=BucketOwnerPreferred}]'"
)
_NEEDED = (
    "the credentials need s3:PutObject, s3:PutObjectAcl, s3:GetObject, s3:DeleteObject, s3:ListBucket, "
    "s3:GetBucketLocation, s3:AbortMultipartUpload, ec2:RegisterImage, ec2:DescribeImages and sts:GetCallerIdentity; "
    "see README, IAM policy"
)

_EXPLAINED: dict[str, tuple[str, str]] = {
    "AccessDenied": (
        "access is denied",
        _NEEDED,
    ),
    "AccessControlListNotSupported": (
        "the bucket has its ACLs disabled, and EC2 can read a bundle through its ACL only",
        ENABLE_ACLS,
    ),
    "NoSuchBucket": ("there is no such bucket", "make it with `aws s3 mb s3://BUCKET`, or check the name"),
    "InvalidAccessKeyId": ("the access key is not known", "check AWS_ACCESS_KEY_ID or the profile in use"),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", "check AWS_SECRET_ACCESS_KEY"),
    "ExpiredToken": ("the credentials have expired", "renew them, or use a role that refreshes by itself"),
    "ExpiredTokenException": (
        "the credentials have expired",
        "renew them, or use a role that refreshes by itself",
    ),
    "RequestTimeTooSkewed": (
        "this machine's clock differs from AWS's by more than 15 minutes",
        "set the clock: `chronyc makestep` or `timedatectl set-ntp true`",
    ),
    "PermanentRedirect": (
        "the bucket is in another region",
        "leave --region out: the bucket's own is found by itself",
    ),
    "AuthorizationHeaderMalformed": (
        "the bucket is in another region",
        "leave --region out: the bucket's own is found by itself",
    ),
    "NotImplemented": (
        "the endpoint does not know a part of the request",
        "check --endpoint-url; it must speak S3",
    ),
    "AuthFailure": ("EC2 does not accept the credentials", "check the credentials and the region"),
    "UnauthorizedOperation": (
        "the credentials may not do this in EC2",
        "allow ec2:RegisterImage and ec2:DescribeImages",
    ),
}

_BY_STATUS = {301: "PermanentRedirect", 403: "AccessDenied"}


def error_code(error: BaseException) -> str:
    """The AWS error code of an SDK exception, or ''. A HEAD reply has no body: its status stands for the code."""
    if not isinstance(error, ClientError):
        return ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return _BY_STATUS.get(http_status(error), code) if code.isdigit() or not code else code


def http_status(error: BaseException) -> int:
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def translate(error: BaseException, what: str, *, bucket: str = "") -> StoreError:
    """A `StoreError` that says "cannot `what`: why", transient where a repeat may help."""
    if isinstance(error, ClientError):
        return _from_reply(error, what, bucket)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError(
            "aws.credentials",
            f"cannot {what}: no AWS credentials were found",
            hint="give the daemon an instance role, a profile (AWS_PROFILE), or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    if isinstance(error, NoRegionError):
        return StoreError("aws.region", f"cannot {what}: no region is known", hint="give --region", field="region")
    if isinstance(error, SSLError):
        return StoreError(
            "aws.tls",
            f"cannot {what}: the endpoint's certificate is not trusted ({error})",
            hint="set AWS_CA_BUNDLE to the CA's certificate if the endpoint is your own",
        )
    if isinstance(error, TimeoutError):
        return StoreError("aws.timeout", f"cannot {what}: no answer in time", transient=True)
    if isinstance(error, SdkConnectionError | HTTPClientError):
        return StoreError(
            "aws.unreachable",
            f"cannot {what}: {error}",
            hint="check the network, the proxy settings and --endpoint-url",
            transient=True,
        )
    if isinstance(error, BotoCoreError):
        return StoreError("aws.sdk", f"cannot {what}: {error}")
    raise error


def _from_reply(error: ClientError, what: str, bucket: str) -> StoreError:
    code, status = error_code(error), http_status(error)
    reply = str(error.response.get("Error", {}).get("Message", ""))
    why, hint = _EXPLAINED.get(code, (reply or f"the answer was HTTP {status}", ""))
    name = code or f"HTTP{status}"
    return StoreError(
        f"aws.{name}",
        f"cannot {what}: {why} ({name})",
        hint=hint.replace("BUCKET", bucket) if bucket else hint,
        transient=code in _TRANSIENT or status in (500, 502, 503, 504),
    )
