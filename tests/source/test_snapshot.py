"""A completed EBS snapshot as a volume, against the double of EBS, and its window of blocks that are read ahead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from amistream.errors import RefusedError, SourceError, StaleTokenError, ThrottledError
from amistream.flow.retry import RetryPolicy
from amistream.host.mounts import mount_point
from amistream.ports.snapshots import BLOCK, BlockPage, Snapshot, SnapshotState, StoredBlock
from amistream.ports.volume import Kind
from amistream.source.snapshot import SnapshotVolume, most_gets, open_snapshot, snapshot_memory
from amistream.source.snapshot_blocks import KEPT
from amistream.stages.read import READ_AHEAD, Read
from amistream.values import GIB, MIB, Extent
from aws.snapshots import block, order, snapshots_at
from support.volumes import sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from support.ebs_endpoint import EbsEndpoint

QUICK = RetryPolicy(attempts=4, base_s=0.001, cap_s=0.01, stall_s=5)
DATA = ((0, 3 * BLOCK), (9 * BLOCK, BLOCK), (20 * MIB, 12 * MIB))
"""Offset and length of what the disk holds."""
END = 33 * MIB
"""From here on it is zeros."""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return sparse_image(tmp_path / "disk", END, DATA)


@asynccontextmanager
async def opened(endpoint: EbsEndpoint, disk: Path, retry: RetryPolicy = QUICK) -> AsyncIterator[SnapshotVolume]:
    """The snapshot of a disk as a volume."""
    made = endpoint.make_snapshot(disk)
    async with snapshots_at(endpoint) as ebs:
        volume = await open_snapshot(ebs, made, retry=retry, puts=64)
        try:
            yield volume
        finally:
            await asyncio.to_thread(volume.close)


def read_range(volume: SnapshotVolume, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xff" * length)
    volume.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def read_whole(volume: SnapshotVolume, size: int = 4 * MIB) -> dict[int, bytes]:
    """All data by its place, as the reading stage of a job takes it."""
    read, found, buffer = Read(volume, volume.extents()), {}, bytearray(size)
    while True:
        offset = read.offset
        piece, last = read.read(memoryview(buffer))
        found[offset] = bytes(piece)
        if last:
            return found


async def test_the_disk_in_a_snapshot(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A snapshot reads as the disk at any offset, with its size, its name, its time, and its holes."""
    content = disk.read_bytes()
    async with opened(ebs_endpoint, disk) as volume:
        assert (volume.kind, volume.size, str(volume.path)[:5]) == (Kind.SNAPSHOT, GIB, "snap-")
        assert volume.extents() == tuple(Extent(offset=offset, length=length) for offset, length in DATA)
        assert volume.mtime == int(volume.identity.st_mtime) > 0
        assert mount_point(volume.identity, writable=True) == ""
        for offset, length in ((0, 2 * MIB), (BLOCK - 7, 20), (GIB - 5, 5), (END, 100), (20 * MIB - 9, MIB)):
            assert await asyncio.to_thread(read_range, volume, offset, length) == content[
                offset : offset + length
            ].ljust(length, b"\0")
        volume.will_need(0, GIB)
        volume.check_unchanged()


async def test_a_whole_pass(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A pass gets every block once, and no other; after `rewind` the next pass does so too."""
    content = disk.read_bytes()
    async with opened(ebs_endpoint, disk) as volume:
        for passes, size in enumerate((4 * MIB, 300_000), 1):
            found = await asyncio.to_thread(read_whole, volume, size)
            assert b"".join(found.values()) == b"".join(content[at : at + length] for at, length in DATA)
            got = [each["index"] for each in ebs_endpoint.requests("GetSnapshotBlock")]
            assert sorted(got) == sorted([*range(3), 9, *range(40, 64)] * passes)
            await asyncio.to_thread(volume.rewind)


@pytest.mark.parametrize("when", [0, 10, 25])
async def test_tokens_that_expire(when: int, ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """Tokens that expire during a pass are listed anew."""
    async with opened(ebs_endpoint, disk) as volume:
        ebs_endpoint.set(page_size=5)
        first = await asyncio.to_thread(read_range, volume, 20 * MIB, when * BLOCK)
        ebs_endpoint.expire_tokens()
        rest = await asyncio.to_thread(read_range, volume, 20 * MIB + when * BLOCK, 12 * MIB - min(when, 24) * BLOCK)
        assert first + rest == disk.read_bytes()[20 * MIB : 20 * MIB + len(first + rest)]


@pytest.mark.parametrize("do", ["error", "cut", "corrupt", "lose"])
async def test_gets_that_fail(do: str, ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A block that does not come, or comes damaged, is got again."""
    async with opened(ebs_endpoint, disk) as volume:
        ebs_endpoint.fault("GetSnapshotBlock", do, nth=2, times=2)
        assert await asyncio.to_thread(read_range, volume, 0, 2 * MIB) == disk.read_bytes()[: 2 * MIB]


async def test_a_get_that_is_never_answered(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A get without an answer costs one attempt."""
    async with opened(ebs_endpoint, disk, RetryPolicy(attempts=2, base_s=0.001, cap_s=0.01, stall_s=0.3)) as volume:
        ebs_endpoint.fault("GetSnapshotBlock", "hang", nth=2)
        assert await asyncio.to_thread(read_range, volume, 0, 2 * MIB) == disk.read_bytes()[: 2 * MIB]


async def test_a_get_that_is_refused(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A refusal is reported with its fix, and a later read tries again."""
    async with opened(ebs_endpoint, disk) as volume:
        ebs_endpoint.fault("GetSnapshotBlock", code="AccessDeniedException", status=403)
        with pytest.raises(SourceError, match="access is denied") as caught:
            await asyncio.to_thread(read_range, volume, 0, 10)
        assert "ebs:GetSnapshotBlock" in caught.value.hint
        assert await asyncio.to_thread(read_range, volume, 0, 10) == disk.read_bytes()[:10]


async def test_a_snapshot_that_is_deleted_meanwhile(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A snapshot that is deleted while it is read ends the job."""
    async with opened(ebs_endpoint, disk) as volume:
        with ebs_endpoint.blocking_client("ec2") as ec2:
            ec2.delete_snapshot(SnapshotId=volume.path.name)
        with pytest.raises(SourceError, match="does not exist"):
            await asyncio.to_thread(read_range, volume, 0, 10)


async def test_a_snapshot_that_is_not_listed_yet(ebs_endpoint: EbsEndpoint, disk: Path) -> None:
    """A snapshot that is complete, and cannot be listed for a moment, is waited for."""
    ebs_endpoint.set(unlisted_requests=3)
    async with opened(ebs_endpoint, disk) as volume:
        assert len(volume.extents()) == len(DATA)


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("pending", "source.unfinished", "its state is pending"),
        ("error", "source.unfinished", "its state is error: it timed out"),
        ("", "source.missing", "no such snapshot"),
        ("completed", "source.too_large", "at most 0.5 GiB"),
    ],
)
async def test_snapshots_that_are_refused(state: str, code: str, words: str, ebs_endpoint: EbsEndpoint) -> None:
    """A snapshot that does not exist, is not complete, or is too large, is refused before it is listed."""
    async with snapshots_at(ebs_endpoint) as ebs:
        made = (await ebs.start(order("made"))).id
        if state:
            ebs_endpoint.set_state(made, state, "it timed out" if state == "error" else "")
        else:
            await ebs.discard(made)
        with pytest.raises(RefusedError, match=words) as caught:
            await open_snapshot(ebs, made, retry=QUICK, puts=64, most=GIB // 2)
    assert (caught.value.code, caught.value.field) == (code, "source")
    assert ebs_endpoint.requests("ListSnapshotBlocks") == []


async def test_an_empty_snapshot(ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """A snapshot without blocks is all zeros."""
    async with opened(ebs_endpoint, sparse_image(tmp_path / "disk", MIB, ())) as volume:
        assert volume.extents() == ()
        assert await asyncio.to_thread(read_range, volume, GIB - 9, 9) == bytes(9)


@dataclass
class Played:
    """A reader of snapshots whose answers wait for the test, and which counts."""

    snapshot: Snapshot
    blocks: int
    open: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    awaited: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    refusals: list[Exception] = field(default_factory=list)

    async def describe(self, snapshot_id: str) -> Snapshot | None:
        assert snapshot_id == self.snapshot.id
        return self.snapshot

    async def page(self, snapshot_id: str, *, start: int = 0, page: str = "") -> BlockPage:
        assert (snapshot_id, page) == (self.snapshot.id, "")
        blocks = [StoredBlock(index=index, token=f"{index}") for index in range(start, self.blocks)]
        return BlockPage(blocks=blocks, next_page="", volume_gib=1)

    async def get(self, snapshot_id: str, block_: StoredBlock) -> bytes:
        assert snapshot_id == self.snapshot.id
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if self.in_flight == self.awaited:
            self.reached.set()
        try:
            await self.open.wait()
            if self.refusals:
                raise self.refusals.pop()
            return block(block_.index)[0]
        finally:
            self.in_flight -= 1


@asynccontextmanager
async def playing(blocks: int, puts: int = 64, attempts: int = 4) -> AsyncIterator[tuple[Played, SnapshotVolume]]:
    played = Played(Snapshot(id="snap-1", state=SnapshotState.COMPLETED, volume_gib=1), blocks)
    volume = await open_snapshot(played, "snap-1", retry=replace(QUICK, attempts=attempts), puts=puts)
    before = asyncio.all_tasks()
    try:
        yield played, volume
    finally:
        await asyncio.to_thread(volume.close)
        assert asyncio.all_tasks() == before
        assert played.in_flight == 0


@pytest.mark.parametrize("puts", [1, 4, 64])
async def test_blocks_ahead(puts: int) -> None:
    """As many blocks as the setting allows, or as the reading announces, are got at once, and never more."""
    async with playing(200, puts) as (played, volume):
        played.open.set()
        reading = asyncio.create_task(asyncio.to_thread(read_whole, volume))
        found = b"".join((await reading).values())
        assert found == b"".join(block(index)[0] for index in range(200))
        assert played.most_in_flight <= most_gets(puts)
    async with playing(200, puts) as (played, volume):
        played.awaited = most_gets(puts)
        volume.will_need(0, 200 * BLOCK)
        await played.reached.wait()
        await asyncio.to_thread(volume.rewind)
        assert played.most_in_flight == most_gets(puts)


def test_the_window_is_that_of_the_reading() -> None:
    """No more is got than the reading announces, and the memory for it is known."""
    assert most_gets(256) * BLOCK == READ_AHEAD
    assert snapshot_memory(64) == READ_AHEAD + (KEPT + 1) * BLOCK


async def test_an_interrupt_wakes_readers() -> None:
    """An interrupt ends every read that waits, and every later one, until `rewind`."""
    async with playing(20) as (played, volume):
        played.awaited = 2
        reads = [asyncio.create_task(asyncio.to_thread(read_range, volume, at * BLOCK, 9)) for at in (0, 7)]
        await played.reached.wait()
        threading.Thread(target=volume.interrupt).start()
        for read in reads:
            with pytest.raises(SourceError, match="was stopped"):
                await read
        with pytest.raises(SourceError, match="was stopped"):
            await asyncio.to_thread(read_range, volume, 9 * BLOCK, 9)
        volume.will_need(0, 9 * BLOCK)
        await asyncio.to_thread(volume.rewind)
        played.open.set()
        assert await asyncio.to_thread(read_range, volume, 9 * BLOCK, 9) == block(9)[0][:9]


async def test_close_with_blocks_ahead() -> None:
    """Closing ends the gets that nobody waits for."""
    async with playing(20) as (played, volume):
        played.awaited = 8
        volume.will_need(0, 8 * BLOCK)
        await played.reached.wait()


async def test_throttles() -> None:
    """Throttles are waited for, however many there are, as long as blocks come."""
    async with playing(1, attempts=1) as (played, volume):
        played.open.set()
        played.refusals = [ThrottledError("aws.x", "slower", transient=True) for _ in range(2)]
        assert await asyncio.to_thread(read_range, volume, 0, 9) == block(0)[0][:9]


async def test_tokens_that_are_always_stale() -> None:
    """A snapshot whose fresh tokens are refused is given up."""
    async with playing(1) as (played, volume):
        played.open.set()
        played.refusals = [StaleTokenError("aws.x", "expired") for _ in range(9)]
        with pytest.raises(SourceError, match="expired"):
            await asyncio.to_thread(read_range, volume, 0, 9)
        assert len(played.refusals) == 6
