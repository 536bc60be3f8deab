"""The rules of the EBS direct APIs, each broken once: by the strict double and by moto, which has few of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.ebs_endpoint import BLOCK, read_back
from support.endpoints import Endpoint
from support_checks.ebs_client import Writer, block, refusal, sha256

UNKNOWN = "snap-0123456789abcdef0"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-4111-8111-111111111111"
TOKEN = "bm8gdG9rZW4="
PENDING = "ValidationException/INVALID_SNAPSHOT_ID"
SIZE = "ValidationException/INVALID_VOLUME_SIZE"
BLOCKED = "ValidationException/INVALID_BLOCK"
TAG = "ValidationException/INVALID_TAG"
NO_SNAPSHOT = "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"
PAGE_TOKEN = "ValidationException/INVALID_PAGE_TOKEN"
BLOCK_TOKEN = "ValidationException/INVALID_BLOCK_TOKEN"
VALUE = "ValidationException/INVALID_PARAMETER_VALUE"
UNPARSED = "500"
"""Moto's answer where it fails itself."""


@dataclass(frozen=True)
class Rule:
    """A request that breaks one rule, the double's refusal, and moto's (None: it takes the request)."""

    name: str
    request: Callable[[Writer], object]
    refusal: str
    moto: str | None = None


def pending(writer: Writer) -> str:
    snapshot = writer.start()
    writer.put(snapshot, 3, block(3))
    return snapshot


def completed(writer: Writer) -> str:
    return writer.whole(3)


def start_twice(writer: Writer) -> object:
    writer.start(ClientToken="one")
    return writer.start(ClientToken="one", VolumeSize=2)


def complete_twice(writer: Writer) -> object:
    return writer.complete(completed(writer))


def put_into(writer: Writer, data: bytes, index: int = 0, **other: object) -> object:
    return writer.put(writer.start(), index, data, **other)


def listed(writer: Writer, snapshot: str, **words: object) -> object:
    return writer.ebs.list_snapshot_blocks(SnapshotId=snapshot, **words)


def unrelated(writer: Writer) -> object:
    first, second = completed(writer), completed(writer)
    return writer.ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)


def token_of_another(writer: Writer) -> object:
    snapshot = writer.whole(3, 4)
    return writer.get(snapshot, 4, writer.tokens(snapshot)[3])


def child(writer: Writer, **words: object) -> object:
    return writer.start(ParentSnapshotId=completed(writer), **words)


ZERO = bytes(BLOCK)
RULES = (
    Rule("no size", lambda w: w.start(VolumeSize=0), SIZE),
    Rule("size over 64 TiB", lambda w: w.start(VolumeSize=65537), SIZE),
    Rule("Timeout below 10", lambda w: w.start(Timeout=9), VALUE),
    Rule("Timeout over 4320", lambda w: w.start(Timeout=4321), VALUE),
    Rule("long description", lambda w: w.start(Description="d" * 256), VALUE),
    Rule("long client token", lambda w: w.start(ClientToken="t" * 65), VALUE),
    Rule("client token with a space", lambda w: w.start(ClientToken="a b"), VALUE),
    Rule("same client token, other words", start_twice, "ConflictException"),
    Rule("tag of AWS", lambda w: w.start(Tags=[{"Key": "aws:a", "Value": ""}]), TAG),
    Rule(
        "51 tags",
        lambda w: w.start(Tags=[{"Key": f"{n}", "Value": ""} for n in range(51)]),
        TAG,
        "TagLimitExceeded",
    ),
    Rule("key without Encrypted", lambda w: w.start(KmsKeyArn=KEY), VALUE),
    Rule(
        "key that is no ARN",
        lambda w: w.start(Encrypted=True, KmsKeyArn="alias/a"),
        "ValidationException/INVALID_CUSTOMER_KEY",
    ),
    Rule("Encrypted with a parent", lambda w: child(w, Encrypted=True), VALUE),
    Rule("volume below the parent's", lambda w: w.start(ParentSnapshotId=w.whole(0, VolumeSize=2)), SIZE),
    Rule("unknown parent", lambda w: w.start(ParentSnapshotId=UNKNOWN), NO_SNAPSHOT),
    Rule("pending parent", lambda w: w.start(ParentSnapshotId=pending(w)), PENDING),
    Rule("short block", lambda w: put_into(w, ZERO[:-1], DataLength=BLOCK), BLOCKED),
    Rule("long block", lambda w: put_into(w, ZERO + b"0", DataLength=BLOCK), BLOCKED),
    Rule("other DataLength", lambda w: put_into(w, ZERO, DataLength=512), BLOCKED),
    Rule("checksum of 8 bytes", lambda w: put_into(w, ZERO, Checksum=TOKEN), VALUE),
    Rule("checksum of other data", lambda w: put_into(w, ZERO, Checksum=sha256(block(1))), BLOCKED),
    Rule("other algorithm", lambda w: put_into(w, ZERO, ChecksumAlgorithm="SHA1"), VALUE),
    Rule("progress over 100", lambda w: put_into(w, ZERO, Progress=101), VALUE),
    Rule("block beyond the volume", lambda w: put_into(w, ZERO, 2048), BLOCKED),
    Rule("unknown snapshot", lambda w: w.put(UNKNOWN, 0, ZERO), NO_SNAPSHOT, UNPARSED),
    Rule("snapshot id that is none", lambda w: w.put("snap-x", 0, ZERO), PENDING, UNPARSED),
    Rule("put after completion", lambda w: w.put(completed(w), 0, ZERO), PENDING),
    Rule("wrong count", lambda w: w.complete(pending(w), ChangedBlocksCount=2), VALUE),
    Rule("wrong aggregate", lambda w: w.complete(pending(w), Checksum=sha256(block(1))), VALUE),
    Rule("other aggregation", lambda w: w.complete(pending(w), ChecksumAggregationMethod="TREE"), VALUE),
    Rule("completed twice", complete_twice, PENDING),
    Rule("list while pending", lambda w: listed(w, pending(w)), PENDING),
    Rule("list an unknown one", lambda w: listed(w, UNKNOWN), NO_SNAPSHOT, UNPARSED),
    Rule("MaxResults below 100", lambda w: listed(w, completed(w), MaxResults=99), VALUE),
    Rule("MaxResults over 10000", lambda w: listed(w, completed(w), MaxResults=10_001), VALUE),
    Rule(
        "unknown page token",
        lambda w: listed(w, completed(w), NextToken=TOKEN),
        PAGE_TOKEN,
    ),
    Rule("unknown block token", lambda w: w.get(completed(w), 3, TOKEN), BLOCK_TOKEN),
    Rule("token of another block", token_of_another, BLOCK_TOKEN),
    Rule("read while pending", lambda w: w.get(pending(w), 3, TOKEN), PENDING),
    Rule("unrelated snapshots", unrelated, "ValidationException/UNRELATED_SNAPSHOTS"),
)


@pytest.fixture(params=["ebs_endpoint", "moto_server"])
def direct(request: pytest.FixtureRequest) -> Endpoint:
    """Each endpoint with the EBS direct APIs."""
    chosen: Endpoint = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def writer(direct: Endpoint) -> Iterator[Writer]:
    """A client that sends what it is given, allowed or not."""
    with direct.blocking_client("ebs", parameter_validation=False) as ebs:
        yield Writer(ebs)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_refused(rule: Rule, writer: Writer, direct: Endpoint) -> None:
    """The double refuses what breaks a rule, and moto what the table says."""
    expected = rule.moto if direct.name == "moto" else rule.refusal
    assert refusal(lambda: rule.request(writer)) == expected


def test_round_trip(writer: Writer, direct: Endpoint, tmp_path: Path) -> None:
    """Blocks that were put, in any order and one of them twice, come back after the completion."""
    snapshot = writer.start(Description="round trip", Tags=[{"Key": "a", "Value": "b"}], Timeout=10)
    for index in (5, 0, 2047):
        writer.put(snapshot, index, block(index), Progress=index // 21)
    writer.put(snapshot, 5, block(55))
    assert writer.complete(snapshot)["Status"] in {"pending", "completed"}
    tokens = writer.tokens(snapshot)
    assert set(tokens) == {0, 5, 2047}
    assert {index: writer.get(snapshot, index, token) for index, token in tokens.items()} == writer.blocks[snapshot]
    if direct.name != "moto":  # it lists blocks in the order in which they were put
        assert read_back(direct, snapshot, tmp_path / "volume") == [0, 5, 2047]


def test_no_checksum(writer: Writer) -> None:
    """The checksum of a whole snapshot is optional, and a snapshot may have no blocks."""
    snapshot = writer.start()
    writer.ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=0)
    assert writer.tokens(snapshot) == {}
