"""The translation of AWS's errors: the words that it uses, passes on, and holds back."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
    ProfileNotFound,
)

from amistream.aws.session import Aws
from amistream.aws.translate import error_code, http_status, translate
from amistream.settings import Settings
from aws.canned import ACCESS_KEY, CANONICAL, ENCODED, PRIVATE, SIGNATURE, TO_SIGN, TOKEN, Canned, Reply, error_body

USER = "User: arn:aws:sts::123456789012:assumed-role/bundler/i-0123 is not authorized to perform:"
KEY_ARN = "arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c-0000-4000-8000-000000000000"


def refused(
    code: str, words: str = "", *, status: int = 403, operation: str = "PutObject", **headers: str
) -> ClientError:
    """An SDK exception as it makes one of a reply."""
    response: Any = {
        "Error": {"Code": code, "Message": words},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return ClientError(response, operation)


def code_message_hint(error: Exception) -> tuple[str, str, str]:
    made = translate(error, "do it", bucket="b")
    return made.code, made.message, made.hint


def test_the_ids_of_the_request() -> None:
    """The error has the ids by which AWS support finds the request, and in every copy."""
    error = refused("SlowDown", status=503)
    error.response["ResponseMetadata"] |= {"RequestId": "4442587FB7D0A2F9", "HostId": "vUqsW+/=", "RetryAttempts": 0}
    made = translate(error, "do it")
    assert made.as_dict()["request_id"] == made.reworded(hint="x").request_id == "4442587FB7D0A2F9 vUqsW+/="
    error.response["ResponseMetadata"]["HostId"] = "<script>"
    assert translate(error, "do it").request_id == "4442587FB7D0A2F9"
    assert translate(refused("SlowDown"), "do it").request_id == ""


def test_a_reply_that_names_the_permission() -> None:
    """A newer reply names the one action that is missing, which beats what the operation needs in general."""
    words = f'{USER} s3:PutObjectAcl on resource: "arn:aws:s3:::b/k" because no identity-based policy allows the action'
    assert code_message_hint(refused("AccessDenied", words)) == (
        "aws.AccessDenied",
        "cannot do it: access is denied (AccessDenied)",
        "allow the credentials s3:PutObjectAcl; the IAM policy in docs/permissions.md has all permissions of a job",
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            f'{USER} s3:PutObject on resource: "arn:aws:s3:::b/k" with an explicit deny in a resource-based policy',
            (
                "resource-based policy denies s3:PutObject explicitly: change that policy, allowing it elsewhere has "
                "no effect"
            ),
        ),
        (
            f"{USER} ec2:RegisterImage on resource: * with an explicit deny in a service control policy",
            (
                "service control policy denies ec2:RegisterImage explicitly: change that policy, allowing it "
                "elsewhere has no effect"
            ),
        ),
        (
            f"{USER} s3:PutObject with an explicit deny",
            "a policy denies s3:PutObject explicitly: change that policy, allowing it elsewhere has no effect",
        ),
    ],
)
def test_a_permission_that_is_denied_explicitly(words: str, hint: str) -> None:
    """The hint for an explicit denial names the kind of policy, not an action to allow."""
    assert code_message_hint(refused("AccessDenied", words))[2] == hint


@pytest.mark.parametrize("action", ["kms:GenerateDataKey", "kms:Decrypt"])
def test_a_key_that_may_not_be_used(action: str) -> None:
    """A denial of KMS, which S3 reports as AccessDenied, is reported as one of KMS."""
    words = f"{USER} {action} on resource: {KEY_ARN} because no identity-based policy allows the {action} action"
    assert code_message_hint(refused("AccessDenied", words)) == (
        "aws.AccessDenied",
        (
            "cannot do it: the bucket encrypts with a KMS key that cannot be used, and EC2 cannot read bundles under "
            "KMS (AccessDenied)"
        ),
        (
            "aws s3api put-bucket-encryption --bucket b --server-side-encryption-configuration "
            '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\''
        ),
    )


def test_an_operation_without_a_row() -> None:
    """A denied operation that the table does not know is named itself."""
    hint = code_message_hint(refused("AccessDenied", "Access Denied", operation="PutBucketTagging"))[2]
    assert hint.startswith("allow the credentials the action PutBucketTagging; the IAM policy in docs/permissions.md")


@pytest.mark.parametrize(
    ("status", "operation", "code"),
    [
        (301, "HeadBucket", "PermanentRedirect"),
        (400, "HeadBucket", "BadRequest"),
        (403, "HeadBucket", "AccessDenied"),
        (404, "HeadBucket", "NoSuchBucket"),
        (404, "HeadObject", "NoSuchKey"),
        (412, "HeadObject", "PreconditionFailed"),
        (407, "PutObject", "ProxyAuthenticationRequired"),
        (429, "HeadObject", "TooManyRequests"),
        (500, "HeadObject", "InternalError"),
        (502, "PutObject", "BadGateway"),
        (503, "HeadObject", "ServiceUnavailable"),
        (504, "PutObject", "GatewayTimeout"),
    ],
)
async def test_a_reply_without_a_body(status: int, operation: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status stands for the code where there is none; what passes by itself is repeated."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with (
        Canned(Reply(status=status, headers={"x-amz-bucket-region": "eu-west-1"})) as server,
        Aws(Settings()) as aws,
    ):
        client = await aws.client("s3", "eu-west-1", server.url)
        key = {} if operation == "HeadBucket" else {"Key": "k"}
        method = {"HeadBucket": client.head_bucket, "HeadObject": client.head_object, "PutObject": client.put_object}
        with pytest.raises(ClientError) as caught:
            await method[operation](Bucket="b", **key)
    error = translate(caught.value, "do it")
    assert error.code == f"aws.{code}"
    assert error.message.endswith(f"({code})")
    assert error.transient == (status >= 429)


async def test_a_clock_that_is_off_where_no_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 cannot say in an answer to HEAD that the clock is off; its Date does."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    old = Reply(status=403, headers={"Date": "Thu, 01 Oct 2015 12:00:00 GMT"})
    async with Canned(old) as server, Aws(Settings()) as aws:
        client = await aws.client("s3", "eu-west-1", server.url)
        with pytest.raises(ClientError) as caught:
            await client.head_object(Bucket="b", Key="k")
    assert code_message_hint(caught.value) == (
        "aws.RequestTimeTooSkewed",
        "cannot do it: this machine's clock differs too much from AWS's (RequestTimeTooSkewed)",
        "set the clock: `chronyc makestep` or `timedatectl set-ntp true`",
    )


@pytest.mark.parametrize("shown", ["GMT", "no zone", "yesterday", ""])
def test_a_clock_that_is_right(shown: str) -> None:
    """A date near ours, or an unreadable one, does not blame the clock."""
    now = {"GMT": formatdate(usegmt=True), "no zone": formatdate()}
    assert error_code(refused("403", "Forbidden", date=now.get(shown, shown))) == "AccessDenied"


@pytest.mark.parametrize(
    "words", ["Signature expired: 20261122T1100Z is now earlier than", "Signature not yet current"]
)
def test_a_clock_that_sts_blames(words: str) -> None:
    """A wrong clock, which STS reports as a wrong signature, is not blamed on the secret key."""
    error = refused("SignatureDoesNotMatch", words, operation="GetCallerIdentity")
    assert code_message_hint(error)[0] == "aws.RequestTimeTooSkewed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Your bucket is full.", "Your bucket is full"),
        ("", "the answer was HTTP 418"),
        ("First line\nsecond line", "First line"),
        ("x" * 20 + " y" * 200, "x" * 20 + " y" * 140 + "..."),
    ],
)
def test_a_code_without_a_row(words: str, said: str) -> None:
    """An unknown error is reported in AWS's own words, shortened."""
    error = translate(refused("TeapotException", words, status=418), "do it")
    assert (error.code, error.message) == ("aws.TeapotException", f"cannot do it: {said} (TeapotException)")
    assert (error.hint, error.transient) == ("", False)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_without_a_row(status: int) -> None:
    """An error of the server's own is repeated, whatever it is called."""
    assert translate(refused("TeapotException", "Broken", status=status), "do it").transient


@pytest.mark.parametrize(
    "words",
    [
        f"The signature is wrong, Signature={SIGNATURE}",
        f"Credential={ACCESS_KEY}/20261122/us-east-1/s3/aws4_request is not known",
        f"The key {ACCESS_KEY} is not known",
        f"X-Amz-Security-Token: {TOKEN}",
        f"the token {TOKEN} is malformed",
        f"cannot get https://b.s3.amazonaws.com/k?X-Amz-Signature={SIGNATURE}&X-Amz-Credential={ACCESS_KEY}",
        f"cannot get https://{ACCESS_KEY}:{SIGNATURE}@example.com/",
        f"You are not authorized. Encoded authorization failure message: {ENCODED}",
        f"The request signature we calculated does not match.\n\nThe Canonical String should have been\n'{CANONICAL}'",
        f"The String-to-Sign should have been\n'{TO_SIGN}'",
        "the web token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl is too old",
    ],
)
@pytest.mark.parametrize("code", ["TeapotException", "InvalidManifest", "SignatureDoesNotMatch", "AccessDenied"])
def test_secrets_in_the_words_of_aws(code: str, words: str) -> None:
    """No key, token, signature or signed request is passed on, in which words ever it comes."""
    error = translate(refused(code, words), "do it", bucket="b")
    for secret in (*PRIVATE, "eyJzdWIi", "c2lnbmF0", *CANONICAL.splitlines()[3:4]):
        assert secret not in f"{error.message}\n{error.hint}"


async def test_the_signed_request_in_the_words_of_sts(monkeypatch: pytest.MonkeyPatch) -> None:
    """STS repeats the whole signed request, session token included, in its message; ours has none of it."""
    for name, value in (("ACCESS_KEY_ID", ACCESS_KEY), ("SECRET_ACCESS_KEY", "secret"), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    words = (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        f"Key and signing method. Consult the service documentation for details.\n\nThe Canonical String for this "
        f"request should have been\n'{CANONICAL}'\n\nThe String-to-Sign should have been\n'{TO_SIGN}'\n"
    )
    reply = Reply(status=403, body=error_body("sts", "SignatureDoesNotMatch", words))
    async with Canned(reply) as server, Aws(Settings()) as aws:
        client = await aws.client("sts", "eu-west-1", server.url)
        with pytest.raises(ClientError) as caught:
            await client.get_caller_identity()
    assert TOKEN in str(caught.value)
    assert code_message_hint(caught.value) == (
        "aws.SignatureDoesNotMatch",
        "cannot do it: the secret key does not match the access key (SignatureDoesNotMatch)",
        "check AWS_SECRET_ACCESS_KEY or the profile in use",
    )


async def test_an_error_in_a_reply_that_began_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 may answer 200 to a completion and then fail: that is an error, and one to be repeated."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    words = "We encountered an internal error. Please try again."
    reply = Reply(status=200, body=error_body("s3", "InternalError", words))
    async with Canned(reply) as server, Aws(Settings()) as aws:
        client = await aws.client("s3", "eu-west-1", server.url)
        with pytest.raises(ClientError) as caught:
            await client.complete_multipart_upload(
                Bucket="b", Key="k", UploadId="u", MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "e"}]}
            )
    error = translate(caught.value, "do it")
    assert (error.code, error.transient) == ("aws.InternalError", True)


@pytest.mark.parametrize(
    ("error", "code", "message", "transient"),
    [
        (
            EndpointConnectionError(endpoint_url="http://me:secret@h/b?uploadId=7", error=ConnectionRefusedError()),
            "aws.unreachable",
            "cannot do it: nothing answers at http://h/b",
            True,
        ),
        (
            EndpointConnectionError(endpoint_url="http://h/b", error=BrokenPipeError(32, "Broken pipe")),
            "aws.unreachable",
            "cannot do it: the connection to http://h/b was lost (Broken pipe)",
            True,
        ),
        (
            HTTPClientError(error=ValueError("the client's own trouble, token=7")),
            "aws.unsendable",
            "cannot do it: the request cannot be sent: the client's own trouble, [...]",
            False,
        ),
        (ConnectTimeoutError(endpoint_url="http://h"), "aws.timeout", "cannot do it: no answer in time", True),
        (TimeoutError(), "aws.timeout", "cannot do it: no answer in time", True),
        (
            ProfileNotFound(profile="web"),
            "aws.credentials",
            (
                "cannot do it: the configuration files of the AWS SDK cannot be used: The config profile (web) could "
                "not be found"
            ),
            False,
        ),
        (
            ParamValidationError(report="Invalid type for parameter Body, value: b'payload', type: x\nmore"),
            "aws.sdk",
            "cannot do it: Invalid type for parameter Body",
            False,
        ),
        (BotoCoreError(), "aws.sdk", "cannot do it: An unspecified error occurred", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_sdk_raises_by_itself(error: Exception, code: str, message: str, transient: bool) -> None:
    """Failures that no server reported are named by their cause."""
    made = translate(error, "do it")
    assert (made.code, made.message, made.transient) == (code, message, transient)


def test_what_is_none_of_the_sdk() -> None:
    """A bug is not made an error of AWS, and has neither its code nor its status."""
    with pytest.raises(KeyError):
        translate(KeyError("bug"), "do it")
    assert (error_code(KeyError("bug")), http_status(KeyError("bug"))) == ("", 0)
