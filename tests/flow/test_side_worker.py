"""What is done aside: in order, bounded, on a thread that never stays behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from amistream.flow.side_worker import Channel, SideWorker, StoppedError


@asynccontextmanager
async def running(
    work: Callable[[Any], object], **options: Any
) -> AsyncIterator[tuple[SideWorker, asyncio.Task[None]]]:
    """An aside at work; its thread has ended afterwards."""
    aside = SideWorker(work, **{"capacity": 2, **options})
    task = asyncio.create_task(aside.run())
    try:
        yield aside, task
    finally:
        await asyncio.wait({task})
        for thread in threading.enumerate():
            if thread.name.startswith("amistream-aside"):
                await asyncio.to_thread(thread.join, 10)
                assert not thread.is_alive()


async def put_all(aside: SideWorker, items: range) -> None:
    def put() -> None:
        for item in items:
            aside.put(item)

    await asyncio.to_thread(put)


class Block:
    """Work that stands still until it is released."""

    def __init__(self) -> None:
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, _: Any) -> None:
        self.begun.set()
        assert self.go.wait(20)
        self.ended.set()


async def test_order() -> None:
    """What is put is worked on in its order, all of it before the end."""
    seen: list[int] = []
    async with running(seen.append) as (aside, task):
        await put_all(aside, range(100))
        aside.end()
        await task
    assert seen == list(range(100))


async def test_nothing_to_do() -> None:
    """What is ended at once has done nothing."""
    async with running(pytest.fail) as (aside, _):
        aside.end()


async def test_what_waits_is_bounded() -> None:
    """Whoever puts waits while the work stands still, once as many wait as may."""
    block = Block()
    async with running(block) as (aside, _):
        await put_all(aside, range(1))
        await asyncio.to_thread(block.begun.wait, 20)
        await put_all(aside, range(2))
        one_more = asyncio.create_task(put_all(aside, range(1)))
        while not aside._channel._changed._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110 - to see it block
            await asyncio.sleep(0)
        assert not one_more.done()
        block.go.set()
        await one_more
        aside.end()


async def test_a_failure() -> None:
    """What the work raises is what `run` raises; whoever puts is told, and whoever waits for the work is released."""
    released = threading.Event()

    def work(item: int) -> None:
        if item == 5:
            raise ValueError(item)

    async with running(work, release=released.set) as (aside, task):
        with pytest.raises(StoppedError):
            await put_all(aside, range(1000))
        with pytest.raises(ValueError, match="5"):
            await task
    assert released.is_set()


async def test_stopped() -> None:
    """What is stopped wakes its work by the release, drops what waits, and ends without an error."""
    block = Block()
    async with running(block, release=block.go.set) as (aside, task):
        await put_all(aside, range(3))
        await asyncio.to_thread(block.begun.wait, 20)
        block.begun.clear()
        aside.stop()
        await task
        with pytest.raises(StoppedError):
            aside.put(4)
    assert not block.begun.is_set()


async def test_a_cancel_waits_for_the_running_call() -> None:
    """A cancelled one lets go only when the call that was running has returned."""
    block = Block()
    async with running(block, release=block.go.set) as (aside, task):
        await put_all(aside, range(1))
        await asyncio.to_thread(block.begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert block.ended.is_set()


def test_a_channel_that_is_stopped_lets_its_receiver_go() -> None:
    """A receiver that waits is told, and what was put before is not received."""
    channel: Channel[int] = Channel(3)
    channel.put(1)
    received = iter(channel)
    assert next(received) == 1
    threading.Timer(0, channel.stop).start()
    with pytest.raises(StoppedError):
        next(received)
    with pytest.raises(StoppedError):
        next(iter(channel))
