"""The EBS direct APIs in one region: the adapter of `ports.snapshots`. Errors are translated.

Blocks go through `block_requests`, all else through the SDK's clients. Each call is one request, which is not repeated;
the deadline of a put or get is its caller's.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from amistream.aws.ec2_snapshots import Ec2Snapshots, as_state
from amistream.aws.regions import on_aws
from amistream.aws.session import Aws
from amistream.aws.translate import IncompleteReplyError, asking, wanted
from amistream.errors import NoSnapshotError, NotPendingError, NotVisibleError, StoreError
from amistream.ports.snapshots import BlockPage, Snapshot, SnapshotOrder, SnapshotState, StoredBlock
from amistream.values import Buffer

if TYPE_CHECKING:
    from amistream.aws.block_requests import BlockRequests

VISIBLE_AFTER_S = 120
"""Longest time that AWS needs to know a new snapshot everywhere. Its engineers' word, in coldsnap's issue 43."""
PAGE = 1000
"""Blocks in one page of a listing. AWS's limit is 10,000, which would take tens of milliseconds to read on the loop."""
_NO_SNAPSHOT = "snap-00000000000000000"


async def open_ebs(aws: Aws, region: str, endpoint_url: str, timeout_s: float) -> Ebs:
    """The snapshots of a region, at AWS or at `endpoint_url`, for as long as `aws` is open. Raises `StoreError`.

    A request is given up `timeout_s` after it began, or after the last byte of its answer.
    """
    from amistream.aws.block_requests import BlockRequests

    endpoint_url = endpoint_url.rstrip("/")
    client = await aws.client("ebs", region, endpoint_url)
    blocks = BlockRequests(client, await aws.signing_credentials(region))
    ec2 = Ec2Snapshots(await aws.client("ec2", region, endpoint_url), region, timeout_s)
    return Ebs(client, blocks, ec2, timeout_s)


async def find_direct_apis(aws: Aws, region: str, endpoint_url: str, timeout_s: float) -> str:
    """The address of the EBS direct APIs. Raises `NotSupportedError` where an endpoint has none, and `StoreError`.

    At AWS they are in every region. Any other endpoint is asked for a snapshot that does not exist.
    """
    client = await aws.client("ebs", region, endpoint_url.rstrip("/"))
    address = str(client.meta.endpoint_url)
    if not on_aws(address):
        with suppress(NoSnapshotError):
            async with asking("look for the EBS direct APIs", timeout_s):
                await client.list_snapshot_blocks(SnapshotId=_NO_SNAPSHOT)
    return address


class Ebs:
    """A `SnapshotWriter` and a `SnapshotReader`.

    A snapshot that was started, completed, or seen to become complete within the
    last `VISIBLE_AFTER_S` seconds, and does not exist in an answer, is a `NotVisibleError`; one in an answer to `start`
    or `describe` has the age that the answer says.
    """

    def __init__(self, client: Any, blocks: BlockRequests, ec2: Ec2Snapshots, timeout_s: float) -> None:
        self._ec2 = ec2
        self._client = client
        self._blocks = blocks
        self._timeout_s = timeout_s
        self._changed_at: dict[str, float] = {}
        """Times of the loop's clock."""
        self._unfinished: set[str] = set()
        """Snapshots that were pending when they were last seen."""

    async def start(self, order: SnapshotOrder) -> Snapshot:
        async with asking(f"start a snapshot of {order.volume_gib} GiB", self._timeout_s):
            reply = await self._client.start_snapshot(**_arguments(order))
            started = Snapshot(
                id=wanted(reply, "SnapshotId"),
                state=as_state(str(wanted(reply, "Status"))),
                volume_gib=int(wanted(reply, "VolumeSize")),
                encrypted=bool(reply.get("KmsKeyArn")),
                kms_key_id=str(reply.get("KmsKeyArn", "")),
                tags=order.tags,
                started_at=reply.get("StartTime"),
            )
        self._note(started, _now_of(reply))
        return started

    async def put(self, snapshot_id: str, index: int, data: Buffer, digest: bytes) -> None:
        try:
            async with asking(f"put block {index} of {snapshot_id}"):
                await self._blocks.put(snapshot_id, index, data, digest)
        except NoSnapshotError as error:
            raise self._perhaps_invisible(snapshot_id, error) from error

    async def complete(self, snapshot_id: str, blocks: int, checksum: bytes) -> None:
        try:
            async with asking(f"complete {snapshot_id}", self._timeout_s):
                await self._client.complete_snapshot(
                    SnapshotId=snapshot_id,
                    ChangedBlocksCount=blocks,
                    Checksum=b64encode(checksum).decode(),
                    ChecksumAlgorithm="SHA256",
                    ChecksumAggregationMethod="LINEAR",
                )
        except NoSnapshotError as error:
            raise self._perhaps_invisible(snapshot_id, error) from error
        except NotPendingError:
            # An earlier request, whose answer was lost, may have completed it, or be about to.
            found = await self.describe(snapshot_id)
            if found is None or found.state is SnapshotState.ERROR:
                raise
        self._changed_at[snapshot_id] = _clock()

    async def find(self, tag: str, value: str) -> list[Snapshot]:
        return await self._ec2.find(tag, value)

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        found = await self._ec2.describe(snapshot_id)
        if found is not None:
            self._note(found, datetime.now(UTC))
        return found

    async def discard(self, snapshot_id: str) -> None:
        await self._ec2.discard(snapshot_id)

    async def page(self, snapshot_id: str, *, start: int = 0, page: str = "") -> BlockPage:
        place = {"NextToken": page} if page else {"StartingBlockIndex": start}
        try:
            async with asking(f"list the blocks of {snapshot_id}", self._timeout_s):
                reply = await self._client.list_snapshot_blocks(SnapshotId=snapshot_id, MaxResults=PAGE, **place)
                blocks = [
                    StoredBlock(index=wanted(each, "BlockIndex"), token=wanted(each, "BlockToken"))
                    for each in wanted(reply, "Blocks")
                ]
                if page and reply.get("NextToken") == page:
                    raise IncompleteReplyError("names itself as the next page")
                return BlockPage(
                    blocks=blocks, next_page=reply.get("NextToken") or "", volume_gib=int(wanted(reply, "VolumeSize"))
                )
        except NoSnapshotError as error:
            raise self._perhaps_invisible(snapshot_id, error) from error

    async def get(self, snapshot_id: str, block: StoredBlock) -> bytes:
        try:
            async with asking(f"get block {block.index} of {snapshot_id}"):
                data, promised = await self._blocks.get(snapshot_id, block.index, block.token)
                # Half a millisecond, and not on a thread: all of those may be waiting for this very block.
                if sha256(data).digest() != promised:
                    raise IncompleteReplyError("has other bytes than its checksum")
                return data
        except NoSnapshotError as error:
            raise self._perhaps_invisible(snapshot_id, error) from error

    def _note(self, snapshot: Snapshot, now: datetime) -> None:
        """Keep when the snapshot changed last, as far as that is known."""
        if snapshot.state is SnapshotState.PENDING:
            self._unfinished.add(snapshot.id)
            age = (now - snapshot.started_at).total_seconds() if snapshot.started_at else 0
            self._changed_at.setdefault(snapshot.id, _clock() - max(age, 0))
        elif snapshot.id in self._unfinished:
            self._unfinished.discard(snapshot.id)
            self._changed_at[snapshot.id] = _clock()

    def _perhaps_invisible(self, snapshot_id: str, error: NoSnapshotError) -> StoreError:
        changed_at = self._changed_at.get(snapshot_id)
        if changed_at is None or _clock() - changed_at > VISIBLE_AFTER_S:
            return error
        return NotVisibleError(**error.as_dict(), transient=True)


def _arguments(order: SnapshotOrder) -> dict[str, Any]:
    """The arguments of StartSnapshot, without empty values."""
    arguments: dict[str, Any] = {
        "ClientToken": order.token,
        "VolumeSize": order.volume_gib,
        "Description": order.description,
        "Tags": [{"Key": key, "Value": value} for key, value in sorted(order.tags.items())],
        "Encrypted": order.encrypted or bool(order.kms_key_id),
        "KmsKeyArn": order.kms_key_id,
        "Timeout": order.timeout_min,
    }
    return {name: value for name, value in arguments.items() if value}


def _now_of(reply: dict[str, Any]) -> datetime:
    """The time of the answer by the clock of the service: ours may be minutes off."""
    try:
        return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)


def _clock() -> float:
    return asyncio.get_running_loop().time()
