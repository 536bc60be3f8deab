"""Every row of the error table, provoked once through a real client, with the whole message and hint.

Where one of the endpoints refuses by itself, it is asked; else a server answers word for word as AWS does; the
failures that no server reports are made for real.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiobotocore.session
import pytest
import pytest_asyncio

import amistream
from amistream.aws.error_table import NEEDS, TABLE
from amistream.aws.session import Aws
from amistream.aws.translate import SDK_ERRORS, translate
from amistream.errors import StoreError
from amistream.settings import Settings
from aws.canned import ACCESS_KEY, CANONICAL, ENCODED, PRIVATE, SIGNATURE, TO_SIGN, TOKEN, Canned, Reply, error_body
from support.proxy import Fault, Reset

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.tls import Authority

BUCKET = "my-bucket"
KEY = {"Bucket": BUCKET, "Key": "image.part.00"}
UPLOAD = {**KEY, "UploadId": "VXBsb2FkSUQ"}
IMAGE = {"Name": "web", "ImageLocation": f"{BUCKET}/image.manifest.xml"}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "HeadBucket": ("s3", {"Bucket": BUCKET}),
    "ListObjectsV2": ("s3", {"Bucket": BUCKET}),
    "CreateBucket": ("s3", {"Bucket": BUCKET}),
    "DeleteBucket": ("s3", {"Bucket": BUCKET}),
    "ListMultipartUploads": ("s3", {"Bucket": BUCKET}),
    "GetBucketLocation": ("s3", {"Bucket": BUCKET}),
    "GetBucketOwnershipControls": ("s3", {"Bucket": BUCKET}),
    "GetBucketEncryption": ("s3", {"Bucket": BUCKET}),
    "HeadObject": ("s3", KEY),
    "GetObject": ("s3", KEY),
    "PutObject": ("s3", {**KEY, "Body": b"part", "ACL": "aws-exec-read", "IfNoneMatch": "*"}),
    "CreateMultipartUpload": ("s3", KEY),
    "UploadPart": ("s3", {**UPLOAD, "PartNumber": 1, "Body": b"chunk"}),
    "CompleteMultipartUpload": ("s3", {**UPLOAD, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e"}]}}),
    "AbortMultipartUpload": ("s3", UPLOAD),
    "CopyObject": ("s3", {**KEY, "CopySource": {"Bucket": "their-bucket", "Key": "image.part.00"}}),
    "DeleteObject": ("s3", KEY),
    "DeleteObjects": ("s3", {"Bucket": BUCKET, "Delete": {"Objects": [{"Key": "image.part.00"}]}}),
    "RegisterImage": ("ec2", IMAGE),
    "DescribeImages": ("ec2", {"Owners": ["self"]}),
    "DeregisterImage": ("ec2", {"ImageId": "ami-12345678"}),
    "GetCallerIdentity": ("sts", {}),
    "AssumeRole": ("sts", {"RoleArn": "arn:aws:iam::123456789012:role/bundler", "RoleSessionName": "bundler"}),
    "AssumeRoleWithWebIdentity": (
        "sts",
        {"RoleArn": "arn:aws:iam::123456789012:role/bundler", "RoleSessionName": "bundler", "WebIdentityToken": TOKEN},
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
        patch.setenv("AWS_SESSION_TOKEN", TOKEN)
        yield


@dataclass(frozen=True)
class Played:
    """AWS as this file plays it, and our own clients for it; made once, because clients are dear."""

    server: Canned
    aws: Aws

    async def ask(self, operation: str, reply: Reply | bytes) -> StoreError:
        self.server.reply = reply
        return await ask(self.aws, self.server.url, operation)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def played() -> AsyncIterator[Played]:
    """A server that plays AWS, and clients of it."""
    async with Canned() as server, Aws(Settings()) as aws:
        yield Played(server, aws)


async def ask(aws: Aws, url: str, operation: str, **changes: Any) -> StoreError:
    """Make a request with one of our own clients, which must fail, and translate the failure."""
    service, arguments = REQUESTS[operation]
    client = await aws.client(service, "eu-west-1", url)
    method = next(name for name, known in client.meta.method_to_api_mapping.items() if known == operation)
    return await failure(getattr(client, method)(**{**arguments, **changes}))


async def failure(call: Awaitable[Any]) -> StoreError:
    try:
        answer = await call
    except (*SDK_ERRORS, TimeoutError) as error:
        return translate(error, "do it", bucket=BUCKET)
    raise AssertionError(f"it went well: {answer}")


def assert_private(error: StoreError) -> None:
    """No part of a credential, of the signed request or of AWS's own ids is told."""
    told = f"{error.message}\n{error.hint}"
    for secret in (*PRIVATE, *TO_SIGN.splitlines(), *filter(None, CANONICAL.splitlines()[3:])):
        assert secret not in told


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer of AWS: the request, code, status and AWS's words; then ours. `also` are the row's further codes."""

    code: str
    operation: str
    status: int
    words: str
    message: str
    hint: str
    transient: bool = False
    blames: str = ""
    also: tuple[str, ...] = ()
    more: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


LATER = "try again later; https://health.aws.amazon.com/ shows whether AWS has a problem"
OWN_REGION = "leave --region out: the bucket's own is found by itself"
CLOCK = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
VALUES = "check --arch, --virtualization, --kernel, --ramdisk, --sriov, --ena, -B and --tag"

AT_AWS = (
    Case(
        code="AccessDenied",
        operation="PutObject",
        status=403,
        words="Access Denied",
        message="cannot do it: access is denied (AccessDenied)",
        hint="allow the credentials s3:PutObject and s3:PutObjectAcl on my-bucket/*; README, IAM policy, has all that "
        "a job needs",
    ),
    Case(
        code="UnauthorizedOperation",
        operation="RegisterImage",
        status=403,
        words=f"You are not authorized to perform this operation. Encoded authorization failure message: {ENCODED}",
        message="cannot do it: the credentials may not do this in EC2 (UnauthorizedOperation)",
        hint="allow the credentials ec2:RegisterImage, and ec2:CreateTags with --tag; README, IAM policy, has all that "
        "a job needs",
    ),
    Case(
        code="AllAccessDisabled",
        operation="ListObjectsV2",
        status=403,
        words="All access to this object has been disabled",
        message="cannot do it: AWS has disabled all access to the bucket (AllAccessDisabled)",
        hint="ask AWS Support, or choose another bucket",
        blames="destinations",
    ),
    Case(
        code="OptInRequired",
        also=("Blocked", "PendingVerification"),
        operation="RegisterImage",
        status=401,
        words="You are not subscribed to this service.",
        message="cannot do it: the account may not use this service: You are not subscribed to this service "
        "(OptInRequired)",
        hint="look at https://console.aws.amazon.com/billing/ for what AWS waits for, or ask AWS Support",
    ),
    Case(
        code="AccountProblem",
        also=("NotSignedUp",),
        operation="PutObject",
        status=403,
        words="There is a problem with your AWS account that prevents the operation from completing successfully.",
        message="cannot do it: the account may not use this service: There is a problem with your AWS account that "
        "prevents the operation from completing successfully (AccountProblem)",
        hint="look at https://console.aws.amazon.com/billing/ for what AWS waits for, or ask AWS Support",
    ),
    Case(
        code="AccessControlListNotSupported",
        operation="PutObject",
        status=400,
        words="The bucket does not allow ACLs",
        message="cannot do it: the bucket has its ACLs disabled, and EC2 can read a bundle through its ACL only "
        "(AccessControlListNotSupported)",
        hint="aws s3api put-bucket-ownership-controls --bucket my-bucket "
        "--ownership-controls 'Rules=[{ObjectOwnership=BucketOwnerPreferred}]'",
        blames="destinations",
    ),
    Case(
        code="KMS.DisabledException",
        also=("KMS.NotFoundException", "KMS.KMSInvalidStateException"),
        operation="PutObject",
        status=400,
        words="arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c-0000-4000-8000-000000000000 is disabled.",
        message="cannot do it: the bucket encrypts with a KMS key that cannot be used, and under which EC2 could not "
        "read the bundle (KMS.DisabledException)",
        hint="aws s3api put-bucket-encryption --bucket my-bucket --server-side-encryption-configuration "
        '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\'',
        blames="destinations",
    ),
    Case(
        code="NoSuchBucket",
        operation="PutObject",
        status=404,
        words="The specified bucket does not exist",
        more={"BucketName": BUCKET},
        message="cannot do it: there is no such bucket (NoSuchBucket)",
        hint="check the name, or make it: aws s3api create-bucket --bucket my-bucket "
        "--object-ownership BucketOwnerPreferred "
        "(outside us-east-1 also --create-bucket-configuration LocationConstraint=REGION)",
        blames="destinations",
    ),
    Case(
        code="InvalidBucketName",
        operation="ListObjectsV2",
        status=400,
        words="The specified bucket is not valid.",
        more={"BucketName": "My_Bucket"},
        message="cannot do it: this is no name of a bucket (InvalidBucketName)",
        hint="check --to: 3 to 63 of lower-case letters, digits, dots and dashes",
        blames="destinations",
    ),
    Case(
        code="PermanentRedirect",
        operation="PutObject",
        status=301,
        words="The bucket you are attempting to access must be addressed using the specified endpoint. Please send all "
        "future requests to this endpoint.",
        more={"Endpoint": "my-bucket.s3.eu-central-1.amazonaws.com", "Bucket": BUCKET},
        headers={"x-amz-bucket-region": "eu-central-1"},
        message="cannot do it: the bucket is in another region, eu-central-1 (PermanentRedirect)",
        hint=OWN_REGION,
        blames="region",
    ),
    Case(
        code="AuthorizationHeaderMalformed",
        operation="PutObject",
        status=400,
        words="The authorization header is malformed; the region 'eu-west-1' is wrong; expecting 'eu-central-1'",
        more={"Region": "eu-central-1"},
        message="cannot do it: the bucket is in another region, eu-central-1 (AuthorizationHeaderMalformed)",
        hint=OWN_REGION,
        blames="region",
    ),
    Case(
        code="IllegalLocationConstraintException",
        operation="PutObject",
        status=400,
        words="The me-south-1 location constraint is incompatible for the region specific endpoint this request was "
        "sent to.",
        message="cannot do it: the bucket is in another region (IllegalLocationConstraintException)",
        hint=OWN_REGION,
        blames="region",
    ),
    Case(
        code="TemporaryRedirect",
        operation="DeleteObject",
        status=307,
        words="Please re-send this request to the specified temporary endpoint. Continue to use the original request "
        "endpoint for future requests.",
        more={"Endpoint": "my-bucket.s3-eu-west-1.amazonaws.com", "Bucket": BUCKET},
        headers={"x-amz-bucket-region": "eu-west-1"},
        message="cannot do it: the bucket is new, and its name does not lead to its region yet (TemporaryRedirect)",
        hint="wait some minutes and try again",
        transient=True,
    ),
    Case(
        code="BadRequest",
        operation="HeadObject",
        status=400,
        words="",
        message="cannot do it: the request is refused without a reason, as S3 does when region or credentials are "
        "wrong (BadRequest)",
        hint=f"{OWN_REGION}; renew the credentials if they may have expired",
    ),
    Case(
        code="NotImplemented",
        operation="PutObject",
        status=501,
        words="A header you provided implies functionality that is not implemented",
        more={"Header": "x-amz-acl"},
        message="cannot do it: the endpoint does not know a part of the request (NotImplemented)",
        hint="check --endpoint-url: it must speak S3 and know the ACL of --acl. AWS itself may say so when "
        "s3:PutObjectAcl on my-bucket/* is not allowed",
    ),
    Case(
        code="MethodNotAllowed",
        operation="PutObject",
        status=405,
        words="The specified method is not allowed against this resource.",
        message="cannot do it: the endpoint does not know this request (MethodNotAllowed)",
        hint="check --endpoint-url: it must speak S3, and EC2 unless --no-register is given",
    ),
    Case(
        code="InvalidAction",
        operation="RegisterImage",
        status=400,
        words="The action RegisterImage is not valid for this web service.",
        message="cannot do it: the endpoint does not know this request (InvalidAction)",
        hint="check --endpoint-url: it must speak S3, and EC2 unless --no-register is given",
    ),
    Case(
        code="NoSuchKey",
        operation="GetObject",
        status=404,
        words="The specified key does not exist.",
        more={"Key": "image.part.00"},
        message="cannot do it: the object is not there (NoSuchKey)",
        hint="somebody removed it meanwhile: run the job again",
    ),
    Case(
        code="NoSuchUpload",
        operation="UploadPart",
        status=404,
        words="The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted "
        "or completed.",
        more={"UploadId": "VXBsb2FkSUQ"},
        message="cannot do it: the multipart upload is no longer there: somebody, or a lifecycle rule of the bucket, "
        "has aborted it (NoSuchUpload)",
        hint="let the rule abort uploads after a day or more, and run the job again",
    ),
    Case(
        code="PreconditionFailed",
        operation="PutObject",
        status=412,
        words="At least one of the pre-conditions you specified did not hold",
        more={"Condition": "If-None-Match"},
        message="cannot do it: an object of this name exists already (PreconditionFailed)",
        hint="look with `aws s3 ls s3://my-bucket/`; choose another --prefix",
        blames="destinations",
    ),
    Case(
        code="ConditionalRequestConflict",
        also=("OperationAborted",),
        operation="PutObject",
        status=409,
        words="The conditional request cannot succeed due to a conflicting operation against this resource.",
        more={"Condition": "If-None-Match", "Key": "image.part.00"},
        message="cannot do it: another request for the same name is under way (ConditionalRequestConflict)",
        hint="let the other job for this destination end, or choose another --prefix",
        transient=True,
    ),
    Case(
        code="EntityTooSmall",
        operation="CompleteMultipartUpload",
        status=400,
        words="Your proposed upload is smaller than the minimum allowed size",
        more={"ProposedSize": "5", "MinSizeAllowed": "5242880", "PartNumber": "1"},
        message="cannot do it: a chunk of the multipart upload is smaller than the endpoint takes (EntityTooSmall)",
        hint="raise the setting multipart_chunk, or multipart_threshold so that parts go up whole",
    ),
    Case(
        code="EntityTooLarge",
        operation="PutObject",
        status=400,
        words="Your proposed upload exceeds the maximum allowed size",
        more={"ProposedSize": "5368709121", "MaxSizeAllowed": "5368709120"},
        message="cannot do it: the part is larger than the endpoint takes (EntityTooLarge)",
        hint="give a smaller --part-size, or lower the setting multipart_threshold so that it goes up in chunks",
        blames="part_size",
    ),
    Case(
        code="InvalidPart",
        also=("InvalidPartOrder",),
        operation="CompleteMultipartUpload",
        status=400,
        words="One or more of the specified parts could not be found.  The part may not have been uploaded, or the "
        "specified entity tag may not match the part's entity tag.",
        more={"UploadId": "VXBsb2FkSUQ", "PartNumber": "1", "ETag": "e"},
        message="cannot do it: chunks of the multipart upload are not there as they were sent (InvalidPart)",
        hint="run the job again; with an endpoint that loses chunks, raise the setting multipart_threshold",
    ),
    Case(
        code="BadDigest",
        also=("IncompleteBody", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),
        operation="PutObject",
        status=400,
        words="The SHA1 you specified did not match the calculated checksum.",
        message="cannot do it: the bytes that arrived are not those that were sent (BadDigest)",
        hint="if it goes on, something damages data: the network, a proxy, or this machine's memory",
        transient=True,
    ),
    Case(
        code="RequestTimeTooSkewed",
        operation="PutObject",
        status=403,
        words="The difference between the request time and the current time is too large.",
        more={"RequestTime": "20261122T120000Z", "MaxAllowedSkewMilliseconds": "900000"},
        message="cannot do it: this machine's clock differs too much from AWS's (RequestTimeTooSkewed)",
        hint=CLOCK,
    ),
    Case(
        code="RequestExpired",
        operation="RegisterImage",
        status=400,
        words="Request has expired.",
        message="cannot do it: the request came too late: this machine's clock is off, or the credentials have expired "
        "(RequestExpired)",
        hint=f"{CLOCK}; renew the credentials",
    ),
    Case(
        code="ExpiredToken",
        operation="PutObject",
        status=400,
        words="The provided token has expired.",
        more={"Token-0": TOKEN},
        message="cannot do it: the credentials have expired (ExpiredToken)",
        hint="renew them, or use a role that refreshes by itself",
        transient=True,
    ),
    Case(
        code="ExpiredTokenException",
        operation="GetCallerIdentity",
        status=403,
        words="The security token included in the request is expired",
        message="cannot do it: the credentials have expired (ExpiredTokenException)",
        hint="renew them, or use a role that refreshes by itself",
        transient=True,
    ),
    Case(
        code="InvalidAccessKeyId",
        operation="PutObject",
        status=403,
        words="The AWS Access Key Id you provided does not exist in our records.",
        more={"AWSAccessKeyId": ACCESS_KEY},
        message="cannot do it: the access key is not known (InvalidAccessKeyId)",
        hint="check AWS_ACCESS_KEY_ID or the profile in use",
    ),
    Case(
        code="InvalidToken",
        operation="PutObject",
        status=400,
        words="The provided token is malformed or otherwise invalid.",
        more={"Token-0": TOKEN},
        message="cannot do it: the access key or its session token is not valid here (InvalidToken)",
        hint="set AWS_SESSION_TOKEN to the token of this very key, or unset it; enable the region for the account",
    ),
    Case(
        code="InvalidClientTokenId",
        operation="GetCallerIdentity",
        status=403,
        words="The security token included in the request is invalid.",
        message="cannot do it: the access key or its session token is not valid here (InvalidClientTokenId)",
        hint="set AWS_SESSION_TOKEN to the token of this very key, or unset it; enable the region for the account",
    ),
    Case(
        code="SignatureDoesNotMatch",
        operation="PutObject",
        status=403,
        words="The request signature we calculated does not match the signature you provided. Check your key and "
        "signing method.",
        more={
            "AWSAccessKeyId": ACCESS_KEY,
            "StringToSign": TO_SIGN,
            "SignatureProvided": SIGNATURE,
            "StringToSignBytes": TO_SIGN.encode().hex(" "),
            "CanonicalRequest": CANONICAL,
            "CanonicalRequestBytes": CANONICAL.encode().hex(" "),
        },
        message="cannot do it: the secret key does not fit the access key (SignatureDoesNotMatch)",
        hint="check AWS_SECRET_ACCESS_KEY or the profile in use",
    ),
    Case(
        code="AuthFailure",
        operation="DescribeImages",
        status=401,
        words="AWS was not able to validate the provided access credentials",
        message="cannot do it: EC2 does not accept the credentials (AuthFailure)",
        hint="check the credentials, the region, whether it is enabled for the account, and this machine's clock",
    ),
    Case(
        code="IncompleteSignature",
        also=("MissingAuthenticationToken", "MissingSecurityHeader"),
        operation="GetCallerIdentity",
        status=403,
        words="Authorization header requires 'SignedHeaders' parameter. Authorization=AWS4-HMAC-SHA256 "
        f"Credential={ACCESS_KEY}/20261122/us-east-1/sts/aws4_request, Signature={SIGNATURE}",
        message="cannot do it: the request arrived without its whole signature (IncompleteSignature)",
        hint="let proxies between here and --endpoint-url pass every header",
    ),
    Case(
        code="RegionDisabledException",
        operation="GetCallerIdentity",
        status=403,
        words="STS is not activated in this region for account:123456789012.",
        message="cannot do it: STS is not enabled in this region (RegionDisabledException)",
        hint="enable it in the account settings of IAM, or choose another --region",
        blames="region",
    ),
    Case(
        code="InvalidIdentityToken",
        operation="AssumeRoleWithWebIdentity",
        status=400,
        words="No OpenIDConnect provider found in your account for https://oidc.eks.eu-west-1.amazonaws.com/id/0123",
        message="cannot do it: the web identity token of the role is not accepted (InvalidIdentityToken)",
        hint="renew the file AWS_WEB_IDENTITY_TOKEN_FILE; check the role's trust policy",
    ),
    Case(
        code="IDPCommunicationError",
        operation="AssumeRoleWithWebIdentity",
        status=400,
        words="Couldn't retrieve verification key from your identity provider",
        message="cannot do it: STS cannot reach the identity provider of the role (IDPCommunicationError)",
        hint="try again later; check the identity provider",
        transient=True,
    ),
    Case(
        code="SlowDown",
        operation="PutObject",
        status=503,
        words="Please reduce your request rate.",
        message="cannot do it: S3 asks for fewer requests at a time (SlowDown)",
        hint="run fewer jobs into this bucket at once, or give a smaller --upload-concurrency",
        transient=True,
    ),
    Case(
        code="RequestLimitExceeded",
        also=("EC2ThrottledException", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests"),
        operation="DescribeImages",
        status=503,
        words="Request limit exceeded.",
        message="cannot do it: too many requests of this account are under way in the region (RequestLimitExceeded)",
        hint="try again later; other programs of the account share the limit",
        transient=True,
    ),
    Case(
        code="InternalError",
        also=("InternalFailure",),
        operation="PutObject",
        status=500,
        words="We encountered an internal error. Please try again.",
        message="cannot do it: the service had an error of its own (InternalError)",
        hint=LATER,
        transient=True,
    ),
    Case(
        code="ServiceUnavailable",
        also=("Unavailable", "BadGateway", "GatewayTimeout"),
        operation="RegisterImage",
        status=503,
        words="The server is overloaded and can't handle the request.",
        message="cannot do it: the service is out of order (ServiceUnavailable)",
        hint=LATER,
        transient=True,
    ),
    Case(
        code="RequestTimeout",
        also=("RequestTimeoutException",),
        operation="PutObject",
        status=400,
        words="Your socket connection to the server was not read from or written to within the timeout period. Idle "
        "connections will be closed.",
        message="cannot do it: the service waited too long for the rest of the request (RequestTimeout)",
        hint="send less at a time: a smaller --upload-concurrency or --part-size",
        transient=True,
    ),
    Case(
        code="InvalidAMIName.Duplicate",
        operation="RegisterImage",
        status=400,
        words="AMI name web is already in use by AMI ami-12345678",
        message="cannot do it: another image of the account has this name in the region (InvalidAMIName.Duplicate)",
        hint="choose another --ami-name, or deregister that image",
        blames="ami_name",
    ),
    Case(
        code="InvalidAMIName.Malformed",
        operation="RegisterImage",
        status=400,
        words="AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', "
        "'-', '/' and '_'",
        message="cannot do it: EC2 does not take the image's name (InvalidAMIName.Malformed)",
        hint="give an --ami-name of 3 to 128 letters, digits and ( ) [ ] space . / - ' @ _",
        blames="ami_name",
    ),
    Case(
        code="InvalidManifest",
        operation="RegisterImage",
        status=400,
        words="Invalid device name xvda",
        message="cannot do it: EC2 cannot use the manifest: Invalid device name xvda (InvalidManifest)",
        hint="device names must be like sda1 or sdb, never xvda (-B); the bucket must be in the image's region, and "
        "EC2 must be able to read it: --acl aws-exec-read, no KMS",
    ),
    Case(
        code="InvalidAMIID.NotFound",
        also=("InvalidAMIID.Unavailable", "InvalidAMIID.Malformed"),
        operation="DeregisterImage",
        status=400,
        words="The image id '[ami-12345678]' does not exist",
        message="cannot do it: EC2 does not know the image, or it can no longer be used (InvalidAMIID.NotFound)",
        hint="look with `aws ec2 describe-images --owners self` in the image's own region",
    ),
    Case(
        code="InvalidBlockDeviceMapping",
        operation="RegisterImage",
        status=400,
        words="The device 'sdb' is used in more than one block-device mapping",
        message="cannot do it: EC2 does not take the block device mapping: The device 'sdb' is used in more than one "
        "block-device mapping (InvalidBlockDeviceMapping)",
        hint="check -B, as in `-B ephemeral0=sdb`",
        blames="block_device_mappings",
    ),
    Case(
        code="InvalidParameterCombination",
        also=("InvalidParameter", "InvalidParameterValue", "MissingParameter", "ValidationError"),
        operation="RegisterImage",
        status=400,
        words="Enhanced networking is only supported on HVM images",
        message="cannot do it: EC2 does not take a value: Enhanced networking is only supported on HVM images "
        "(InvalidParameterCombination)",
        hint=VALUES,
    ),
    Case(
        code="UnsupportedOperation",
        also=("Unsupported",),
        operation="RegisterImage",
        status=400,
        words="Instance store-backed AMIs are not supported in this region.",
        message="cannot do it: this is not possible in the region: Instance store-backed AMIs are not supported in "
        "this region (UnsupportedOperation)",
        hint="choose another --region (and a bucket there), or --no-register",
        blames="region",
    ),
    Case(
        code="DryRunOperation",
        operation="RegisterImage",
        status=412,
        words="Request would have succeeded, but DryRun flag is set.",
        message="cannot do it: it was only asked whether it would be allowed, and it is (DryRunOperation)",
        hint="",
    ),
)


def answers() -> Iterator[Any]:
    for case in AT_AWS:
        yield pytest.param(case, id=case.code)
        for code in case.also:
            renamed = case.message.replace(f"({case.code})", f"({code})")
            yield pytest.param(replace(case, code=code, message=renamed), id=code)


@pytest.mark.parametrize("case", list(answers()))
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_of_aws(case: Case, played: Played) -> None:
    """An error is told with its cause, its code and what to do, and nothing that AWS says beside it."""
    body = error_body(REQUESTS[case.operation][0], case.code, case.words, **case.more)
    error = await played.ask(case.operation, Reply(status=case.status, body=body, headers=case.headers))
    assert (error.message, error.hint) == (case.message, case.hint)
    assert (error.code, error.field, error.transient) == (f"aws.{case.code}", case.blames, case.transient)
    assert_private(error)


ALL = "; README, IAM policy, has all that a job needs"
SILENT = ". This request is refused without a reason: the access key or its secret may also be wrong"
ALLOW = {
    "HeadBucket": "allow the credentials s3:ListBucket on my-bucket, and s3:PutObject, s3:PutObjectAcl, s3:GetObject "
    f"and s3:DeleteObject on my-bucket/* for what follows{ALL}{SILENT}",
    "ListObjectsV2": f"allow the credentials s3:ListBucket on my-bucket{ALL}",
    "CreateBucket": "allow the credentials s3:CreateBucket and s3:PutBucketOwnershipControls on my-bucket" + ALL,
    "DeleteBucket": f"allow the credentials s3:DeleteBucket on my-bucket{ALL}",
    "ListMultipartUploads": f"allow the credentials s3:ListBucketMultipartUploads on my-bucket{ALL}",
    "GetBucketLocation": f"allow the credentials s3:GetBucketLocation on my-bucket{ALL}",
    "GetBucketOwnershipControls": f"allow the credentials s3:GetBucketOwnershipControls on my-bucket{ALL}",
    "GetBucketEncryption": f"allow the credentials s3:GetEncryptionConfiguration on my-bucket{ALL}",
    "HeadObject": f"allow the credentials s3:GetObject on my-bucket/* and s3:ListBucket on my-bucket{ALL}{SILENT}",
    "GetObject": f"allow the credentials s3:GetObject on my-bucket/* and s3:ListBucket on my-bucket{ALL}",
    "PutObject": f"allow the credentials s3:PutObject and s3:PutObjectAcl on my-bucket/*{ALL}",
    "CreateMultipartUpload": f"allow the credentials s3:PutObject and s3:PutObjectAcl on my-bucket/*{ALL}",
    "UploadPart": f"allow the credentials s3:PutObject on my-bucket/*{ALL}",
    "CompleteMultipartUpload": f"allow the credentials s3:PutObject on my-bucket/*{ALL}",
    "AbortMultipartUpload": f"allow the credentials s3:AbortMultipartUpload on my-bucket/*{ALL}",
    "CopyObject": "allow the credentials s3:GetObject on what is copied, and s3:PutObject and s3:PutObjectAcl on "
    f"my-bucket/*{ALL}",
    "DeleteObject": f"allow the credentials s3:DeleteObject on my-bucket/*{ALL}",
    "DeleteObjects": f"allow the credentials s3:DeleteObject on my-bucket/*{ALL}",
    "RegisterImage": f"allow the credentials ec2:RegisterImage, and ec2:CreateTags with --tag{ALL}",
    "DescribeImages": f"allow the credentials ec2:DescribeImages{ALL}",
    "DeregisterImage": f"allow the credentials ec2:DeregisterImage{ALL}",
    "GetCallerIdentity": f"allow the credentials sts:GetCallerIdentity{ALL}",
    "AssumeRole": f"allow the credentials sts:AssumeRole{ALL}",
    "AssumeRoleWithWebIdentity": f"allow the credentials sts:AssumeRoleWithWebIdentity{ALL}",
}


@pytest.mark.parametrize("operation", ALLOW)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_permission_that_is_missing(operation: str, played: Played) -> None:
    """Whatever is denied, the IAM actions that it needs are named."""
    service = REQUESTS[operation][0]
    code = "UnauthorizedOperation" if service == "ec2" else "AccessDenied"
    error = await played.ask(operation, Reply(status=403, body=error_body(service, code, "Access Denied")))
    assert (error.code, error.hint, error.transient) == (f"aws.{code}", ALLOW[operation], False)
    assert_private(error)


def operations_used() -> set[str]:
    """Name the operations that the service asks for, as its sources call them."""
    used = set()
    for path in Path(amistream.__file__).parent.glob("*/*.py"):
        if path.parent.name in ("aws", "stores"):
            used |= set(re.findall(r"client\.([a-z][a-z0-9_]+)\(", path.read_text()))
    return {"".join(word.capitalize() for word in name.split("_")) for name in used}


def test_every_operation_has_its_permission() -> None:
    """What the service asks of AWS is in the table of permissions, and all of those stand in the README's policy."""
    used = operations_used()
    assert len(used) > 12
    assert used <= set(NEEDS)
    assert set(ALLOW) == set(NEEDS) == set(REQUESTS)
    found = re.search(r"```json\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    assert found
    policy = {action for statement in json.loads(found[1])["Statement"] for action in statement["Action"]}
    of_others = {"CreateBucket", "DeleteBucket", "AssumeRole", "AssumeRoleWithWebIdentity"}
    needs = " ".join(needed for operation, needed in NEEDS.items() if operation not in of_others)
    assert set(re.findall(r"[a-z0-9]+:[A-Z]\w+", needs)) <= policy


# The same, refused by the endpoints that play AWS for the other tests.


async def _put_with_acl(s3: Any, bucket: str) -> Any:
    return await s3.put_object(Bucket=bucket, Key="k", Body=b"", ACL="aws-exec-read")


async def _put_elsewhere(s3: Any, bucket: str) -> Any:
    return await s3.put_object(Bucket=f"{bucket}-no", Key="k", Body=b"")


async def _put_damaged(s3: Any, bucket: str) -> Any:
    return await s3.put_object(Bucket=bucket, Key="k", Body=b"x", ChecksumSHA1="2jmj7l5rSw0yVb/vlWAYkK/YBwk=")


async def _put_twice(s3: Any, bucket: str) -> Any:
    await s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    return await s3.put_object(Bucket=bucket, Key="k", Body=b"x", IfNoneMatch="*")


async def _get_nothing(s3: Any, bucket: str) -> Any:
    return await s3.get_object(Bucket=bucket, Key="nothing")


async def _head_nothing(s3: Any, bucket: str) -> Any:
    return await s3.head_object(Bucket=bucket, Key="nothing")


async def _send_into_nothing(s3: Any, bucket: str) -> Any:
    return await s3.upload_part(Bucket=bucket, Key="k", UploadId="nothing", PartNumber=1, Body=b"x")


async def _complete(s3: Any, bucket: str, *tags: str) -> Any:
    """Complete an upload of two small chunks, under these ETags where any are given."""
    upload = {"Bucket": bucket, "Key": "k"}
    upload["UploadId"] = (await s3.create_multipart_upload(**upload))["UploadId"]
    real = [(await s3.upload_part(**upload, PartNumber=number, Body=b"x"))["ETag"] for number in (1, 2)]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags or real, 1)]
    try:
        return await s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    finally:
        await s3.abort_multipart_upload(**upload)


async def _complete_wrongly(s3: Any, bucket: str) -> Any:
    return await _complete(s3, bucket, f'"{"0" * 32}"', f'"{"1" * 32}"')


async def _ask_whether_to_register(ec2: Any, _: str) -> Any:
    return await ec2.register_image(**IMAGE, DryRun=True)


async def _register_twice(ec2: Any, bucket: str) -> Any:
    await ec2.register_image(Name=bucket, ImageLocation="b/image.manifest.xml")
    return await ec2.register_image(Name=bucket, ImageLocation="b/image.manifest.xml")


async def _look_for_nothing(ec2: Any, _: str) -> Any:
    return await ec2.describe_images(ImageIds=["ami-12345678"])


LIVE: tuple[tuple[str, str, str, Callable[[Any, str], Awaitable[Any]]], ...] = (
    ("NoSuchBucket", "moto_server", "s3", _put_elsewhere),
    ("NoSuchBucket", "ministack", "s3", _put_elsewhere),
    ("NoSuchBucket", "seaweedfs", "s3", _put_elsewhere),
    ("NoSuchKey", "moto_server", "s3", _get_nothing),
    ("NoSuchKey", "seaweedfs", "s3", _head_nothing),
    ("NoSuchUpload", "seaweedfs", "s3", _send_into_nothing),
    ("PreconditionFailed", "moto_server", "s3", _put_twice),
    ("PreconditionFailed", "seaweedfs", "s3", _put_twice),
    ("EntityTooSmall", "moto_server", "s3", _complete),
    ("InvalidPart", "moto_server", "s3", _complete_wrongly),
    ("BadDigest", "seaweedfs", "s3", _put_damaged),
    ("AccessControlListNotSupported", "ministack", "s3", _put_with_acl),
    ("DryRunOperation", "moto_server", "ec2", _ask_whether_to_register),
    ("InvalidAMIID.NotFound", "moto_server", "ec2", _look_for_nothing),
    ("InvalidAMIName.Duplicate", "ministack", "ec2", _register_twice),
)


def as_quoted(error: StoreError) -> None:
    """Hold an error against what is quoted above for its code."""
    case = next(case for case in AT_AWS if f"aws.{case.code}" == error.code)
    assert (error.message, error.hint) == (case.message, case.hint)
    assert (error.field, error.transient) == (case.blames, case.transient)
    assert_private(error)


@pytest.mark.parametrize(("code", "where", "service", "provoke"), LIVE)
async def test_an_answer_of_an_endpoint(
    code: str,
    where: str,
    service: str,
    provoke: Callable[[Any, str], Awaitable[Any]],
    request: pytest.FixtureRequest,
    make_bucket: MakeBucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An endpoint that refuses by itself is told as AWS is."""
    endpoint: Endpoint = request.getfixturevalue(where)
    bucket = make_bucket(endpoint, acls=code != "AccessControlListNotSupported")
    async with own_client(endpoint, service, monkeypatch) as client:
        error = await failure(provoke(client, bucket))
    assert error.code == f"aws.{code}"
    as_quoted(error)


@pytest.mark.parametrize(
    ("code", "spoiled"),
    [("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"), ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID")],
)
async def test_wrong_credentials(
    code: str, spoiled: str, seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that are not the endpoint's own are told apart: the key, or its secret."""
    bucket = make_bucket(seaweedfs)
    async with own_client(seaweedfs, "s3", monkeypatch, **{spoiled: "wrongwrongwrong"}) as client:
        error = await failure(client.put_object(Bucket=bucket, Key="k", Body=b""))
    assert error.code == f"aws.{code}"
    as_quoted(error)


async def test_a_clock_that_is_off(
    seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was signed an hour ago is refused for the clock."""
    bucket = make_bucket(seaweedfs)
    then = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: then)
    async with own_client(seaweedfs, "s3", monkeypatch) as client:
        error = await failure(client.put_object(Bucket=bucket, Key="k", Body=b""))
    assert error.code == "aws.RequestTimeTooSkewed"
    as_quoted(error)


@asynccontextmanager
async def own_client(
    endpoint: Endpoint, service: str, monkeypatch: pytest.MonkeyPatch, **environ: str
) -> AsyncIterator[Any]:
    """One of our own clients for an endpoint, with its credentials or others."""
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    for name, value in {**endpoint.environ(), **environ}.items():
        monkeypatch.setenv(name, value)
    async with Aws(Settings()) as aws:
        yield await aws.client(service, endpoint.region, endpoint.url)


# What no server reports.

WITHOUT_SERVER: set[str] = set()


def provokes(row: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Note that the test provokes this row of the table."""

    def note(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        WITHOUT_SERVER.add(row)
        return test

    return note


async def put_to(url: str, **settings: Any) -> StoreError:
    async with Aws(Settings(**settings)) as aws:
        return await ask(aws, url, "PutObject")


def told(error: StoreError) -> tuple[str, str, str]:
    return error.code, error.message, error.hint


@provokes("credentials")
async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the ways to give some are named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    error = await put_to("http://127.0.0.1:1")
    assert told(error) == (
        "aws.credentials",
        "cannot do it: no AWS credentials were found",
        "give the daemon an instance role, a profile (AWS_PROFILE), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    )
    assert not error.transient


@provokes("broken_credentials")
async def test_credentials_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile whose program fails is told with what the program says, but for what looks secret."""
    config = tmp_path / "config"
    config.write_text(f"[profile web]\ncredential_process = sh -c 'echo no vault, token={TOKEN} >&2; exit 1'\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "web")
    error = await failure(aiobotocore.session.get_session().get_credentials())
    assert told(error) == (
        "aws.credentials",
        (
            "cannot do it: the AWS credentials cannot be had: Error when retrieving credentials from custom-process: "
            "no vault, [...]"
        ),
        "check the profile (AWS_PROFILE) and what it names; `aws sts get-caller-identity` tries the same",
    )
    assert not error.transient
    assert_private(error)


@provokes("region")
async def test_no_region() -> None:
    """Without a region the option for it is named."""
    error = await failure(aiobotocore.session.get_session().create_client("ec2").__aenter__())
    assert told(error) == ("aws.region", "cannot do it: no region is known", "give --region")
    assert error.field == "region"


@provokes("tls")
async def test_a_certificate_that_is_not_trusted(tls_authority: Authority) -> None:
    """A certificate of an authority that this machine does not know is refused, and how to trust it is told."""
    async with Canned(b"", tls=tls_authority.server_context()) as server:
        error = await put_to(server.url)
    assert told(error) == (
        "aws.tls",
        "cannot do it: the endpoint's certificate is not trusted (unable to get local issuer certificate)",
        "set AWS_CA_BUNDLE to the CA's certificate if the endpoint is your own",
    )
    assert (error.field, error.transient) == ("endpoint_url", False)


@provokes("no_tls")
async def test_an_endpoint_without_tls() -> None:
    """An https URL of an endpoint that speaks http is told from a certificate that is not trusted."""
    async with Canned(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        url = server.url.replace("http:", "https:")
        error = await put_to(url)
    assert told(error) == (
        "aws.tls",
        f"cannot do it: no TLS connection to {url}/my-bucket/image.part.00 comes about (wrong version number)",
        "check --endpoint-url: does it speak https?",
    )
    assert (error.field, error.transient) == ("endpoint_url", False)


@provokes("timeout")
async def test_no_answer() -> None:
    """An endpoint that takes the request and never answers is given up."""
    async with Canned(None) as server:
        error = await put_to(server.url, stall_timeout_s=0.2)
    assert told(error) == (
        "aws.timeout",
        "cannot do it: no answer in time",
        "check the network and --endpoint-url; stall_timeout_s sets how long to wait",
    )
    assert error.transient


@provokes("refused")
async def test_nothing_listens() -> None:
    """An endpoint that is down is named."""
    error = await put_to("http://127.0.0.1:1")
    assert told(error) == (
        "aws.unreachable",
        "cannot do it: nothing answers at http://127.0.0.1:1/my-bucket/image.part.00",
        "check --endpoint-url and whether the endpoint runs",
    )
    assert error.transient


@provokes("unresolved")
async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has no address is told from one that does not answer."""

    def look_up(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error = await put_to("http://s3.example.com")
    assert told(error) == (
        "aws.unreachable",
        "cannot do it: the name in http://s3.example.com/my-bucket/image.part.00 is not known",
        "check --endpoint-url and --region, and this machine's name servers (/etc/resolv.conf)",
    )
    assert error.transient


@provokes("broken_off")
@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<Ha", b"HTTP/1.1 200 OK\r\nContent-"],
    ids=["no reply", "half a body", "half a head"],
)
async def test_an_answer_that_breaks_off(reply: bytes) -> None:
    """A connection that ends in the middle is told as that, wherever it ends."""
    async with Canned(reply) as server:
        error = await put_to(server.url)
    assert told(error) == (
        "aws.unreachable",
        (
            f"cannot do it: the connection to {server.url}/my-bucket/image.part.00 broke off (closed before the whole "
            "answer came)"
        ),
        "check the network, and proxies between here and --endpoint-url",
    )
    assert error.transient


async def test_a_reset(ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """A connection that is reset is told as one that broke off."""
    url = make_proxy(ministack, Fault(action=Reset(after=0), times=None)).url
    error = await put_to(url)
    assert (
        error.message
        == f"cannot do it: the connection to {url}/my-bucket/image.part.00 broke off (Connection reset by peer)"
    )


@provokes("unreachable")
async def test_a_network_without_a_way() -> None:
    """An address to which no way leads is told with the system's own words."""
    error = await put_to("http://255.255.255.255")
    assert told(error) == (
        "aws.unreachable",
        "cannot do it: http://255.255.255.255/my-bucket/image.part.00 cannot be reached (Network is unreachable)",
        "check the network, the proxy settings and --endpoint-url",
    )
    assert error.transient


@provokes("proxy")
async def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is blamed and not the endpoint, and its password stays out."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://user:password@127.0.0.1:1")
    error = await put_to("http://s3.example.com")
    assert told(error) == (
        "aws.unreachable",
        "cannot do it: the proxy does not answer",
        "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY in the daemon's environment",
    )
    assert error.transient


@provokes("unreadable")
@pytest.mark.parametrize("operation", ["DescribeImages", "GetCallerIdentity"])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_in_another_language(operation: str, played: Played) -> None:
    """A page where XML should be is told as that, and is not repeated in the message."""
    error = await played.ask(operation, Reply(status=200, body="<!DOCTYPE html><p>Sign in, please"))
    assert told(error) == (
        "aws.unreadable",
        "cannot do it: the answer is not in the service's language",
        "check --endpoint-url, and proxies that answer in its place",
    )
    assert error.transient


@provokes("sdk")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_the_sdk_refuses(played: Played) -> None:
    """A wrong argument is named without its value, which could be payload."""
    error = await ask(played.aws, played.server.url, "PutObject", Body=["payload"])
    assert told(error) == ("aws.sdk", "cannot do it: Invalid type for parameter Body", "")
    assert not error.transient


def test_every_row_is_provoked() -> None:
    """Nobody adds a row without a test that meets it, and none is quoted that has no row."""
    met = {code for case in AT_AWS for code in (case.code, *case.also)}
    assert {code for code in met if code not in TABLE and f"{code.partition('.')[0]}.*" not in TABLE} == set()
    met |= {f"{code.partition('.')[0]}.*" for code in met}
    assert set(TABLE) - met == WITHOUT_SERVER
