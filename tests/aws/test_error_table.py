"""Every row of the error table, provoked once through a real client.

Code, field and `transient` stand here. Messages and hints stand in one file, for reading in a review; after a change of
words write it again with `GOLDEN=write pytest tests/aws/test_error_table.py`.
Where one of the endpoints refuses by itself, it is asked; else a server answers in AWS's form; failures that no server
reports are made for real.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiobotocore.session
import botocore.session
import pytest
import pytest_asyncio

import amistream
from amistream.aws.error_table import NEEDS, TABLE
from amistream.aws.messaging_errors import MESSAGING_NEEDS, RENAMED
from amistream.aws.session import Aws
from amistream.aws.translate import asking, wanted
from amistream.errors import StoreError
from amistream.settings import Settings
from aws.canned import ACCESS_KEY, CANONICAL, ENCODED, PRIVATE, SIGNATURE, TO_SIGN, TOKEN, Canned, Reply, error_body
from aws.ebs_answers import EBS_ANSWERS, EBS_REQUESTS, EBS_SYNONYMS
from aws.messaging_answers import (
    ELSEWHERE,
    MESSAGING_ANSWERS,
    MESSAGING_REQUESTS,
    MESSAGING_SYNONYMS,
    QUERY_CODES,
)
from support.proxy import Fault, Reset

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.tls import Authority

GOLDEN = Path(__file__).with_name("error_table.golden.json")
BUCKET = "my-bucket"
KEY = {"Bucket": BUCKET, "Key": "image.part.00"}
UPLOAD = {**KEY, "UploadId": "VXBsb2FkSUQ"}
IMAGE = {"Name": "web", "ImageLocation": f"{BUCKET}/image.manifest.xml"}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "HeadBucket": ("s3", {"Bucket": BUCKET}),
    "GetBucketVersioning": ("s3", {"Bucket": BUCKET}),
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
    **EBS_REQUESTS,
    **MESSAGING_REQUESTS,
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
        async with asking("do it", bucket=BUCKET):
            answer = await call
    except StoreError as error:
        return error
    raise AssertionError(f"it went well: {answer}")


def assert_private(error: StoreError) -> None:
    """Assert that the error shows no part of a credential, a signed request or AWS's own ids."""
    shown = f"{error.message}\n{error.hint}"
    for secret in (*PRIVATE, *TO_SIGN.splitlines(), *filter(None, CANONICAL.splitlines()[3:])):
        assert secret not in shown


@dataclass(frozen=True)
class Case:
    """An answer of AWS, and the properties of our error for it."""

    code: str
    operation: str
    status: int
    transient: bool
    blames: str
    words: str


def as_golden(name: str, error: StoreError, **hidden: str) -> None:
    """Hold message and hint against the golden file; `hidden` are names for what changes from run to run."""
    said = [error.message, error.hint]
    for shown, text in hidden.items():
        said = [each.replace(text, shown) for each in said]
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(json.dumps({**json.loads(GOLDEN.read_text()), name: said}, indent=1, sort_keys=True) + "\n")
    assert said == json.loads(GOLDEN.read_text())[name]
    assert_private(error)


ANSWERS = f"""\
AccessDenied PutObject 403 no - Access Denied
UnauthorizedOperation RegisterImage 403 no - Encoded authorization failure message: {ENCODED}
AllAccessDisabled ListObjectsV2 403 no destinations All access to this object has been disabled
OptInRequired RegisterImage 401 no - You are not subscribed to this service.
AccountProblem PutObject 403 no - There is a problem with your AWS account.
AccessControlListNotSupported PutObject 400 no destinations The bucket does not allow ACLs
KMS.DisabledException PutObject 400 no destinations arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c is disabled.
NoSuchBucket PutObject 404 no destinations The specified bucket does not exist
InvalidBucketName ListObjectsV2 400 no destinations The specified bucket is not valid.
PermanentRedirect PutObject 301 no region The bucket you are attempting to access must be addressed elsewhere.
AuthorizationHeaderMalformed PutObject 400 no region The authorization header is malformed; the region is wrong
IllegalLocationConstraintException PutObject 400 no region The me-south-1 location constraint is incompatible.
TemporaryRedirect DeleteObject 307 again - Please re-send this request to the specified temporary endpoint
BadRequest HeadObject 400 no -
InvalidArgument PutObject 400 no - Argument x-amz-acl is not valid
NotImplemented PutObject 501 no - A header you provided implies functionality that is not implemented
MethodNotAllowed PutObject 405 no - The specified method is not allowed against this resource.
InvalidAction RegisterImage 400 no - The action RegisterImage is not valid for this web service.
NoSuchKey GetObject 404 no - The specified key does not exist.
NoSuchUpload UploadPart 404 no - The specified upload does not exist
PreconditionFailed PutObject 412 no destinations At least one of the pre-conditions you specified did not hold
ConditionalRequestConflict PutObject 409 again - The conditional request cannot succeed now.
EntityTooSmall CompleteMultipartUpload 400 no - Your proposed upload is smaller than the minimum allowed size
EntityTooLarge PutObject 400 no part_size Your proposed upload exceeds the maximum allowed size
InvalidPart CompleteMultipartUpload 400 no - One or more of the specified parts could not be found
BadDigest PutObject 400 again - The SHA1 you specified did not match the calculated checksum.
RequestTimeTooSkewed PutObject 403 no - The difference between the request time and the current time is too large.
RequestExpired RegisterImage 400 no - Request has expired.
ExpiredToken PutObject 400 again - The provided token has expired.
ExpiredTokenException GetCallerIdentity 403 again - The security token included in the request is expired
InvalidAccessKeyId PutObject 403 no - The AWS Access Key Id you provided does not exist in our records.
InvalidToken PutObject 400 no - The provided token is malformed or otherwise invalid.
InvalidClientTokenId GetCallerIdentity 403 no - The security token included in the request is invalid.
SignatureDoesNotMatch PutObject 403 no - The request signature we calculated does not match the signature you provided
AuthFailure DescribeImages 401 no - AWS was not able to validate the provided access credentials
IncompleteSignature GetCallerIdentity 403 no - Authorization=Credential={ACCESS_KEY}, Signature={SIGNATURE}
RegionDisabledException GetCallerIdentity 403 no region STS is not activated in this region for account:123456789012.
InvalidIdentityToken AssumeRoleWithWebIdentity 400 no - No OpenIDConnect provider found in your account
IDPCommunicationError AssumeRoleWithWebIdentity 400 again - Couldn't retrieve verification key
SlowDown PutObject 503 again - Please reduce your request rate.
RequestLimitExceeded DescribeImages 503 again - Request limit exceeded.
InternalError PutObject 500 again - We encountered an internal error
ServiceUnavailable RegisterImage 503 again - The server is overloaded and can't handle the request.
RequestTimeout PutObject 400 again - Your socket connection to the server was not read from in time
InvalidAMIName.Duplicate RegisterImage 400 no ami_name AMI name web is already in use by AMI ami-12345678
InvalidAMIName.Malformed RegisterImage 400 no ami_name AMI names must be between 3 and 128 characters long
InvalidManifest RegisterImage 400 no - Invalid device name xvda
InvalidAMIID.NotFound DeregisterImage 400 no - The image id '[ami-12345678]' does not exist
InvalidBlockDeviceMapping RegisterImage 400 no block_device_mappings The device 'sdb' is used twice.
InvalidParameterCombination RegisterImage 400 no - Enhanced networking is only supported on HVM images
UnsupportedOperation RegisterImage 400 no region Instance store-backed AMIs are not supported in this region.
DryRunOperation RegisterImage 412 no - Request would have succeeded, but DryRun flag is set.
{EBS_ANSWERS}{MESSAGING_ANSWERS}"""
"""Code, operation, status, whether a repeat may help, the field at fault, and the words of AWS."""
SYNONYMS = {
    "OptInRequired": "Blocked PendingVerification",
    "InvalidArgument": "InvalidRequest",
    "AccountProblem": "NotSignedUp",
    "KMS.DisabledException": "KMS.NotFoundException KMS.KMSInvalidStateException",
    "ConditionalRequestConflict": "OperationAborted",
    "InvalidPart": "InvalidPartOrder",
    "BadDigest": "IncompleteBody InvalidDigest XAmzContentChecksumMismatch XAmzContentSHA256Mismatch",
    "IncompleteSignature": "MissingAuthenticationToken MissingSecurityHeader IncompleteSignatureException "
    "MissingAuthenticationTokenException",
    "RequestLimitExceeded": "EC2ThrottledException Throttling ThrottlingException RequestThrottled TooManyRequests",
    "InternalError": "InternalFailure InternalServerException",
    "ServiceUnavailable": "Unavailable BadGateway GatewayTimeout",
    "RequestTimeout": "RequestTimeoutException",
    "InvalidAMIID.NotFound": "InvalidAMIID.Unavailable InvalidAMIID.Malformed",
    "InvalidParameterCombination": "InvalidParameter InvalidParameterValue MissingParameter ValidationError",
    "UnsupportedOperation": "Unsupported",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
    **EBS_SYNONYMS,
    **MESSAGING_SYNONYMS,
}
"""Further codes of the same row."""
BESIDE: dict[str, dict[str, str]] = {
    "AuthorizationHeaderMalformed": {"Region": "eu-central-1"},
    "ExpiredToken": {"Token-0": TOKEN},
    "InvalidAccessKeyId": {"AWSAccessKeyId": ACCESS_KEY},
    "InvalidToken": {"Token-0": TOKEN},
    "SignatureDoesNotMatch": {
        "AWSAccessKeyId": ACCESS_KEY,
        "StringToSign": TO_SIGN,
        "SignatureProvided": SIGNATURE,
        "StringToSignBytes": TO_SIGN.encode().hex(" "),
        "CanonicalRequest": CANONICAL,
        "CanonicalRequestBytes": CANONICAL.encode().hex(" "),
    },
}
"""Elements that S3 adds to the answer."""
REGION_HEADER = {"PermanentRedirect": "eu-central-1", "TemporaryRedirect": "eu-west-1"}


def case_of(line: str) -> Case:
    code, operation, status, again, blames, *words = line.split(" ", 5)
    return Case(code, operation, int(status), again == "again", blames.strip("-"), "".join(words))


AT_AWS = {case.code: case for case in map(case_of, ANSWERS.splitlines())}


@pytest.mark.parametrize(
    ("code", "row"), [(code, row) for row in AT_AWS for code in (row, *SYNONYMS.get(row, "").split())]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_of_aws(code: str, row: str, played: Played) -> None:
    """An error of AWS becomes its cause, its code and a hint, without anything secret that stands beside it."""
    case = AT_AWS[row]
    body = error_body(REQUESTS[case.operation][0], code, case.words, **BESIDE.get(code, {}))
    headers = {"x-amz-bucket-region": REGION_HEADER[code]} if code in REGION_HEADER else {}
    if code in QUERY_CODES:
        headers["x-amzn-query-error"] = f"{QUERY_CODES[code]};Sender"
    error = await played.ask(case.operation, Reply(status=case.status, body=body, headers=headers))
    assert (error.code, error.field, error.transient) == (f"aws.{code}", case.blames, case.transient)
    as_golden(row, error, **({} if code == row else {f"({row})": f"({code})"}))


@pytest.mark.parametrize("line", ELSEWHERE.splitlines())
@pytest.mark.asyncio(loop_scope="module")
async def test_a_word_of_two_services(line: str, played: Played) -> None:
    """A code that means something else in another service gets the cause and the fix of its own."""
    operation, code, status, named, blames = line.split()
    body = error_body(REQUESTS[operation][0], code, "It is not there.")
    error = await played.ask(operation, Reply(status=int(status), body=body))
    assert (error.code, error.field) == (f"aws.{named}", blames.strip("-"))
    as_golden(f"{operation} {code}", error)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_permission_in_small_letters(played: Played) -> None:
    """The hint for a request that SQS denies writes the action as policies do."""
    said = "User: u is not authorized to perform: sqs:receivemessage on resource: r"
    error = await played.ask("ReceiveMessage", Reply(status=403, body=error_body("sqs", "AccessDenied", said)))
    assert "sqs:ReceiveMessage on the queue" in error.hint


@pytest.mark.parametrize("operation", REQUESTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_permission_that_is_missing(operation: str, played: Played) -> None:
    """The hint for a denied operation names the IAM actions that it needs."""
    service = REQUESTS[operation][0]
    codes = {"ec2": "UnauthorizedOperation", "sns": "AuthorizationError"}
    code = codes.get(service, "AccessDeniedException" if service in {"ebs", "events"} else "AccessDenied")
    error = await played.ask(operation, Reply(status=403, body=error_body(service, code, "Access Denied")))
    assert (error.code, error.transient) == (f"aws.{code}", False)
    as_golden(f"denied {operation}", error)


def operations_used() -> set[str]:
    """Name the operations that the service asks for, as its sources call them."""
    used = set()
    for room in ("aws", "stores"):
        for path in Path(amistream.__file__).with_name(room).rglob("*.py"):
            used |= set(re.findall(r"client\.([a-z][a-z0-9_]+)\(", path.read_text()))
    return {"".join(word.capitalize() for word in name.split("_")) for name in used}


def test_every_operation_has_its_permission() -> None:
    """Every operation that the service calls has its IAM actions in the table and in the policy of the manual."""
    used = operations_used()
    assert len(used) > 12
    assert used <= set(NEEDS)
    assert set(NEEDS) == set(REQUESTS)
    found = re.search(
        r"```json\n(.*?)```", (Path(__file__).parents[2] / "docs" / "permissions.md").read_text(), re.DOTALL
    )
    assert found
    policy = {action for statement in json.loads(found[1])["Statement"] for action in statement["Action"]}
    of_others = {"CreateBucket", "DeleteBucket", "AssumeRole", "AssumeRoleWithWebIdentity", *MESSAGING_NEEDS}
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


def as_of_aws(error: StoreError, code: str) -> None:
    """Assert that the error is the one that AWS's own answer of this code leads to."""
    case = AT_AWS[code]
    assert (error.code, error.field, error.transient) == (f"aws.{code}", case.blames, case.transient)
    as_golden(code, error)


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
    """A refusal by one of the endpoints reads like that of AWS."""
    endpoint: Endpoint = request.getfixturevalue(where)
    bucket = make_bucket(endpoint, acls=code != "AccessControlListNotSupported")
    async with own_client(endpoint, service, monkeypatch) as client:
        error = await failure(provoke(client, bucket))
    as_of_aws(error, code)


@pytest.mark.parametrize(
    ("code", "spoiled"),
    [("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"), ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID")],
)
async def test_wrong_credentials(
    code: str, spoiled: str, seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error for foreign credentials blames the access key or its secret."""
    bucket = make_bucket(seaweedfs)
    async with own_client(seaweedfs, "s3", monkeypatch, **{spoiled: "wrongwrongwrong"}) as client:
        error = await failure(client.put_object(Bucket=bucket, Key="k", Body=b""))
    as_of_aws(error, code)


async def test_a_clock_that_is_off(
    seaweedfs: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was signed an hour ago is refused for the clock."""
    bucket = make_bucket(seaweedfs)
    then = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: then)
    async with own_client(seaweedfs, "s3", monkeypatch) as client:
        error = await failure(client.put_object(Bucket=bucket, Key="k", Body=b""))
    as_of_aws(error, "RequestTimeTooSkewed")


@asynccontextmanager
async def own_client(
    endpoint: Endpoint, service: str, monkeypatch: pytest.MonkeyPatch, **environ: str
) -> AsyncIterator[Any]:
    """The service's own client for an endpoint, with its credentials or others."""
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


def as_without_server(
    row: str, error: StoreError, code: str, *, blames: str = "", transient: bool = False, **hidden: str
) -> None:
    assert (error.code, error.field, error.transient) == (code, blames, transient)
    as_golden(f"without a server: {row}", error, **hidden)


async def put_to(url: str, **settings: Any) -> StoreError:
    async with Aws(Settings(**settings)) as aws:
        return await ask(aws, url, "PutObject")


@provokes("credentials")
async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the ways to give some are named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    error = await put_to("http://127.0.0.1:1")
    as_without_server("credentials", error, "aws.credentials")


@provokes("broken_credentials")
async def test_credentials_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a profile whose program fails names it, without its words, which may hold secrets."""
    config = tmp_path / "config"
    config.write_text(f"[profile web]\ncredential_process = sh -c 'echo no vault, token={TOKEN} >&2; exit 1'\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "web")
    error = await failure(put_to("http://127.0.0.1:1"))
    as_without_server("broken_credentials", error, "aws.credentials", CONFIG=str(config))


@provokes("configuration")
async def test_configuration_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in another format is named with its line, and the line, which may hold a key, is not shown."""
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = eu-west-1\n{ENCODED}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    error = await failure(put_to("http://127.0.0.1:1"))
    as_without_server("configuration", error, "aws.credentials", CONFIG=str(config))


@provokes("region")
async def test_no_region() -> None:
    """Without a region the option for it is named."""
    error = await failure(aiobotocore.session.get_session().create_client("ec2").__aenter__())
    as_without_server("region", error, "aws.region", blames="region")


@provokes("tls")
async def test_a_certificate_that_is_not_trusted(tls_authority: Authority) -> None:
    """A certificate of an unknown authority is refused, and the hint shows how to trust it."""
    async with Canned(b"", tls=tls_authority.server_context()) as server:
        error = await put_to(server.url)
    as_without_server("tls", error, "aws.tls", blames="endpoint_url")


@provokes("no_tls")
async def test_an_endpoint_without_tls() -> None:
    """An https URL of an endpoint that speaks http is not mistaken for an untrusted certificate."""
    async with Canned(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        url = server.url.replace("http:", "https:")
        error = await put_to(url)
    as_without_server("no_tls", error, "aws.tls", blames="endpoint_url", ENDPOINT=url)


@provokes("timeout")
async def test_no_answer() -> None:
    """An endpoint that takes the request and never answers is given up."""
    async with Canned(None) as server:
        error = await put_to(server.url, stall_timeout_s=0.2)
    as_without_server("timeout", error, "aws.timeout", transient=True)


@provokes("refused")
async def test_nothing_listens() -> None:
    """An endpoint that is down is named."""
    error = await put_to("http://127.0.0.1:1")
    as_without_server("refused", error, "aws.unreachable", transient=True)


@provokes("unresolved")
async def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without an address is not mistaken for one that does not answer."""

    def look_up(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    error = await put_to("http://s3.example.com")
    as_without_server("unresolved", error, "aws.unreachable", transient=True)


@provokes("broken_off")
@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<Ha", b"HTTP/1.1 200 OK\r\nContent-"],
    ids=["no reply", "half a body", "half a head"],
)
async def test_an_answer_that_breaks_off(reply: bytes) -> None:
    """A connection that ends anywhere in an answer is reported as broken."""
    async with Canned(reply) as server:
        error = await put_to(server.url)
    as_without_server("broken_off", error, "aws.unreachable", transient=True, ENDPOINT=server.url)


async def test_a_reset(ministack: Endpoint, make_proxy: MakeProxy) -> None:
    """A connection that is reset is reported as broken."""
    url = make_proxy(ministack, Fault(action=Reset(after=0), times=None)).url
    error = await put_to(url)
    assert (
        error.message
        == f"cannot do it: the connection to {url}/my-bucket/image.part.00 was lost (Connection reset by peer)"
    )


@provokes("unreachable")
async def test_a_network_without_a_way() -> None:
    """An unreachable address is reported in the system's own words."""
    error = await put_to("http://255.255.255.255")
    as_without_server("unreachable", error, "aws.unreachable", transient=True)


@provokes("proxy")
async def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is blamed and not the endpoint, and its password stays out."""
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://user:password@127.0.0.1:1")
    error = await put_to("http://s3.example.com")
    as_without_server("proxy", error, "aws.unreachable", transient=True)


@provokes("ProxyAuthenticationRequired")
@provokes("proxy_forbids")
@provokes("proxy_failed")
@pytest.mark.parametrize(
    ("answer", "row", "code", "transient"),
    [
        ("407 Proxy Authentication Required", "ProxyAuthenticationRequired", "ProxyAuthenticationRequired", False),
        ("403 Forbidden", "proxy_forbids", "proxy", False),
        ("503 Service Unavailable", "proxy_failed", "unreachable", True),
    ],
)
async def test_a_proxy_that_does_not_connect(
    answer: str, row: str, code: str, transient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that wants a password, forbids the host, or cannot reach it, is told from one that is down."""
    for name in ("no_proxy", "NO_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with Canned(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        error = await put_to("https://s3.example.com")
    as_without_server(row, error, f"aws.{code}", transient=transient)


@provokes("unsendable")
async def test_a_request_that_cannot_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that fails on this side is not reported as an endpoint that is away."""
    session = aiobotocore.session.get_session()
    async with session.create_client("s3", "eu-west-1", verify=str(tmp_path / "absent")) as client:
        error = await failure(client.list_buckets())
    as_without_server("unsendable", error, "aws.unsendable")


@provokes("unreadable")
@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("DescribeImages", "<!DOCTYPE html><p>Sign in, please"),
        ("GetCallerIdentity", "<!DOCTYPE html><p>Sign in, please"),
        ("GetCallerIdentity", "<html/>"),
        ("ListObjectsV2", "<ListBucketResult><Contents><Size>large</Size></Contents></ListBucketResult>"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_in_another_language(operation: str, body: str, played: Played) -> None:
    """A web page in place of XML, or text in place of a number, is reported, and not repeated in the message."""
    error = await played.ask(operation, Reply(status=200, body=body))
    as_without_server("unreadable", error, "aws.unreadable", transient=True)


@provokes("incomplete")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_success_without_its_content(played: Played) -> None:
    """A value that every right reply has, and this one not, is named; also in a reply that the SDK reads for itself."""
    body = "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>"
    error = await played.ask("AssumeRole", Reply(status=200, body=body))
    assert (error.code, "no Credentials" in error.message) == ("aws.unreadable", True)

    async def read() -> Any:
        return wanted({"CopyObjectResult": {}}, "CopyObjectResult", "ETag")

    as_without_server("incomplete", await failure(read()), "aws.unreadable", transient=True)


@provokes("sdk")
@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_the_sdk_refuses(played: Played) -> None:
    """A wrong argument is named without its value, which could be payload."""
    error = await ask(played.aws, played.server.url, "PutObject", Body=["payload"])
    as_without_server("sdk", error, "aws.sdk")


def test_every_error_of_ebs_has_a_row() -> None:
    """Every error and every reason of the SDK's model of the EBS direct APIs has a row of its own."""
    model = botocore.session.get_session().get_service_model("ebs")
    errors = {shape.name: shape for shape in model.error_shapes}
    codes = {*errors} | {
        f"{name}.{reason}"
        for name, shape in errors.items()
        if "Reason" in shape.members
        for reason in shape.members["Reason"].enum
    }
    assert len(codes) > 30
    assert codes - TABLE.keys() == set()
    statuses = {case.code.partition(".")[0]: case.status for case in AT_AWS.values()}
    statuses["InternalServerException"] = AT_AWS["InternalError"].status
    assert {name: statuses[name] for name in errors} == {
        name: shape.metadata["error"]["httpStatusCode"] for name, shape in errors.items()
    }


def test_every_row_is_provoked() -> None:
    """Every row of the table is met by a test here, and every code here has a row."""
    met = {code for row in AT_AWS for code in (row, *SYNONYMS.get(row, "").split())}
    assert {code for code in met if code not in TABLE and f"{code.partition('.')[0]}.*" not in TABLE} == set()
    met |= {f"{code.partition('.')[0]}.*" for code in met} | {*RENAMED.values()}
    assert set(TABLE) - met == WITHOUT_SERVER
