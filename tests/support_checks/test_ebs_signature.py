"""The EBS double takes only what its account signed, for it, now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from botocore import UNSIGNED
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.ebs_endpoint import EbsEndpoint, EbsServer
from support.endpoints import Endpoint
from support_checks.ebs_client import Writer, block, refusal, sha256

if TYPE_CHECKING:
    from conftest import MakeBucket


@pytest.fixture
def writer(ebs_endpoint: EbsEndpoint) -> Iterator[Writer]:
    with ebs_endpoint.blocking_client("ebs") as ebs:
        yield Writer(ebs)


@pytest.mark.parametrize(
    ("change", "ebs", "ec2"),
    [
        ({"secret_key": "wrong"}, "InvalidSignatureException", "SignatureDoesNotMatch"),
        ({"region": "us-east-1"}, "InvalidSignatureException", "SignatureDoesNotMatch"),
        ({"access_key": "AKIASTRANGER"}, "UnrecognizedClientException", "AuthFailure"),
    ],
    ids=str,
)
def test_signature(ebs_endpoint: EbsEndpoint, change: dict[str, Any], ebs: str, ec2: str) -> None:
    """A request that another key signed, or for another region, is refused."""
    bad: Endpoint = replace(ebs_endpoint, **change)
    with bad.blocking_client("ebs") as client:
        assert refusal(lambda: client.start_snapshot(VolumeSize=1)) == ebs
        assert refusal(lambda: Writer(client).put("snap-00000000", 0, block(0))) == ebs
    with bad.blocking_client("ec2") as client:
        assert refusal(client.describe_snapshots) == ec2
    assert ebs_endpoint.snapshots() == []


@pytest.mark.parametrize("skew", [-901, 901])
def test_skew(writer: Writer, ebs_endpoint: EbsEndpoint, skew: int) -> None:
    """A request that was signed more than 15 minutes ago, or will be, is refused."""
    ebs_endpoint.set(skew=skew)
    assert refusal(writer.start) == "InvalidSignatureException"
    ebs_endpoint.set(skew=skew // 2)
    writer.start()


def test_unsigned(ebs_endpoint: EbsEndpoint) -> None:
    """A request without a signature is refused in the words of its service."""
    with ebs_endpoint.blocking_client("ebs", signature_version=UNSIGNED) as client:
        assert refusal(lambda: client.start_snapshot(VolumeSize=1)) == "MissingAuthenticationTokenException"


def send(endpoint: EbsEndpoint, request: AWSRequest, **late: str) -> str:
    """Sign a request, add headers that are not signed, send it, and return the type of its error, or ''."""
    SigV4Auth(Credentials(endpoint.access_key, endpoint.secret_key), "ebs", endpoint.region).add_auth(request)
    connection = HTTPConnection(endpoint.url.removeprefix("http://"))
    headers = dict(request.headers.items()) | {name.replace("_", "-"): value for name, value in late.items()}
    connection.request(request.method, request.url.removeprefix(endpoint.url), request.data, headers)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply.headers.get("x-amzn-ErrorType", "")


def start(endpoint: EbsEndpoint, **headers: str) -> AWSRequest:
    url = f"{endpoint.url}/snapshots"
    return AWSRequest(method="POST", url=url, data=b'{"VolumeSize": 1}', headers=headers)


def test_by_hand(ebs_endpoint: EbsEndpoint) -> None:
    """The body and every x-amz header must be signed; only the body of a block need not."""
    refused = "InvalidSignatureException"
    assert send(ebs_endpoint, start(ebs_endpoint)) == ""
    assert send(ebs_endpoint, start(ebs_endpoint), x_amz_checksum="a") == refused
    assert send(ebs_endpoint, start(ebs_endpoint, **{"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})) == refused
    assert send(ebs_endpoint, start(ebs_endpoint), x_amz_content_sha256="0" * 64) == refused
    snapshot = ebs_endpoint.snapshots()[0]["id"]
    data = block(1)
    checked = {
        "x-amz-Data-Length": str(len(data)),
        "x-amz-Checksum-Algorithm": "SHA256",
        "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
    }

    def put(**headers: str) -> AWSRequest:
        url = f"{ebs_endpoint.url}/snapshots/{snapshot}/blocks/1"
        return AWSRequest(method="PUT", url=url, data=data, headers=checked | headers)

    assert send(ebs_endpoint, put(**{"x-amz-Checksum": sha256(data)})) == ""
    assert send(ebs_endpoint, put(), x_amz_Checksum=sha256(data)) == refused
    assert ebs_endpoint.snapshot(snapshot)["puts"] == 1


def test_accounts(
    ebs_endpoint: EbsEndpoint, ebs_server: EbsServer, seaweedfs: Endpoint, make_bucket: MakeBucket
) -> None:
    """Accounts do not see each other; one with the credentials of an S3 endpoint passes its requests on."""
    bucket, body = make_bucket(seaweedfs), bytes(range(256)) * 5000
    with ebs_server.account(like=seaweedfs) as other:
        with other.blocking_client("ebs") as ebs:
            snapshot = Writer(ebs).whole(0)
        assert [each["id"] for each in other.snapshots()] == [snapshot]
        assert ebs_endpoint.snapshots() == []
        with other.blocking_client() as s3:
            s3.put_object(Bucket=bucket, Key="a b/c", Body=body, ChecksumAlgorithm="CRC32")
            assert s3.head_object(Bucket=bucket, Key="a b/c")["ContentLength"] == len(body)
            s3.put_object(Bucket=bucket, Key="empty", Body=b"")
            assert refusal(lambda: s3.get_object(Bucket=bucket, Key="none")) == "NoSuchKey"
            s3.delete_object(Bucket=bucket, Key="empty")
    with seaweedfs.blocking_client() as s3:
        assert s3.get_object(Bucket=bucket, Key="a b/c")["Body"].read() == body
        assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b/c"]
