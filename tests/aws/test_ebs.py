"""The contract of `ports.snapshots`, held against the strict double of EBS and against moto.

Moto keeps blocks and verifies nothing: `Abilities` says what it lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from amistream.aws.ebs import Ebs
from amistream.errors import (
    DeniedError,
    NoSnapshotError,
    NotPendingError,
    NotVisibleError,
    StaleTokenError,
    StoreError,
    ThrottledError,
)
from amistream.ports.snapshots import BLOCK, SnapshotState, StoredBlock, linear_checksum
from aws.canned import Canned, Reply
from aws.snapshots import block, order, snapshots_at, snapshots_of_url
from support.ebs_endpoint import SLOW_BODY

if TYPE_CHECKING:
    from support.ebs_endpoint import EbsEndpoint
    from support.endpoints import Endpoint

pytestmark = pytest.mark.asyncio


SEEN_LATER_S = 40.0
"""From a snapshot's start to another process's first look at it."""
CONFLICT = {"code": "ValidationException", "status": 400, "reason": "CONFLICTING_BLOCK_UPDATE"}


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """The rules of the contract that an endpoint keeps."""

    knows_tokens: bool = True
    """The same token gives the same snapshot."""
    sorts: bool = True
    verifies: bool = True
    """Refuses wrong digests, wrong counts, blocks outside of the volume, puts after the completion."""


ABILITIES = {
    "ebs_endpoint": Abilities(),
    "moto_server": Abilities(knows_tokens=False, sorts=False, verifies=False),
}


@dataclass(frozen=True)
class Place:
    ebs: Ebs
    can: Abilities


@pytest_asyncio.fixture(params=ABILITIES)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """The adapter at each endpoint in turn."""
    endpoint: Endpoint = request.getfixturevalue(request.param)
    async with snapshots_at(endpoint) as ebs:
        yield Place(ebs, ABILITIES[request.param])


@pytest_asyncio.fixture
async def ebs(ebs_endpoint: EbsEndpoint) -> AsyncIterator[Ebs]:
    async with snapshots_at(ebs_endpoint) as opened:
        yield opened


async def put_some(ebs: Ebs, snapshot_id: str, *indices: int) -> bytes:
    """Put blocks of these indices at the same time; returns the checksum of all."""
    async with asyncio.TaskGroup() as group:
        for index in indices:
            group.create_task(ebs.put(snapshot_id, index, memoryview(bytearray(block(index)[0])), block(index)[1]))
    return linear_checksum(block(index)[1] for index in sorted(indices))


async def completed(ebs: Ebs, *indices: int) -> str:
    """Make a completed snapshot with these blocks; returns its id."""
    made = (await ebs.start(order("made"))).id
    await ebs.complete(made, len(indices), await put_some(ebs, made, *indices))
    found = await ebs.describe(made)
    assert found is not None
    assert found.state is SnapshotState.COMPLETED
    return made


async def listed(ebs: Ebs, snapshot_id: str, start: int = 0) -> list[StoredBlock]:
    page = await ebs.page(snapshot_id, start=start)
    found = [*page.blocks]
    while page.next_page:
        page = await ebs.page(snapshot_id, page=page.next_page)
        found += page.blocks
    return found


async def test_blocks_come_back(place: Place) -> None:
    """Blocks that are put, in any order and many at once, are listed and read back when the snapshot is complete."""
    made = await completed(place.ebs, 7, 0, 2047, 64)
    blocks = await listed(place.ebs, made)
    if not place.can.sorts:
        blocks.sort(key=lambda each: each.index)
    assert [each.index for each in blocks] == [0, 7, 64, 2047]
    assert [await place.ebs.get(made, each) for each in blocks] == [block(each.index)[0] for each in blocks]


async def test_a_snapshot_begins_pending(place: Place) -> None:
    """A new snapshot is pending, has the size of its order, and is found by its id and by its tag."""
    started = await place.ebs.start(order("tagged", volume_gib=3, tags={"amistream:job": "of-this-test"}))
    assert (started.state, started.volume_gib) == (SnapshotState.PENDING, 3)
    found = await place.ebs.describe(started.id)
    assert found is not None
    assert (found.id, found.volume_gib) == (started.id, 3)
    if place.can.verifies:  # moto does not keep tags of StartSnapshot, and ends a snapshot at once
        assert found.state is SnapshotState.PENDING
        assert [each.id for each in await place.ebs.find("amistream:job", "of-this-test")] == [started.id]
    assert await place.ebs.find("amistream:job", "another") == []


async def test_an_unknown_snapshot(place: Place) -> None:
    """A snapshot that does not exist is described as None, and its deletion is no failure."""
    assert await place.ebs.describe("snap-0123456789abcdef0") is None
    await place.ebs.discard("snap-0123456789abcdef0")


async def test_a_snapshot_is_deleted(place: Place) -> None:
    """A deleted snapshot is gone, and may be deleted again."""
    made = (await place.ebs.start(order("deleted"))).id
    await place.ebs.discard(made)
    await place.ebs.discard(made)
    assert await place.ebs.describe(made) is None


async def test_the_same_token(place: Place) -> None:
    """The same order gives the same snapshot; other words with its token are refused for good."""
    first = await place.ebs.start(order("token"))
    again = await place.ebs.start(order("token"))
    assert (again.id == first.id) is place.can.knows_tokens
    if place.can.knows_tokens:
        with pytest.raises(StoreError, match="the same token") as caught:
            await place.ebs.start(order("token", volume_gib=2))
        assert not caught.value.transient


async def test_a_block_is_replaced(place: Place) -> None:
    """A block that is put again has the later bytes, and counts once."""
    made = (await place.ebs.start(order("replaced"))).id
    await place.ebs.put(made, 5, *block(4))
    await place.ebs.complete(made, 1, await put_some(place.ebs, made, 5))
    (stored,) = await listed(place.ebs, made)
    assert await place.ebs.get(made, stored) == block(5)[0]


# What only the strict double knows.


async def test_an_empty_snapshot(ebs: Ebs) -> None:
    """A snapshot without blocks can be completed, and lists none."""
    assert await listed(ebs, await completed(ebs)) == []


@pytest.mark.parametrize("start", [0, 3, 1500, 2047])
async def test_pages(start: int, ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A listing goes over pages, empty ones too, and begins at the block that is asked for."""
    ebs_endpoint.set(page_size=2, empty_pages=2)
    made = await completed(ebs, 0, 3, 4, 1500, 1501)
    assert [each.index for each in await listed(ebs, made, start)] == [
        each for each in (0, 3, 4, 1500, 1501) if each >= start
    ]


async def test_encryption(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """An order may ask for encryption, with a key or that of the account; the account may encrypt by default."""
    key = "arn:aws:kms:eu-west-1:123456789012:key/0f1e2d3c"
    assert not (await ebs.start(order("plain"))).encrypted
    assert (await ebs.start(order("own", encrypted=True))).encrypted
    with_key = await ebs.start(order("key", kms_key_id=key))
    assert (with_key.encrypted, with_key.kms_key_id) == (True, key)
    ebs_endpoint.set(encryption_by_default=True)
    assert (await ebs.start(order("default"))).encrypted


async def test_a_wrong_completion(ebs: Ebs) -> None:
    """A wrong count, or a wrong checksum, is refused for good, and the snapshot stays pending."""
    made = (await ebs.start(order("wrong"))).id
    checksum = await put_some(ebs, made, 1, 2)
    for count, digest in ((3, checksum), (2, bytes(32))):
        with pytest.raises(StoreError, match="cannot complete") as caught:
            await ebs.complete(made, count, digest)
        assert not caught.value.transient
    found = await ebs.describe(made)
    assert found is not None
    assert found.state is SnapshotState.PENDING


@pytest.mark.parametrize("seconds", [0, 600])
async def test_a_lost_answer_to_a_completion(seconds: float, ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A completion whose answer was lost is asked for again without failure, complete or not yet."""
    ebs_endpoint.set(completion_seconds=seconds)
    ebs_endpoint.fault("CompleteSnapshot", "lose", times=2)
    made = (await ebs.start(order("lost"))).id
    checksum = await put_some(ebs, made, 1)
    with pytest.raises(StoreError, match="lost") as caught:
        await ebs.complete(made, 1, checksum)
    assert caught.value.transient
    ebs_endpoint.clear_faults()
    await ebs.complete(made, 1, checksum)


async def test_a_snapshot_that_failed(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A failed snapshot takes no block and is not completed; its reason is known."""
    made = (await ebs.start(order("failed"))).id
    ebs_endpoint.set_state(made, "error", "The snapshot timed out")
    with pytest.raises(NotPendingError):
        await ebs.put(made, 0, *block(0))
    with pytest.raises(NotPendingError):
        await ebs.complete(made, 0, linear_checksum([]))
    found = await ebs.describe(made)
    assert found is not None
    assert (found.state, found.reason) == (SnapshotState.ERROR, "The snapshot timed out")


async def test_a_pending_snapshot_cannot_be_read(ebs: Ebs) -> None:
    """A listing of a pending snapshot is refused."""
    with pytest.raises(NotPendingError):
        await ebs.page((await ebs.start(order("pending"))).id)


@pytest.mark.parametrize(("age", "kind"), [(0, NotVisibleError), (110, NotVisibleError), (130, NoSnapshotError)])
async def test_a_new_snapshot_is_not_visible(
    age: float, kind: type[StoreError], ebs_endpoint: EbsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that is not found is waited for until two minutes after its start, also by another process."""
    ebs_endpoint.set(unknown_seconds=10_000)
    clock = 1000.0
    monkeypatch.setattr("amistream.aws.ebs._clock", lambda: clock)

    async def assert_refused(ebs: Ebs) -> None:
        nonlocal clock
        clock = 1000.0 + age
        with pytest.raises(kind) as caught:
            await ebs.put(made.id, 0, *block(0))
        assert (type(caught.value), caught.value.transient) == (kind, kind is NotVisibleError)

    async with snapshots_at(ebs_endpoint) as ebs:
        made = await ebs.start(order("young"))
        assert made.started_at is not None
        await assert_refused(ebs)
    clock = 1000.0 + SEEN_LATER_S
    seen_at = made.started_at + timedelta(seconds=SEEN_LATER_S)
    monkeypatch.setattr("amistream.aws.ebs.datetime", SimpleNamespace(now=lambda _: seen_at))
    async with snapshots_at(ebs_endpoint) as ebs:
        assert await ebs.describe(made.id) is not None
        await assert_refused(ebs)


async def test_an_old_snapshot_that_is_gone(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot that is started again with the token of long ago is not waited for."""
    ebs_endpoint.set(unknown_seconds=10_000)
    ebs_endpoint.set(frozen=True)
    ebs_endpoint.advance(-1000)
    made = (await ebs.start(order("old"))).id
    ebs_endpoint.advance(1000)
    with pytest.raises(NoSnapshotError):
        await ebs.put(made, 0, *block(0))


async def test_a_complete_snapshot_is_not_visible(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot that became complete a moment ago, and cannot be listed yet, is waited for."""
    ebs_endpoint.set(unlisted_requests=1)
    made = await completed(ebs, 1)
    with pytest.raises(NotVisibleError):
        await ebs.page(made)
    assert len(await listed(ebs, made)) == 1


async def test_stale_tokens(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """Expired tokens of blocks and pages are told from other failures."""
    ebs_endpoint.set(page_size=1)
    made = await completed(ebs, 1, 2)
    page = await ebs.page(made)
    ebs_endpoint.expire_tokens()
    with pytest.raises(StaleTokenError):
        await ebs.get(made, page.blocks[0])
    with pytest.raises(StaleTokenError):
        await ebs.page(made, page=page.next_page)


@pytest.mark.parametrize("how", ["corrupt", "cut"])
async def test_a_damaged_block(how: str, ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A block that arrives with other bytes, or in part, is a transient failure."""
    made = await completed(ebs, 1)
    (stored,) = await listed(ebs, made)
    ebs_endpoint.fault("GetSnapshotBlock", how, times=None)
    with pytest.raises(StoreError) as caught:
        await ebs.get(made, stored)
    assert caught.value.transient
    ebs_endpoint.clear_faults()
    assert await ebs.get(made, stored) == block(1)[0]


@pytest.mark.parametrize("knob", ["puts_per_second", "account_puts_per_second"])
async def test_throttles(knob: str, ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """Throttles of a snapshot and of the account ask for fewer requests."""
    ebs_endpoint.set(frozen=True, **{knob: 1})
    made = (await ebs.start(order("quick"))).id
    await ebs.put(made, 0, *block(0))
    with pytest.raises(ThrottledError) as caught:
        await ebs.put(made, 1, *block(1))
    assert caught.value.transient


@pytest.mark.parametrize(
    ("code", "reason", "status", "kind", "words"),
    [
        ("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED", 403, DeniedError, "kms:CreateGrant"),
        ("ServiceQuotaExceededException", "", 402, StoreError, "request-service-quota-increase"),
        ("ConflictException", "", 409, StoreError, "a new token"),
        ("ValidationException", "INVALID_BLOCK", 400, StoreError, "report it"),
    ],
)
async def test_a_put_that_is_refused(
    code: str, reason: str, status: int, kind: type[StoreError], words: str, ebs: Ebs, ebs_endpoint: EbsEndpoint
) -> None:
    """A refused put has the class, code, reason and fix that the SDK's own requests have."""
    made = (await ebs.start(order("refused"))).id
    ebs_endpoint.fault("PutSnapshotBlock", code=code, status=status, reason=reason)
    with pytest.raises(kind) as caught:
        await ebs.put(made, 0, *block(0))
    assert caught.value.code == f"aws.{code}.{reason}".rstrip(".")
    assert reason in caught.value.message
    assert words in caught.value.hint
    assert not caught.value.transient


@pytest.mark.parametrize(
    "refusal",
    [SLOW_BODY, SLOW_BODY | {"reason": ""}, CONFLICT],
    ids=["slow body", "slow body, no reason", "written by another"],
)
async def test_a_put_that_is_refused_for_a_while(refusal: dict[str, Any], ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A refusal that looks like a mistake, and is one of the link, is transient; its fix is said."""
    made = (await ebs.start(order("slow"))).id
    ebs_endpoint.fault("PutSnapshotBlock", **refusal)
    with pytest.raises(StoreError) as caught:
        await ebs.put(made, 0, *block(0))
    assert caught.value.transient
    assert caught.value.hint
    assert "report" not in caught.value.hint
    await ebs.put(made, 0, *block(0))


async def test_a_snapshot_in_use(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot that an AMI uses is not deleted, and the error says how to go on."""
    made = await completed(ebs, 1)
    with ebs_endpoint.blocking_client("ec2") as ec2:
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": made}}
        image = ec2.register_image(Name="web", RootDeviceName="/dev/xvda", BlockDeviceMappings=[mapping])["ImageId"]
    with pytest.raises(StoreError, match=image) as caught:
        await ebs.discard(made)
    assert "deregister" in caught.value.hint


async def test_an_answer_that_never_comes(ebs: Ebs, ebs_endpoint: EbsEndpoint) -> None:
    """A caller's time-out ends a put that is not answered, and the next put succeeds."""
    made = (await ebs.start(order("hang"))).id
    ebs_endpoint.fault("PutSnapshotBlock", "pause_after")

    async def put() -> None:
        async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as group:
            group.create_task(ebs.put(made, 0, *block(0)))
            await asyncio.to_thread(ebs_endpoint.wait_paused)
            deadline.reschedule(asyncio.get_running_loop().time())

    with pytest.raises(TimeoutError):
        await put()
    ebs_endpoint.let_go()
    await ebs.put(made, 0, *block(0))


async def test_no_ebs_at_all(seaweedfs: Endpoint) -> None:
    """An endpoint that has S3 only is blamed, and not the snapshot."""
    async with snapshots_at(seaweedfs) as ebs:
        with pytest.raises(StoreError, match="start a snapshot") as caught:
            await ebs.start(order("none"))
    assert "endpoint" in caught.value.message


async def test_a_state_that_is_not_known() -> None:
    """A snapshot in the Recycle Bin is of no use, and the reason says so."""
    shown = "<snapshotId>snap-1</snapshotId><status>recoverable</status><volumeSize>1</volumeSize>"
    body = f"<DescribeSnapshotsResponse><snapshotSet><item>{shown}</item></snapshotSet></DescribeSnapshotsResponse>"
    async with Canned(Reply(status=200, body=body)) as server, snapshots_of_url(server.url) as ebs:
        found = await ebs.describe("snap-1")
    assert found is not None
    assert (found.state, found.reason) == (SnapshotState.ERROR, "it is recoverable")


async def test_an_answer_without_end() -> None:
    """An answer that does not end, or is announced as longer than any right one, is given up after a bounded size."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless = head + (b"100000\r\n" + bytes(1 << 20) + b"\r\n") * 34
    announced = Reply(status=500, headers={"Content-Length": "1000000000"})
    async with Canned() as server, snapshots_of_url(server.url) as ebs:
        for reply, call in (
            (endless, lambda: ebs.page("snap-1")),
            (announced, lambda: ebs.page("snap-1")),
            (announced, lambda: ebs.put("snap-1", 0, bytes(BLOCK), bytes(32))),
            (announced, lambda: ebs.get("snap-1", StoredBlock(index=0, token="token"))),
            (announced, lambda: ebs.describe("snap-1")),
        ):
            server.reply = reply
            with pytest.raises(StoreError, match="cannot be understood") as caught:
                await call()
            assert caught.value.transient
