"""Each knob of the EBS double changes what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.ebs_endpoint import BLOCK, EbsEndpoint, read_back
from support_checks.ebs_client import Writer, block, refusal

NOT_FOUND = "ResourceNotFoundException/SNAPSHOT_NOT_FOUND"
NOT_COMPLETED = "ValidationException/INVALID_SNAPSHOT_ID"


@pytest.fixture
def writer(ebs_endpoint: EbsEndpoint) -> Iterator[Writer]:
    # Its clock stands still, so that only `advance` lets time pass.
    ebs_endpoint.set(frozen=True)
    with ebs_endpoint.blocking_client("ebs") as ebs:
        yield Writer(ebs)


@pytest.mark.parametrize("knob", [{"unknown_requests": 2}, {"unknown_seconds": 30}], ids=str)
def test_unknown_at_first(writer: Writer, ebs_endpoint: EbsEndpoint, knob: dict[str, Any]) -> None:
    """A new snapshot does not exist for its first puts, or for a while."""
    ebs_endpoint.set(**knob)
    snapshot = writer.start()
    assert [refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(2)] == [NOT_FOUND] * 2
    ebs_endpoint.advance(31)
    writer.put(snapshot, 0, block(0))


def test_completion(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot is completed after so many seconds and looks, and can be listed after so many requests more."""
    ebs_endpoint.set(completion_polls=1, completion_seconds=10, unlisted_requests=1, unlisted_seconds=5)
    snapshot = writer.whole(0)
    with ebs_endpoint.blocking_client("ec2") as ec2:

        def look() -> str:
            return str(ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"])

        assert [look(), look()] == ["pending", "pending"]
        ebs_endpoint.advance(10)
        assert refusal(lambda: writer.put(snapshot, 1, block(1))) == NOT_COMPLETED
        assert look() == "completed"
    assert refusal(lambda: writer.tokens(snapshot)) == NOT_FOUND
    ebs_endpoint.advance(6)
    assert set(writer.tokens(snapshot)) == {0}


def test_wrong_completion(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A wrong count can be answered with success and end in an error."""
    ebs_endpoint.set(wrong_completion="error")
    snapshot = writer.start()
    assert writer.complete(snapshot, ChangedBlocksCount=3)["Status"] == "pending"
    state = ebs_endpoint.snapshot(snapshot)
    assert (state["state"], "ChangedBlocksCount is 3" in state["message"]) == ("error", True)


def test_timeout(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot ends in an error when no block comes for as long as its Timeout."""
    snapshot = writer.start(Timeout=10)
    ebs_endpoint.advance(599)
    writer.put(snapshot, 0, block(0))
    ebs_endpoint.advance(599)
    writer.put(snapshot, 1, block(1))
    ebs_endpoint.advance(601)
    assert refusal(lambda: writer.put(snapshot, 2, block(2))) == NOT_COMPLETED
    assert ebs_endpoint.snapshot(snapshot)["state"] == "error"


@pytest.mark.parametrize(
    ("knob", "code"),
    [
        ({"puts_per_second": 4, "burst": 2}, "RequestThrottledException/RESOURCE_LEVEL_THROTTLE"),
        ({"account_puts_per_second": 4, "burst": 2}, "ThrottlingException"),
    ],
    ids=str,
)
def test_throttled(writer: Writer, ebs_endpoint: EbsEndpoint, knob: dict[str, Any], code: str) -> None:
    """Puts above the rate are refused, by snapshot or by account."""
    ebs_endpoint.set(**knob)
    snapshot = writer.start()
    refused = [refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(3)]
    assert refused == [None, None, code]
    ebs_endpoint.advance(0.25)
    assert [refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(2)] == [None, code]


def test_pages(writer: Writer, ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """Pages can be short and empty, and their tokens and those of blocks expire."""
    ebs_endpoint.set(page_size=2, empty_pages=1)
    snapshot = writer.whole(*range(5))
    listed = writer.ebs.list_snapshot_blocks(SnapshotId=snapshot, StartingBlockIndex=1)
    assert listed["Blocks"] == []
    token = listed["NextToken"]
    page = writer.ebs.list_snapshot_blocks(SnapshotId=snapshot, NextToken=token)["Blocks"]
    assert [each["BlockIndex"] for each in page] == [1, 2]
    assert read_back(ebs_endpoint, snapshot, tmp_path / "volume") == [0, 1, 2, 3, 4]
    ebs_endpoint.advance(3601)
    late = refusal(lambda: writer.ebs.list_snapshot_blocks(SnapshotId=snapshot, NextToken=token))
    assert late == "ValidationException/INVALID_PAGE_TOKEN"
    assert writer.get(snapshot, 1, page[0]["BlockToken"]) == block(1)
    ebs_endpoint.advance(1)
    ebs_endpoint.expire_tokens()
    late = refusal(lambda: writer.get(snapshot, 1, page[0]["BlockToken"]))
    assert late == "ValidationException/INVALID_BLOCK_TOKEN"


def test_pending_limit(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """No more snapshots are pending than the limit allows; those that are completed do not count."""
    ebs_endpoint.set(pending_limit=1)
    snapshot = writer.start()
    assert refusal(writer.start) == "ConcurrentLimitExceededException"
    writer.complete(snapshot)
    assert ebs_endpoint.snapshot(snapshot)["state"] == "completed"
    writer.start()


def test_failing_share(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A share of the requests fails, the same ones for the same seed."""
    snapshot = writer.start()
    runs = []
    for _ in range(2):
        ebs_endpoint.set(failing_share=0.5, failing_seed=7, failing_operations=["PutSnapshotBlock"])
        runs.append([refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(12)])
        ebs_endpoint.set(failing_seed=0)
        refusal(lambda: writer.put(snapshot, 0, block(0)))
    assert runs[0] == runs[1]
    assert set(runs[0]) == {None, "InternalServerException"}


def test_client_token(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """The same token with the same words gives the same snapshot, even when it is gone."""
    snapshot = writer.start(ClientToken="once")
    assert writer.start(ClientToken="once") == snapshot
    with ebs_endpoint.blocking_client("ec2") as ec2:
        ec2.delete_snapshot(SnapshotId=snapshot)
    assert writer.start(ClientToken="once") == snapshot
    assert ebs_endpoint.snapshots() == []


def test_parent(writer: Writer, tmp_path: Path, ebs_endpoint: EbsEndpoint) -> None:
    """A child has the blocks of its parent and counts its own; their differences are listed with their tokens."""
    first = writer.whole(3, 4)
    second = writer.start(ParentSnapshotId=first)
    for index, number in ((3, 3), (4, 44), (9, 9)):
        writer.put(second, index, block(number))
    writer.complete(second)
    changed = writer.ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)["ChangedBlocks"]
    assert [(each["BlockIndex"], "FirstBlockToken" in each) for each in changed] == [(4, True), (9, False)]
    with ebs_endpoint.blocking_client("ec2") as ec2:
        ec2.delete_snapshot(SnapshotId=first)
    assert read_back(ebs_endpoint, second, tmp_path / "volume") == [3, 4, 9]
    with (tmp_path / "volume").open("rb") as file:
        file.seek(3 * BLOCK)
        assert file.read(2 * BLOCK) == block(3) + block(44)


def test_made_snapshot(writer: Writer, ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """A file becomes a completed snapshot, zero blocks left out and the last one filled up."""
    (tmp_path / "image").write_bytes(block(1) + bytes(BLOCK) + b"end")
    snapshot = ebs_endpoint.make_snapshot(tmp_path / "image", volume_gib=2)
    assert read_back(ebs_endpoint, snapshot, tmp_path / "volume") == [0, 2]
    with (tmp_path / "volume").open("rb") as file:
        assert file.read(2 * BLOCK + 5) == block(1) + bytes(BLOCK) + b"end\0\0"


def test_unseen_image(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A new image is not shown by the first requests, then pending, and can be failed by a test."""
    ebs_endpoint.set(unseen_image_requests=1, pending_image_requests=1)
    root = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": writer.whole(0)}}
    with ebs_endpoint.blocking_client("ec2") as ec2:
        image = ec2.register_image(Name="an image", RootDeviceName="/dev/sda1", BlockDeviceMappings=[root])["ImageId"]
        assert refusal(lambda: ec2.describe_images(ImageIds=[image])) == "InvalidAMIID.NotFound"
        states = [ec2.describe_images(ImageIds=[image])["Images"][0]["State"] for _ in range(2)]
        assert states == ["pending", "available"]
        ebs_endpoint.set_image_state(image, "failed", "no reason")
        (shown,) = ec2.describe_images(ImageIds=[image])["Images"]
        assert (shown["State"], shown["StateReason"]["Message"]) == ("failed", "no reason")
