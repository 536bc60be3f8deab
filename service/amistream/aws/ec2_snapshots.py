"""EC2 requests about snapshots: describe, find, delete."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from amistream.aws.translate import IncompleteReplyError, asking, wanted
from amistream.errors import NoSnapshotError
from amistream.ports.snapshots import Snapshot, SnapshotState

PAGE = 1000
"""Snapshots in one answer. AWS limit."""


@dataclass(frozen=True, slots=True)
class Ec2Snapshots:
    """The snapshots of one region. Every method raises `StoreError`."""

    client: Any
    region: str
    timeout_s: float

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        """The snapshot, or None if EC2 does not know it (yet)."""
        try:
            async with self._asking(f"look at {snapshot_id}"):
                reply = await self.client.describe_snapshots(SnapshotIds=[snapshot_id])
                return next(map(as_snapshot, wanted(reply, "Snapshots")), None)
        except NoSnapshotError:
            return None

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        """The account's snapshots with this tag."""
        found: list[Snapshot] = []
        page: dict[str, str] = {}
        filters = [{"Name": f"tag:{tag}", "Values": [value]}]
        while True:
            async with self._asking(f"look for snapshots with the tag {tag}={value} in {self.region}"):
                reply = await self.client.describe_snapshots(
                    OwnerIds=["self"], Filters=filters, MaxResults=PAGE, **page
                )
                found += map(as_snapshot, wanted(reply, "Snapshots"))
                token = reply.get("NextToken")
                if token and token == page.get("NextToken"):
                    raise IncompleteReplyError("names itself as the next page")
            if not token:
                return found
            page = {"NextToken": token}

    async def discard(self, snapshot_id: str) -> None:
        """Delete the snapshot; one that is gone is no failure."""
        try:
            async with self._asking(f"delete {snapshot_id}"):
                await self.client.delete_snapshot(SnapshotId=snapshot_id)
        except NoSnapshotError:
            pass

    def _asking(self, what: str) -> AbstractAsyncContextManager[None]:
        return asking(what, self.timeout_s)


def as_snapshot(found: dict[str, Any]) -> Snapshot:
    """Read an element of DescribeSnapshots."""
    state, reason = str(wanted(found, "State")), str(found.get("StateMessage", ""))
    return Snapshot(
        id=wanted(found, "SnapshotId"),
        state=as_state(state),
        volume_gib=int(wanted(found, "VolumeSize")),
        progress=str(found.get("Progress", "")),
        reason=reason or ("" if state in set(SnapshotState) else f"it is {state}"),
        encrypted=bool(found.get("Encrypted")),
        kms_key_id=str(found.get("KmsKeyId", "")),
        tags={tag.get("Key", ""): tag.get("Value", "") for tag in found.get("Tags", ())},
        started_at=found.get("StartTime"),
    )


def as_state(text: str) -> SnapshotState:
    """Read a state; those that nothing can be done in, such as `recoverable` in the Recycle Bin, are `ERROR`."""
    return SnapshotState(text) if text in set(SnapshotState) else SnapshotState.ERROR
