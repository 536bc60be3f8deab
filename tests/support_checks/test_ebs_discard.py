"""The EBS double takes puts the fast way when it discards, and answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.ebs_endpoint import BLOCK, EbsEndpoint
from support_checks.ebs_client import linear, sha256

FAST = "0"
"""The id of a request that went the fast way."""


class OneConnection:
    """Requests that are signed by hand, all over one connection."""

    def __init__(self, endpoint: EbsEndpoint) -> None:
        self._endpoint = endpoint
        self._auth = SigV4Auth(Credentials(endpoint.access_key, endpoint.secret_key), "ebs", endpoint.region)
        self.connection = HTTPConnection(endpoint.url.removeprefix("http://"))

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> HTTPResponse:
        named = {f"x-amz-{name.replace('_', '-')}": value for name, value in headers.items()}
        request = AWSRequest(method=method, url=self._endpoint.url + path, data=body, headers=named)
        self._auth.add_auth(request)
        self.connection.request(method, path, body, dict(request.headers.items()))
        answer = self.connection.getresponse()
        answer.read()
        return answer

    def put(self, snapshot: str, index: int, data: bytes) -> HTTPResponse:
        return self.send(
            "PUT",
            f"/snapshots/{snapshot}/blocks/{index}",
            data,
            Checksum=sha256(data),
            Checksum_Algorithm="SHA256",
            Data_Length=str(BLOCK),
            content_sha256="UNSIGNED-PAYLOAD",
        )


@pytest.fixture
def one(ebs_endpoint: EbsEndpoint) -> Iterator[OneConnection]:
    ebs_endpoint.set(discard=True)
    made = OneConnection(ebs_endpoint)
    yield made
    made.connection.close()


@pytest.fixture
def snapshot(ebs_endpoint: EbsEndpoint) -> str:
    with ebs_endpoint.blocking_client("ebs") as ebs:
        return str(ebs.start_snapshot(VolumeSize=1)["SnapshotId"])


def test_fast(one: OneConnection, ebs_endpoint: EbsEndpoint, snapshot: str) -> None:
    """Blocks are counted and forgotten, and the completion that follows on the connection is checked."""
    blocks = {index: bytes([index]) * BLOCK for index in (2, 1)}
    for index, data in blocks.items():
        answer = one.put(snapshot, index, data)
        assert (answer.status, answer.headers["x-amzn-RequestId"]) == (201, FAST)
        assert answer.headers["x-amz-Checksum"] == sha256(data)
    state = ebs_endpoint.snapshot(snapshot)
    assert (state["puts"], state["distinct"], Path(state["file"]).stat().st_blocks) == (2, 2, 0)
    aggregate = {"Checksum_Algorithm": "SHA256", "Checksum_Aggregation_Method": "LINEAR"}
    place = f"/snapshots/completion/{snapshot}"
    wrong = hashlib.sha256(b"").hexdigest()
    assert one.send("POST", place, b"", ChangedBlocksCount="2", Checksum=wrong, **aggregate).status == 400
    assert one.send("POST", place, b"", ChangedBlocksCount="2", Checksum=linear(blocks), **aggregate).status == 202


@pytest.mark.parametrize(("index", "length"), [(2048, BLOCK), (0, BLOCK - 1), (0, BLOCK + 1), (0, 0)])
def test_refused(one: OneConnection, ebs_endpoint: EbsEndpoint, snapshot: str, index: int, length: int) -> None:
    """A put of another length or place is refused as ever, and one that is right passes after it."""
    answer = one.put(snapshot, index, bytes(length))
    assert answer.status == 400
    assert answer.headers["x-amzn-ErrorType"] == "ValidationException"
    assert one.put(snapshot, 0, bytes(BLOCK)).status == 201
    assert ebs_endpoint.snapshot(snapshot)["puts"] == 1


def test_cut_off(one: OneConnection, ebs_endpoint: EbsEndpoint, snapshot: str) -> None:
    """A put whose connection ends before its body is not counted, and holds up no completion."""
    one.connection.putrequest("PUT", f"/snapshots/{snapshot}/blocks/0", skip_accept_encoding=True)
    scope = f"{ebs_endpoint.access_key}/20260101/{ebs_endpoint.region}/ebs/aws4_request"
    for name, value in {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}",
        "Content-Length": str(BLOCK),
        "x-amz-Data-Length": str(BLOCK),
        "x-amz-Checksum": sha256(b""),
        "x-amz-Checksum-Algorithm": "SHA256",
    }.items():
        one.connection.putheader(name, value)
    one.connection.endheaders(b"some")
    with ebs_endpoint.blocking_client("ebs") as ebs:
        while ebs_endpoint.state()["counts"].get("PutSnapshotBlock", 0) == 0:
            pass
        one.connection.close()
        while ebs_endpoint.state()["in_flight"]:
            pass
        ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=0)


def test_faults(one: OneConnection, ebs_endpoint: EbsEndpoint, snapshot: str) -> None:
    """Faults and limits strike puts that are discarded."""
    ebs_endpoint.fault("PutSnapshotBlock", code="ThrottlingException", status=400)
    assert one.put(snapshot, 0, bytes(BLOCK)).headers["x-amzn-ErrorType"] == "ThrottlingException"
    ebs_endpoint.set(puts_per_second=1)
    assert [one.put(snapshot, 0, bytes(BLOCK)).status for _ in range(2)] == [201, 400]
