"""The path to a snapshot: it holds the image whatever earlier passes put; failures leave nothing running."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amistream.conversion import BlockSource, Conversion, ConversionPlan, Converted, VolumeBlocks
from amistream.errors import AmistreamError, NotVisibleError, SourceError, StalledError, StoreError, ThrottledError
from amistream.flow.buffers import Buffers
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import RetryPolicy
from amistream.ports.snapshots import BLOCK, ZERO_DIGEST
from amistream.settings import BLOCKS_AT_ONCE, conversion_buffers
from amistream.source.file import open_volume
from amistream.stages.earlier import Earlier
from amistream.values import MIB, Extent
from stages.memory_snapshot import BeforePut, MemoryBlockLedger, MemorySnapshot, at_once, earlier_of
from support.passes import nothing_runs
from support.volumes import sparse_image

RETRY = RetryPolicy(attempts=3, base_s=0.0, cap_s=0.0, stall_s=5.0)
PLAN = ConversionPlan(workers=2, puts=4)


def data(seed: int, length: int = BLOCK) -> bytes:
    """Some bytes that are not all zeros."""
    return hashlib.sha256(bytes([seed])).digest() * (length // 32) + b"x" * (length % 32)


def write_image(path: Path, blocks: list[bytes], cut: int = 0) -> bytes:
    """Write the blocks, the last `cut` bytes left away."""
    whole = b"".join(blocks)
    whole = whole[: len(whole) - cut]
    path.write_bytes(whole)
    return whole


async def convert(
    image: Path,
    snapshot: MemorySnapshot,
    *,
    plan: ConversionPlan = PLAN,
    ledger: MemoryBlockLedger | None = None,
    earlier: Earlier | None = None,
    all_read: Callable[[], object] = lambda: None,
    wrap: Callable[[BlockSource], BlockSource] = lambda source: source,
    retry: RetryPolicy = RETRY,
    limit: RateLimit | None = None,
    slots: AbstractContextManager[Any] | None = None,
) -> Converted:
    """Make one pass; assert that it leaves no task, thread or buffer."""
    with closing(open_volume(image)) as volume:
        source = wrap(VolumeBlocks(volume, plan, all_read=all_read))
        made = Conversion(
            plan,
            source,
            snapshot,
            "snap-1",
            retry=retry,
            ledger=ledger,
            earlier=earlier,
            limit=limit,
            slots=slots,
        )
        try:
            converted = await made.run()
        finally:
            await nothing_runs()
            assert snapshot.in_flight == 0
        assert made.put.gate.in_flight == 0
        assert made.buffers.used() == 0
        assert made.blocks_settled == made.blocks_read or earlier
        return converted


def check(converted: Converted, snapshot: MemorySnapshot, image: bytes) -> None:
    """Assert that the snapshot holds the image, and that what completes it is right."""
    assert snapshot.image(len(image)) == image
    assert converted.image_size == len(image)
    assert converted.blocks == len(snapshot.blocks)
    assert converted.checksum == snapshot.checksum()
    assert converted.blocks_put == len(set(snapshot.puts))
    assert converted.blocks_put + converted.blocks_kept == converted.blocks


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 11 * BLOCK + 7])
async def test_sizes(tmp_path: Path, size: int) -> None:
    """An image of any size arrives, its last block padded with zeros; each block is put once."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(-(-size // BLOCK))], -size % BLOCK)
    snapshot, ledger = MemorySnapshot(), MemoryBlockLedger()
    converted = await convert(tmp_path / "image", snapshot, ledger=ledger)
    check(converted, snapshot, whole)
    assert sorted(snapshot.puts) == list(range(-(-size // BLOCK)))
    assert ledger.open == set()
    assert set(ledger.digests) == set(snapshot.blocks)


async def test_zeros_are_not_sent(tmp_path: Path) -> None:
    """Blocks of zeros are read, not sent; an image of zeros makes an empty snapshot."""
    whole = write_image(tmp_path / "image", [bytes(BLOCK)] * 20, 5)
    snapshot = MemorySnapshot()
    converted = await convert(tmp_path / "image", snapshot)
    check(converted, snapshot, whole)
    assert (converted.blocks, converted.blocks_read) == (0, 20)
    assert converted.checksum == hashlib.sha256().digest()


async def test_extents(tmp_path: Path) -> None:
    """Only blocks that an extent touches are read, and bytes outside of the extents are zeros."""
    write_image(tmp_path / "image", [data(number) for number in range(8)])
    extents = (Extent(offset=10, length=20), Extent(offset=BLOCK - 5, length=10), Extent(offset=6 * BLOCK, length=1))
    expected = bytearray(8 * BLOCK)
    for each in extents:
        expected[each.offset : each.end] = (tmp_path / "image").read_bytes()[each.offset : each.end]
    snapshot = MemorySnapshot()
    converted = await convert(tmp_path / "image", snapshot, plan=replace(PLAN, extents=extents))
    check(converted, snapshot, bytes(expected))
    assert converted.blocks_read == 3
    used = MemorySnapshot()
    rounded = (Extent(offset=0, length=8 * BLOCK),)
    converted = await convert(tmp_path / "image", used, plan=replace(PLAN, extents=rounded, used=extents))
    check(converted, used, bytes(expected))
    nothing = MemorySnapshot()
    converted = await convert(tmp_path / "image", nothing, plan=replace(PLAN, extents=()))
    assert (converted.blocks, converted.blocks_read) == (0, 0)


BEFORE = st.sampled_from(["nothing", "same", "other", "zeros", "intended", "intended same", "intended unsent"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    blocks=st.lists(st.tuples(st.sampled_from(["data", "zeros", "hole"]), BEFORE), min_size=1, max_size=14),
    cut=st.integers(0, BLOCK - 1),
    workers=st.integers(1, 3),
    puts=st.integers(1, 6),
)
async def test_any_earlier_passes(
    tmp_path: Path, blocks: list[tuple[str, str]], cut: int, workers: int, puts: int
) -> None:
    """The snapshot equals the image whatever earlier passes stored or began, and whatever changed since."""
    path = tmp_path / "image"
    whole = write_image(path, [data(n) if kind == "data" else bytes(BLOCK) for n, (kind, _) in enumerate(blocks)], cut)
    extents = tuple(
        Extent(offset=n * BLOCK, length=min(BLOCK, len(whole) - n * BLOCK))
        for n, (kind, _) in enumerate(blocks)
        if kind != "hole"
    )
    there: dict[int, bytes] = {}
    stored: dict[int, bytes] = {}
    intended: set[int] = set()
    for index, (_, before) in enumerate(blocks):
        now = whole[index * BLOCK : (index + 1) * BLOCK].ljust(BLOCK, b"\0")
        held = {"other": data(200 + index % 50), "intended": data(100 + index), "zeros": bytes(BLOCK)}.get(before, now)
        if before not in {"nothing", "intended unsent"}:
            there[index] = held
        if before.startswith("intended"):
            intended.add(index)
        elif before != "nothing":
            stored[index] = hashlib.sha256(held).digest()
    earlier = earlier_of(stored, intended)
    snapshot, ledger = MemorySnapshot(there), MemoryBlockLedger(earlier)
    plan = ConversionPlan(workers=workers, puts=puts, extents=extents)
    converted = await convert(path, snapshot, plan=plan, ledger=ledger, earlier=earlier)
    check(converted, snapshot, whole)
    assert {index for index, (_, before) in enumerate(blocks) if before == "same"} & set(snapshot.puts) == set()
    assert snapshot.most_in_flight <= puts
    assert ledger.open == set()
    assert ledger.digests == {index: hashlib.sha256(held).digest() for index, held in snapshot.blocks.items()}


async def test_zeros_of_earlier_passes(tmp_path: Path) -> None:
    """Zeros that an earlier pass put stay and count, in holes too; a block behind the last data is put as zeros."""
    whole = write_image(tmp_path / "image", [data(0), *[bytes(BLOCK)] * 90])
    plan = replace(PLAN, extents=(Extent(offset=0, length=BLOCK),))
    stored = {5: ZERO_DIGEST, **{index: hashlib.sha256(data(index)).digest() for index in range(6, 80)}}
    snapshot = MemorySnapshot({5: bytes(BLOCK), **{index: data(index) for index in range(6, 80)}})
    converted = await convert(tmp_path / "image", snapshot, plan=plan, earlier=earlier_of(stored))
    check(converted, snapshot, whole)
    assert (converted.blocks, converted.blocks_kept) == (76, 1)


def failing(error: Callable[[], StoreError], *numbers: int) -> BeforePut:
    """Fail the puts of these numbers."""

    async def before(number: int, index: int) -> None:
        del index
        await asyncio.sleep(0)
        if number in numbers:
            raise error()

    return before


def transient() -> StoreError:
    return StoreError("store.busy", "cannot put: the store is busy", transient=True)


def permanent() -> StoreError:
    return StoreError("store.denied", "cannot put: no permission")


def throttled() -> StoreError:
    return ThrottledError("store.throttled", "cannot put: too many requests", transient=True)


def not_visible() -> StoreError:
    return NotVisibleError("store.not_visible", "cannot put: there is no such snapshot", transient=True)


@pytest.mark.parametrize("error", [transient, throttled, not_visible])
async def test_puts_are_repeated(tmp_path: Path, error: Callable[[], StoreError]) -> None:
    """A put that fails for a while is repeated, more often than `attempts` in all if the service asked for patience."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(12)])
    snapshot = MemorySnapshot(before=failing(error, 0, 1, 2, 3, 9, 15))
    check(await convert(tmp_path / "image", snapshot), snapshot, whole)


async def test_a_failure_for_good(tmp_path: Path) -> None:
    """The first put that fails for good ends the pass; stored blocks are in the ledger, and a second pass goes on."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(30)])
    snapshot, ledger = MemorySnapshot(before=failing(permanent, 9)), MemoryBlockLedger()
    with pytest.raises(StoreError, match="no permission"):
        await convert(tmp_path / "image", snapshot, ledger=ledger)
    earlier = ledger.earlier()
    stored = set(ledger.digests)
    assert stored == set(snapshot.blocks)
    assert snapshot.puts[9] in ledger.open
    again = MemorySnapshot(snapshot.blocks)
    converted = await convert(tmp_path / "image", again, ledger=ledger, earlier=earlier)
    check(converted, again, whole)
    assert converted.blocks_kept == len(stored) > 0


async def test_a_failure_while_the_ledger_is_slow(tmp_path: Path) -> None:
    """The cause of a failed put is shown, also when entering the stored blocks takes longer than stopping the rest."""
    write_image(tmp_path / "image", [data(number) for number in range(60)])

    class Slow(MemoryBlockLedger):
        """Waits until the workers have ended."""

        async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
            for thread in threading.enumerate():
                if thread.name.startswith("amistream-worker"):
                    await asyncio.to_thread(thread.join)
            await super().stored(blocks)

    snapshot = MemorySnapshot(before=failing(permanent, 9))
    with pytest.raises(StoreError, match="no permission"):
        await convert(tmp_path / "image", snapshot, ledger=Slow(), plan=replace(PLAN, puts=40))


async def test_a_failure_that_lasts(tmp_path: Path) -> None:
    """A put that fails at every attempt ends the pass, with the number of attempts."""
    write_image(tmp_path / "image", [data(number) for number in range(3)])
    with pytest.raises(StoreError, match="tried 3 times"):
        await convert(tmp_path / "image", MemorySnapshot(before=failing(transient, *range(100))))


async def test_throttled_for_good(tmp_path: Path) -> None:
    """A service that takes no block at all for `stall_s` ends the pass; refusals before that do not count."""
    write_image(tmp_path / "image", [data(number) for number in range(3)])
    snapshot = MemorySnapshot(before=failing(throttled, *range(10_000)))
    with pytest.raises(ThrottledError, match=r"no block was taken for 0\.2 s"):
        await convert(tmp_path / "image", snapshot, retry=replace(RETRY, stall_s=0.2))
    assert len(snapshot.puts) > RETRY.attempts


async def test_a_slow_link(tmp_path: Path) -> None:
    """On a link on which so many puts at a time stall, fewer are tried, however often that takes more attempts."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(40)])

    async def before(number: int, index: int) -> None:
        del number, index
        if snapshot.in_flight > 3:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    snapshot = MemorySnapshot(before=before)
    retry = replace(RETRY, stall_s=0.05)
    check(await convert(tmp_path / "image", snapshot, plan=replace(PLAN, puts=16), retry=retry), snapshot, whole)


async def test_a_link_that_is_cut(tmp_path: Path) -> None:
    """When no answer comes at all, the pass ends after so many attempts."""
    write_image(tmp_path / "image", [data(number) for number in range(8)])

    async def before(number: int, index: int) -> None:
        del number, index
        await asyncio.Event().wait()

    with pytest.raises(StalledError, match="tried 3 times"):
        await convert(tmp_path / "image", MemorySnapshot(before=before), retry=replace(RETRY, stall_s=0.01))


async def test_limit(tmp_path: Path) -> None:
    """Blocks are sent no faster than the limit, those that are sent again included."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(10)])
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    limit = RateLimit(BLOCK, clock=lambda: now, sleep=sleep)
    snapshot = MemorySnapshot(before=failing(transient, 2, 5))
    check(await convert(tmp_path / "image", snapshot, limit=limit), snapshot, whole)
    # The first block is sent at once.
    assert now >= 12 - 1 - 2
    await limit.wait_for(0)
    assert now >= 12


async def test_slots(tmp_path: Path) -> None:
    """Blocks are hashed within the slots that jobs share, one batch in each."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(40)])
    entered: list[int] = []

    class Slots:
        """Notes who enters."""

        def __enter__(self) -> None:
            entered.append(threading.get_ident())

        def __exit__(self, *_: object) -> None:
            """Nothing to give back."""

    snapshot = MemorySnapshot()
    check(await convert(tmp_path / "image", snapshot, slots=Slots()), snapshot, whole)
    assert len(entered) == 40 // 8
    assert threading.get_ident() not in entered


async def test_cancel_at_every_put(tmp_path: Path) -> None:
    """A pass that is cancelled at any put leaves nothing running, and the next one goes on."""
    whole = write_image(tmp_path / "image", [data(number) for number in range(24)])
    ledger, snapshot = MemoryBlockLedger(), MemorySnapshot()

    async def pass_until(step: int) -> None:
        def cancel_at(number: int, index: int) -> Coroutine[Any, Any, None]:
            if number == step:
                running.cancel()
            return at_once(number, index)

        nonlocal snapshot
        snapshot = MemorySnapshot(snapshot.blocks, before=cancel_at)
        pass_ = convert(tmp_path / "image", snapshot, ledger=ledger, earlier=ledger.earlier())
        running = asyncio.ensure_future(pass_)
        await asyncio.wait([running])
        assert running.cancelled() or isinstance(running.result(), Converted)

    for step in range(0, 24, 5):
        await pass_until(step)
    last = MemorySnapshot(snapshot.blocks)
    check(await convert(tmp_path / "image", last, ledger=ledger, earlier=ledger.earlier()), last, whole)


async def test_an_unreadable_volume(tmp_path: Path) -> None:
    """A volume that ends before its size ends the pass with that cause."""
    path = tmp_path / "image"
    write_image(path, [data(number) for number in range(20)])

    def cut(source: BlockSource) -> BlockSource:
        with path.open("r+b") as file:
            file.truncate(15 * BLOCK)
        return source

    with pytest.raises(SourceError):
        await convert(path, MemorySnapshot(), wrap=cut)


def test_share_of_a_sparse_image(tmp_path: Path) -> None:
    """Of 10 GiB with 16 blocks of data half was read with the eighth, and all with the last."""
    half, size = BLOCKS_AT_ONCE * BLOCK, 10 << 30
    image = sparse_image(tmp_path / "image", size, [(0, half), (size - 2 * half, half)])
    buffers = Buffers(count=2 * BLOCKS_AT_ONCE, size=BLOCK)
    with closing(open_volume(image)) as volume:
        source = VolumeBlocks(volume, replace(PLAN, extents=volume.extents()))
        shares = [source.share]
        last = False
        while not last:
            _, last = source.read(buffers)
            shares.append(source.share)
    assert shares == [0.0, 0.5, 1.0]
    assert source.offset == size


async def test_a_changed_volume(tmp_path: Path) -> None:
    """A volume that was written to during the pass is found out at its end."""
    path = tmp_path / "image"
    write_image(path, [data(number) for number in range(4)])

    def write() -> None:
        with path.open("r+b") as file:
            file.write(b"changed")

    with pytest.raises(AmistreamError) as failed:
        await convert(path, MemorySnapshot(), all_read=write)
    assert isinstance(failed.value, SourceError)


MEMORY_OF_A_PASS = """
import asyncio, sys
from pathlib import Path
from amistream.conversion import Conversion, VolumeBlocks
from amistream.flow.rate_limit import RateLimit
from amistream.flow.retry import RetryPolicy
from amistream.conversion import ConversionPlan
from amistream.process import settle_memory
from amistream.source.file import open_volume
from support.daemons import peak_rss
import os

class Slow:
    # Holds the first puts until every buffer is in use.
    full = False
    most = in_flight = 0

    async def put(self, snapshot_id, index, data, digest):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        while not self.full:
            await asyncio.sleep(0.01)
            self.full = self.full or self.made.buffers.used() == 1
        self.in_flight -= 1

async def main():
    volume, writer = open_volume(Path(sys.argv[1])), Slow()
    plan = ConversionPlan(workers=2, puts=64, extents=volume.extents())
    retry = RetryPolicy(attempts=1, base_s=0, cap_s=0, stall_s=60)
    before = peak_rss(os.getpid())
    writer.made = Conversion(plan, VolumeBlocks(volume, plan), writer, "snap-1", retry=retry)
    converted = await writer.made.run()
    print(converted.blocks, writer.most, peak_rss(os.getpid()) - before)

settle_memory()
asyncio.run(main())
"""


@pytest.mark.parametrize("size", [1 << 30, 10 << 30])
def test_memory(size: int, tmp_path: Path) -> None:
    """A pass takes no more memory than its formula says, whatever the size of the image."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(size)
        for number in range(300):
            file.seek(size // 300 // BLOCK * BLOCK * number)
            file.write(data(number % 256))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF_A_PASS, image],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    blocks, most, grown = map(int, done.stdout.split())
    assert (blocks, most) == (300, 64)
    # Nothing is encrypted here.
    assert grown < conversion_buffers(workers=2, puts=64) * BLOCK + 8 * MIB
