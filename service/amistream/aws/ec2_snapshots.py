"""EC2 requests about snapshots: describe, find, count, delete, and the account's encryption by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from amistream.aws.translate import IncompleteReplyError, asking, wanted
from amistream.errors import NoSnapshotError, NotSupportedError
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
        what = f"look for snapshots with the tag {tag}={value} in {self.region}"
        return [each async for each in self._all(what, f"tag:{tag}", value)]

    async def pending(self) -> int | None:
        """Count the account's snapshots that are not complete, of `MOST_PENDING`; None where that cannot be asked."""
        what = f"count the pending snapshots in {self.region}"
        try:
            return len([each async for each in self._all(what, "status", SnapshotState.PENDING)])
        except NotSupportedError:
            return None

    async def encrypts_by_default(self) -> bool | None:
        """True if the account encrypts every new snapshot in the region; None where that cannot be asked."""
        try:
            async with self._asking(f"ask for encryption by default in {self.region}"):
                reply = await self.client.get_ebs_encryption_by_default()
                return bool(wanted(reply, "EbsEncryptionByDefault"))
        except NotSupportedError:
            return None

    async def discard(self, snapshot_id: str) -> None:
        """Delete the snapshot; one that is gone is no failure."""
        try:
            async with self._asking(f"delete {snapshot_id}"):
                await self.client.delete_snapshot(SnapshotId=snapshot_id)
        except NoSnapshotError:
            pass

    async def _all(self, what: str, name: str, value: str) -> AsyncIterator[Snapshot]:
        """Those of the account that pass a filter."""
        page: dict[str, str] = {}
        filters = [{"Name": name, "Values": [value]}]
        while True:
            async with self._asking(what):
                reply = await self.client.describe_snapshots(
                    OwnerIds=["self"], Filters=filters, MaxResults=PAGE, **page
                )
                found = [as_snapshot(each) for each in wanted(reply, "Snapshots")]
                token = reply.get("NextToken")
                if token and token == page.get("NextToken"):
                    raise IncompleteReplyError("names itself as the next page")
            for each in found:
                yield each
            if not token:
                return
            page = {"NextToken": token}

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
