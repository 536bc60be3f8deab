"""Relay: blocks through the stages on threads, in order where required, and no thread left behind."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amistream.flow.relay import Ordered, Parallel, Relay, Step, Transform

BLOCK = 8


class Blocks:
    """A reader of numbered blocks that counts calls; `on_read` may wait or fail."""

    def __init__(self, count: int, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.count = count
        self.calls = 0
        self._on_read = on_read
        self._alone = threading.Lock()

    def read(self, buffer: memoryview) -> tuple[memoryview, bool]:
        assert self._alone.acquire(blocking=False), "two reads at a time"
        try:
            number = self.calls
            self.calls += 1
            self._on_read(number)
            buffer[:] = number.to_bytes(BLOCK, "big")
            return buffer, number == self.count - 1
        finally:
            self._alone.release()


class Unmeasured:
    """A transform that has no result."""

    def result(self) -> None:
        return


class Pass(Unmeasured):
    """A transform that yields copies, and `last` at the end; `on_feed` may wait or fail."""

    def __init__(self, on_feed: Callable[[Any], None] = lambda _: None, *, last: bytes = b"") -> None:
        self._on_feed = on_feed
        self._last = last
        self._alone = threading.Lock()

    def feed(self, item: Any) -> Iterator[Any]:
        assert self._alone.acquire(blocking=False), "two threads in one transform"
        try:
            self._on_feed(item)
        finally:
            self._alone.release()
        yield bytes(item)

    def finish(self) -> Iterator[Any]:
        if self._last:
            yield self._last


def join(number: int, items: Sequence[Any]) -> bytes:
    """Parallel work that checks the block's number and only joins the items."""
    assert number == number_of(items[0][:BLOCK])
    return b"".join(items)


def number_of(item: bytes | memoryview) -> int:
    return int.from_bytes(item, "big")


def steps(
    archive: Transform | None = None,
    work: Callable[[int, Sequence[Any]], Any] = join,
    last: Transform | None = None,
) -> tuple[Step, ...]:
    """Steps like those of the real path: ordered, parallel, ordered, same turn."""
    return (
        Ordered("archive", archive or Pass()),
        Parallel("work", work),
        Ordered("join", Pass()),
        Ordered("last", last or Pass(), same_turn=True),
    )


class Run:
    """A relay, the items it emitted, and its number of `release` calls."""

    def __init__(
        self,
        reader: Blocks,
        path: Sequence[Step],
        *,
        on_emit: Callable[[bytes], None] = lambda _: None,
        on_release: Callable[[], None] = lambda: None,
        slots: AbstractContextManager[Any] | None = None,
        resume_at: int = 0,
    ) -> None:
        self.emitted: list[bytes] = []
        self.released = threading.Event()
        self._on_emit = on_emit
        self._on_release = on_release
        self.relay = Relay(
            reader, path, self._emit, block_size=BLOCK, release=self._release, slots=slots, resume_at=resume_at
        )

    async def go(self, workers: int) -> None:
        try:
            await self.relay.run(workers)
        finally:
            await no_worker_left()

    def numbers(self) -> list[int]:
        return [number_of(item) for item in self.emitted]

    def _emit(self, item: bytes) -> None:
        self._on_emit(item)
        self.emitted.append(bytes(item))

    def _release(self) -> None:
        self.released.set()
        self._on_release()


async def no_worker_left() -> None:
    """Join every ending worker thread; a thread that stays fails the test."""
    for thread in threading.enumerate():
        if thread.name.startswith("amistream-worker"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive(), f"{thread.name} was left behind"


@pytest.mark.parametrize("workers", [1, 2, 5])
async def test_order(workers: int) -> None:
    """Blocks come out in the volume's order, whatever order parallel work ends in."""
    count = 40
    source = random.Random(workers)
    # Within each group of as many blocks as workers, they end in an order drawn by lot: each waits for another.
    groups = [list(range(start, min(start + workers, count))) for start in range(0, count, workers)]
    ended = [threading.Event() for _ in range(count)]
    before: dict[int, int] = {}
    for group in groups:
        order = source.sample(group, len(group))
        before.update(zip(order[1:], order, strict=False))

    def work(number: int, items: Sequence[Any]) -> bytes:
        if number in before:
            assert ended[before[number]].wait(20)
        ended[number].set()
        return join(number, items)

    run = Run(Blocks(count), steps(work=work))
    await run.go(workers)
    assert run.numbers() == list(range(count))
    assert run.relay.cause is None
    assert not run.released.is_set()


@settings(deadline=None)
@given(count=st.integers(1, 30), workers=st.integers(1, 6))
def test_every_block_once(count: int, workers: int) -> None:
    """Any number of blocks on any number of workers comes out once and in order."""
    reader = Blocks(count)
    run = Run(reader, steps())
    asyncio.run(run.go(workers))
    assert run.numbers() == list(range(count))
    assert reader.calls == count


@settings(deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(1, 6))
def test_an_earlier_pass_is_gone_on_with(data: st.DataObject, count: int, workers: int) -> None:
    """Blocks before the resumed one are read and pass the first step in order, and no other step."""
    resume_at = data.draw(st.integers(0, count - 1))
    archived: list[int] = []
    worked: set[int] = set()

    def work(number: int, items: Sequence[Any]) -> bytes:
        worked.add(number)
        return join(number, items)

    path = steps(archive=Pass(lambda item: archived.append(number_of(item))), work=work)
    run = Run(Blocks(count), path, resume_at=resume_at)
    asyncio.run(run.go(workers))
    assert archived == list(range(count))
    assert worked == set(range(resume_at, count))
    assert run.numbers() == list(range(resume_at, count))


async def test_works_in_parallel() -> None:
    """Parallel work runs on as many threads as there are workers."""
    together = threading.Barrier(4)

    def work(number: int, items: Sequence[Any]) -> bytes:
        together.wait(20)
        return join(number, items)

    run = Run(Blocks(8), steps(work=work))
    await run.go(4)
    assert run.numbers() == list(range(8))


async def test_finish_comes_last() -> None:
    """Each transform's last items come once, after the last block, through the steps behind it."""
    seen: list[bytes] = []
    path = (
        Ordered("first", Pass(last=b"F")),
        Parallel("work", lambda number, items: b"<" + join(number, items) + b">"),
        Ordered("second", Pass(last=b"S")),
        Ordered("third", Pass(lambda item: seen.append(bytes(item)), last=b"T"), same_turn=True),
    )
    run = Run(Blocks(2), path)
    await run.go(2)
    first, second = (number.to_bytes(BLOCK, "big") for number in range(2))
    assert run.emitted == [b"<" + first + b">", b"<" + second + b"F>", b"S", b"T"]
    assert seen == run.emitted[:-1]


@pytest.mark.parametrize("workers", [1, 3])
async def test_back_pressure(workers: int) -> None:
    """While the last step blocks, the reader is called once per worker and not again."""
    blocked, go = threading.Event(), threading.Event()
    all_read = threading.Event()

    def on_read(number: int) -> None:
        if number == workers - 1:
            all_read.set()

    def on_emit(item: bytes) -> None:
        if number_of(item) == 0:
            blocked.set()
            assert go.wait(20)
            # Everyone else has had the time that it took to come here.
            calls.append(reader.calls)

    calls: list[int] = []
    reader = Blocks(30, on_read)
    run = Run(reader, steps(), on_emit=on_emit)
    task = asyncio.create_task(run.go(workers))
    assert await asyncio.to_thread(blocked.wait, 20)
    assert await asyncio.to_thread(all_read.wait, 20)
    go.set()
    await task
    assert calls == [workers]
    assert run.numbers() == list(range(30))


class PlantedError(Exception):
    """Raised by a test at one place of the path."""


def fail_at(number: int) -> Callable[[Any], None]:
    def check(item: Any) -> None:
        if (item if isinstance(item, int) else number_of(item)) == number:
            raise PlantedError(number)

    return check


def failing_work(failing: int) -> Callable[[int, Sequence[Any]], bytes]:
    def work(number: int, items: Sequence[Any]) -> bytes:
        fail_at(failing)(number)
        return join(number, items)

    return work


PLACES: dict[str, Callable[[int], Run]] = {
    "reader": lambda number: Run(Blocks(20, fail_at(number)), steps()),
    "archive": lambda number: Run(Blocks(20), steps(archive=Pass(fail_at(number)))),
    "what is gone on with": lambda number: Run(Blocks(20), steps(archive=Pass(fail_at(number))), resume_at=19),
    "work": lambda number: Run(Blocks(20), steps(work=failing_work(number))),
    "last": lambda number: Run(Blocks(20), steps(last=Pass(fail_at(number)))),
    "emit": lambda number: Run(Blocks(20), steps(), on_emit=fail_at(number)),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("number", [0, 7, 19])
@pytest.mark.parametrize("place", PLACES)
async def test_failure(place: str, number: int, workers: int) -> None:
    """An error at any place of the path is raised, after everything before it and nothing behind it."""
    run = PLACES[place](number)
    with pytest.raises(PlantedError) as caught:
        await run.go(workers)
    assert caught.value.args == (number,)
    assert run.relay.cause is caught.value
    assert run.released.is_set()
    if place in {"last", "emit"}:
        assert run.numbers() == list(range(number))
    else:
        assert run.numbers() == list(range(len(run.emitted)))
        assert len(run.emitted) <= number


async def test_first_failure_counts() -> None:
    """When one failure causes others, the first is raised."""
    both = threading.Barrier(2)

    def work(number: int, items: Sequence[Any]) -> bytes:
        both.wait(20)
        if number == 1:
            raise PlantedError("first")
        # It goes on only when the other has failed, and fails of its own accord then.
        assert run.released.wait(20)
        raise PlantedError("second")

    run = Run(Blocks(2), steps(work=work))
    with pytest.raises(PlantedError, match="first"):
        await run.go(2)


async def test_failure_wakes_emit() -> None:
    """A failure elsewhere releases a worker that is blocked in `emit`."""
    blocked, woken = threading.Event(), threading.Event()

    def on_emit(item: bytes) -> None:
        del item
        blocked.set()
        assert woken.wait(20)

    def on_read(number: int) -> None:
        if number == 1:
            assert blocked.wait(20)
            raise PlantedError(number)

    run = Run(Blocks(5, on_read), steps(), on_emit=on_emit, on_release=woken.set)
    with pytest.raises(PlantedError):
        await run.go(2)


def holding_work(hold: Callable[[Any], None]) -> Callable[[int, Sequence[Any]], bytes]:
    def work(number: int, items: Sequence[Any]) -> bytes:
        hold(items[0])
        return join(number, items)

    return work


CANCELLED_AT: dict[str, Callable[[Callable[[Any], None]], Run]] = {
    "reader": lambda hold: Run(Blocks(20, hold), steps()),
    "archive": lambda hold: Run(Blocks(20), steps(archive=Pass(hold))),
    "work": lambda hold: Run(Blocks(20), steps(work=holding_work(hold))),
    "last": lambda hold: Run(Blocks(20), steps(last=Pass(hold))),
    "emit": lambda hold: Run(Blocks(20), steps(), on_emit=hold),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("number", [0, 7, 19])
@pytest.mark.parametrize("place", CANCELLED_AT)
async def test_cancel(place: str, number: int, workers: int) -> None:
    """A cancel at any place waits for the running call, calls `release`, and leaves no thread."""
    held, go = threading.Event(), threading.Event()
    left: list[bool] = []

    def hold(item: Any) -> None:
        if (item if isinstance(item, int) else number_of(item)) == number:
            held.set()
            assert go.wait(20)
            left.append(True)

    run = CANCELLED_AT[place](hold)
    task = asyncio.create_task(run.relay.run(workers))
    assert await asyncio.to_thread(held.wait, 20)
    task.cancel()
    assert await asyncio.to_thread(run.released.wait, 20)
    # A second cancel does not make it leave the running call alone either.
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left == [True], "the running call was not waited for"
    await no_worker_left()
    assert run.numbers() == list(range(len(run.emitted)))


async def test_cancel_before_it_runs() -> None:
    """A relay that is cancelled before it starts does nothing."""
    reader = Blocks(3)
    run = Run(reader, steps())
    task = asyncio.create_task(run.relay.run(2))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader.calls == 0


@pytest.mark.parametrize("started", [0, 1])
async def test_too_few_threads(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has no thread left ends the pass, once the workers that it did start have ended."""
    left = itertools.count()
    begun, leaving = threading.Event(), threading.Event()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("amistream-worker") and next(left) >= started:
            assert not started or begun.wait(20)
            raise RuntimeError("can't start new thread")
        start(thread)

    read = []

    def on_read(number: int) -> None:
        begun.set()
        assert leaving.wait(20)
        read.append(number)

    run = Run(Blocks(3, on_read), steps(), on_release=leaving.set)
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="thread"):
        await run.relay.run(2)
    assert read == [*range(started)]
    monkeypatch.undo()
    await no_worker_left()


async def test_meters() -> None:
    """Each step's meter counts its output bytes, and no time is negative."""

    class Grow(Unmeasured):
        def feed(self, item: Any) -> Iterator[bytes]:
            yield bytes(item)
            yield b"+"

        def finish(self) -> Iterator[bytes]:
            yield b"end"

    path = (
        Ordered("archive", Grow()),
        Parallel("work", lambda _, items: b"".join(items)[:5]),
        Ordered("join", Grow()),
        Ordered("last", Pass(), same_turn=True),
    )
    run = Run(Blocks(10), path)
    await run.go(3)
    relay = run.relay
    assert relay.read_meter.bytes_out == 10 * BLOCK
    assert {name: meter.bytes_out for name, meter in relay.meters.items()} == {
        "archive": 10 * (BLOCK + 1) + 3,
        "work": 10 * 5,
        "join": 10 * (5 + 1) + 3,
        "last": 10 * (5 + 1) + 3,
    }
    assert sum(map(len, run.emitted)) == relay.meters["last"].bytes_out
    for meter in (relay.read_meter, *relay.meters.values()):
        # A stage's own time is a difference of two clocks' readings.
        assert meter.busy_s > -1e-6, meter
        assert meter.waiting_s >= 0, meter


async def test_same_turn_is_lazy() -> None:
    """Steps of one turn work item by item, so the first may reuse one buffer for all outputs."""

    class Scratch(Unmeasured):
        def __init__(self) -> None:
            self._scratch = bytearray(1)

        def feed(self, item: Any) -> Iterator[memoryview]:
            for byte in bytes(item):
                self._scratch[0] = byte
                yield memoryview(self._scratch)

        def finish(self) -> Iterator[memoryview]:
            self._scratch[0] = 255
            yield memoryview(self._scratch)

    path = (Ordered("scratch", Scratch()), Ordered("copy", Pass(), same_turn=True))
    run = Run(Blocks(3), path)
    await run.go(2)
    blocks = b"".join(number.to_bytes(BLOCK, "big") for number in range(3))
    assert b"".join(run.emitted) == blocks + b"\xff"


async def test_slots() -> None:
    """Relays that share slots run at most that many parallel steps at a time."""
    slots = threading.Semaphore(2)
    counted = threading.Lock()
    now = most = 0

    def work(number: int, items: Sequence[Any]) -> bytes:
        nonlocal now, most
        with counted:
            now += 1
            most = max(most, now)
        made = join(number, items)
        with counted:
            now -= 1
        return made

    runs = [Run(Blocks(50), steps(work=work), slots=slots) for _ in range(3)]
    await asyncio.gather(*(run.go(3) for run in runs))
    assert 1 <= most <= 2
    assert [run.numbers() for run in runs] == [list(range(50))] * 3
    taken = [slots.acquire(blocking=False) for _ in range(3)]
    assert taken == [True, True, False], "a slot was not given back"


async def test_slot_given_back_after_failure() -> None:
    """A failure in parallel work releases its slot."""
    slots = threading.Semaphore(1)
    run = Run(Blocks(3), steps(work=failing_work(1)), slots=slots)
    with pytest.raises(PlantedError):
        await run.go(2)
    assert slots.acquire(blocking=False)


async def test_block_buffer_is_not_shared() -> None:
    """A block's bytes stay unchanged until it has passed the parallel work."""
    kept: dict[int, list[bytes]] = {}
    second = threading.Barrier(2)

    def work(number: int, items: Sequence[Any]) -> bytes:
        kept[number] = [bytes(items[0])]
        second.wait(20)
        kept[number].append(bytes(items[0]))
        return join(number, items)

    run = Run(Blocks(10), (Ordered("view", ViewOnly()), *steps(work=work)[1:]))
    await run.go(2)
    assert all(before == after for before, after in kept.values())
    assert list(itertools.chain(run.numbers())) == list(range(10))


class ViewOnly(Unmeasured):
    """A transform that yields its input buffer itself."""

    def feed(self, item: memoryview) -> Iterator[memoryview]:
        yield item

    def finish(self) -> Iterator[memoryview]:
        yield from ()
