"""Each fault of the EBS double strikes the request that it is set on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import BotoCoreError, ConnectionClosedError, ReadTimeoutError

from support.ebs_endpoint import SLOW_BODY, EbsEndpoint
from support_checks.ebs_client import Writer, block, refusal

NOT_COMPLETED = "ValidationException/INVALID_SNAPSHOT_ID"


@pytest.fixture
def writer(ebs_endpoint: EbsEndpoint) -> Iterator[Writer]:
    # Its clock stands still, so that only `advance` lets time pass.
    ebs_endpoint.set(frozen=True)
    with ebs_endpoint.blocking_client("ebs") as ebs:
        yield Writer(ebs)


@pytest.fixture
def hasty(ebs_endpoint: EbsEndpoint) -> Iterator[Writer]:
    """A client that waits for no answer longer than a second."""
    with ebs_endpoint.blocking_client("ebs", read_timeout=1) as ebs:
        yield Writer(ebs)


def lost(call: Callable[[], object]) -> bool:
    """Return true if no answer comes to a call."""
    try:
        call()
    except (ConnectionClosedError, ReadTimeoutError):
        return True
    except BotoCoreError as error:
        return type(error).__name__ in {"ResponseStreamingError", "IncompleteReadError", "EndpointConnectionError"}
    return False


@pytest.mark.parametrize("action", ["hang", "cut", "lose", "hang_after"])
def test_no_answer(writer: Writer, hasty: Writer, ebs_endpoint: EbsEndpoint, action: str) -> None:
    """The second request gets no answer, and is done or not as the fault says."""
    ebs_endpoint.fault("PutSnapshotBlock", action, nth=2)
    snapshot = writer.start()
    writer.put(snapshot, 0, block(0))
    assert lost(lambda: hasty.put(snapshot, 0, block(0)))
    writer.put(snapshot, 0, block(0))
    assert ebs_endpoint.snapshot(snapshot)["puts"] == (3 if action in {"lose", "hang_after"} else 2)


@pytest.mark.parametrize("action", ["pause", "pause_after"])
def test_pause(writer: Writer, hasty: Writer, ebs_endpoint: EbsEndpoint, action: str) -> None:
    """A request is held before or after it is done, until it may go on, even without its client."""
    ebs_endpoint.fault("PutSnapshotBlock", action, times=2)
    snapshot = writer.start()
    assert lost(lambda: hasty.put(snapshot, 0, block(0)))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(writer.put, snapshot, 1, block(1))
        ebs_endpoint.wait_paused(2)
        assert ebs_endpoint.snapshot(snapshot)["puts"] == (2 if action == "pause_after" else 0)
        ebs_endpoint.let_go()
        other.result()
        while ebs_endpoint.state()["paused"] or ebs_endpoint.snapshot(snapshot)["puts"] < 2:
            pass
    ebs_endpoint.wait_for("PutSnapshotBlock", 2)


@pytest.mark.parametrize("operation", ["StartSnapshot", "CompleteSnapshot", "RegisterImage"])
def test_error_after(writer: Writer, ebs_endpoint: EbsEndpoint, operation: str) -> None:
    """A request that is answered with an error may have been done."""
    ebs_endpoint.fault(operation, "error_after")
    with ebs_endpoint.blocking_client("ec2") as ec2:

        def everything() -> None:
            root = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": writer.whole(0)}}
            ec2.register_image(Name="an image", RootDeviceName="/dev/sda1", BlockDeviceMappings=[root])

        assert refusal(everything) == "InternalServerException"
    state = ebs_endpoint.state()
    assert [len(state["snapshots"]), len(state["images"])] == [1, operation == "RegisterImage"]
    assert state["snapshots"][0]["state"] == ("pending" if operation == "StartSnapshot" else "completed")


@pytest.mark.parametrize("operation", ["StartSnapshot", "CompleteSnapshot", "RegisterImage"])
def test_lost_answer(writer: Writer, ebs_endpoint: EbsEndpoint, operation: str) -> None:
    """The request is done although the connection ends instead of an answer."""
    ebs_endpoint.fault(operation, "lose")
    with ebs_endpoint.blocking_client("ec2") as ec2:

        def everything() -> None:
            snapshot = writer.whole(0)
            root = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot}}
            ec2.register_image(Name="an image", RootDeviceName="/dev/sda1", BlockDeviceMappings=[root])

        assert lost(everything)
    state = ebs_endpoint.state()
    (snapshot,) = state["snapshots"]
    assert snapshot["state"] == ("pending" if operation == "StartSnapshot" else "completed")
    assert len(state["images"]) == (operation == "RegisterImage")


def test_bad_data(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A block that is read can come with a byte changed, or not whole."""
    snapshot = writer.whole(0)
    token = writer.tokens(snapshot)[0]
    ebs_endpoint.fault("GetSnapshotBlock", "corrupt")
    with pytest.raises(AssertionError):
        writer.get(snapshot, 0, token)
    ebs_endpoint.fault("GetSnapshotBlock", "cut", after=1000)
    assert lost(lambda: writer.get(snapshot, 0, token))
    assert writer.get(snapshot, 0, token) == block(0)


def test_named_error(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """An error of any name strikes one block until the faults are cleared."""
    ebs_endpoint.fault(
        "PutSnapshotBlock",
        index=1,
        times=None,
        code="AccessDeniedException",
        status=403,
        reason="DEPENDENCY_ACCESS_DENIED",
    )
    snapshot = writer.start()
    refused = [refusal(lambda n=n: writer.put(snapshot, n, block(n))) for n in (0, 1, 1)]  # type: ignore[misc]
    assert refused == [None] + ["AccessDeniedException/DEPENDENCY_ACCESS_DENIED"] * 2
    ebs_endpoint.clear_faults()
    writer.put(snapshot, 1, block(1))
    codes = [each.get("code") for each in ebs_endpoint.requests("PutSnapshotBlock")]
    assert codes == [None, "AccessDeniedException", "AccessDeniedException", None]


def test_slow_body(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A body that came too slowly is refused in AWS's words, and taken the next time."""
    ebs_endpoint.fault("PutSnapshotBlock", **SLOW_BODY)
    snapshot = writer.start()
    refused = [refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(2)]
    assert refused == ["ValidationException/INVALID_PARAMETER_VALUE", None]


def test_times_out_midway(writer: Writer, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot can end in an error between two puts."""
    ebs_endpoint.fault("PutSnapshotBlock", "time_out", nth=2)
    snapshot = writer.start()
    assert [refusal(lambda: writer.put(snapshot, 0, block(0))) for _ in range(2)] == [None, NOT_COMPLETED]
    assert ebs_endpoint.snapshot(snapshot)["state"] == "error"
