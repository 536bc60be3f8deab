"""Side workers: items in order, a bounded queue, and a thread that always ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from amistream.flow.side_worker import BrokenError, Channel, ClosedError, SideWorker


@asynccontextmanager
async def running(
    work: Callable[[Any], object], **options: Any
) -> AsyncIterator[tuple[SideWorker, asyncio.Task[None]]]:
    """A running side worker; its thread has ended afterwards."""
    worker = SideWorker(work, **{"capacity": 2, **options})
    task = asyncio.create_task(worker.run())
    try:
        yield worker, task
    finally:
        await asyncio.wait({task})
        for thread in threading.enumerate():
            if thread.name.startswith("amistream-side"):
                await asyncio.to_thread(thread.join, 10)
                assert not thread.is_alive()


async def put_all(worker: SideWorker, items: range) -> None:
    def put() -> None:
        for item in items:
            worker.put(item)

    await asyncio.to_thread(put)


class Block:
    """Work that waits until it is released."""

    def __init__(self) -> None:
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, _: Any) -> None:
        self.begun.set()
        assert self.go.wait(20)
        self.ended.set()


async def test_order() -> None:
    """Items are worked on in order, all of them before the end."""
    seen: list[int] = []
    async with running(seen.append) as (worker, task):
        await put_all(worker, range(100))
        worker.end()
        await task
    assert seen == list(range(100))


async def test_nothing_to_do() -> None:
    """A worker that is ended at once has done nothing."""
    async with running(pytest.fail) as (worker, _):
        worker.end()


async def test_what_waits_is_bounded() -> None:
    """`put` waits while the queue is full."""
    block = Block()
    async with running(block) as (worker, _):
        await put_all(worker, range(1))
        await asyncio.to_thread(block.begun.wait, 20)
        await put_all(worker, range(2))
        one_more = asyncio.create_task(put_all(worker, range(1)))
        while not worker._changed._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110 - to see it block
            await asyncio.sleep(0)
        assert not one_more.done()
        block.go.set()
        await one_more
        worker.end()


async def test_a_failure() -> None:
    """`run` raises what the work raised; `put` fails, and the release is called."""
    released = threading.Event()

    def work(item: int) -> None:
        if item == 5:
            raise ValueError(item)

    async with running(work, release=released.set) as (worker, task):
        with pytest.raises(BrokenError):
            await put_all(worker, range(1000))
        with pytest.raises(ValueError, match="5"):
            await task
    assert released.is_set()


async def test_stopped() -> None:
    """`stop` wakes the work by the release, drops queued items and ends without an error."""
    block = Block()
    async with running(block, release=block.go.set) as (worker, task):
        await put_all(worker, range(3))
        await asyncio.to_thread(block.begun.wait, 20)
        block.begun.clear()
        worker.stop()
        await task
        with pytest.raises(ClosedError):
            worker.put(4)
    assert not block.begun.is_set()


async def test_a_cancel_waits_for_the_running_call() -> None:
    """A cancelled worker ends only when the running call has returned."""
    block = Block()
    async with running(block, release=block.go.set) as (worker, task):
        await put_all(worker, range(1))
        await asyncio.to_thread(block.begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert block.ended.is_set()


def test_a_sender_that_gives_up() -> None:
    """A waiting receiver wakes with an error of the other side, queued items are dropped, and nothing more is sent."""
    channel: Channel[int] = Channel(3)
    channel.put(1)
    received = iter(channel)
    assert next(received) == 1
    threading.Timer(0, channel.break_off).start()
    with pytest.raises(BrokenError):
        next(received)
    with pytest.raises(BrokenError):
        next(iter(channel))
    with pytest.raises(ClosedError):
        channel.put(2)


def test_a_receiver_that_gives_up() -> None:
    """A waiting sender wakes with an error of the other side, and nothing more is received."""
    channel: Channel[int] = Channel(1)
    channel.put(1)
    threading.Timer(0, channel.close).start()
    with pytest.raises(BrokenError):
        channel.put(2)
    with pytest.raises(ClosedError):
        next(iter(channel))
