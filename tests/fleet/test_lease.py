"""Leases: kept alive in one request, fenced in time when that fails, parked before the queue's 12 hours are over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from amistream.errors import AmistreamError, FencedError, StalledError
from amistream.fleet.lease import Hold, Leases, QueueLease, Terms, boot_id, clock
from amistream.jobs.deliveries import HeldMessage
from fleet.memory_queue import MemoryQueue, put_forward

TERMS = Terms(visibility_s=300)
AWAY = StalledError("store.stalled", "cannot reach the queue", transient=True)


@dataclass
class Scene:
    """Leases over a queue in memory. Their clock is that of the event loop."""

    queue: MemoryQueue
    leases: Leases
    terms: Terms
    ended: list[tuple[str, str]] = field(default_factory=list)
    extended: list[str] = field(default_factory=list)

    async def take(self, name: str = "web") -> QueueLease:
        message_id = self.queue.put(name)
        asked_at = now()
        (delivery,) = await self.queue.receive(1, 0, self.terms.visibility_s)
        assert delivery.message_id == message_id
        message = HeldMessage(
            message_id=message_id,
            name=name,
            queue="https://queue",
            handle=delivery.handle,
            body=delivery.body,
            attempt=delivery.receives,
            sent_at=delivery.sent_at.timestamp(),
            boot="boot",
            ends_at=asked_at + self.terms.visibility_s,
            parks_at=asked_at + self.terms.park_after_s,
        )
        return self.leases.take(message, "host-a/1")

    async def pass_time(self, seconds: float) -> None:
        """Let time pass second by second, as the loop's timers need it."""
        for _ in range(round(seconds)):
            put_forward(1)
            for _ in range(_TURNS):
                await asyncio.sleep(0)


_TURNS = 8


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(terms: Terms = TERMS) -> AsyncIterator[Scene]:
    queue = MemoryQueue()

    def ended(lease: QueueLease, cause: AmistreamError) -> None:
        scene.ended.append((lease.name, cause.code))

    async def extended(leases: object) -> None:
        assert isinstance(leases, list)
        scene.extended += [lease.name for lease in leases]

    scene = Scene(queue, Leases(queue, terms, ended=ended, extended=extended, now=now), terms)
    task = asyncio.create_task(scene.leases.run())
    try:
        yield scene
    finally:
        task.cancel()
        await asyncio.wait({task})


def test_the_times() -> None:
    """Three beats a lease, 30 seconds of margin; shorter leases have shorter times."""
    assert (TERMS.beat_s, TERMS.margin_s, TERMS.tick_s) == (100, 30, 1)
    short = Terms(visibility_s=3)
    assert short.beat_s == 1
    assert short.margin_s == pytest.approx(0.3)
    assert short.tick_s == pytest.approx(0.1)


def test_the_clock_runs_on_in_suspension() -> None:
    """The clock is the one of the machine's start, which a boot names."""
    assert clock() <= clock()
    assert len(boot_id()) == 36


@pytest.mark.parametrize("is_sent", [False, True], ids=["request", "answer"])
async def test_an_extension_that_comes_too_late(is_sent: bool) -> None:
    """A lease that is over stays lost, although the queue still takes its handle: another host may have the message."""
    async with running() as scene:
        scene.queue.takes_stale = True
        scene.queue.held["extend"] = answered = asyncio.Event()
        lease = await scene.take()
        await scene.pass_time(101 if is_sent else 1)
        assert scene.queue.calls["extend"] == is_sent
        # Neither clock nor queue are heard in this time, as if the process had been stopped.
        answered.set()
        put_forward(170 if is_sent else 270)
        await scene.queue.wait_until(lambda: bool(scene.ended))
        await scene.pass_time(110)
        assert (lease.hold, scene.ended, scene.extended) == (Hold.LOST, [("web", "lease.lost")], [])


async def test_one_request_extends_all() -> None:
    """Each third of the visibility all leases are extended together, from before the request on."""
    async with running() as scene:
        first, second = await scene.take("a"), await scene.take("b")
        began = now()
        await scene.pass_time(99)
        assert scene.queue.calls["extend"] == 0
        await scene.pass_time(3)
        assert scene.queue.calls["extend"] == 1
        assert scene.extended == ["a", "b"]
        for lease in (first, second):
            assert 395 < lease.ends_at - began < 403
        await scene.pass_time(200)
        assert scene.queue.calls["extend"] == 3
        assert scene.ended == []
        assert scene.leases.seconds_left is not None
        scene.leases.drop(first)
        scene.leases.drop(second)
        assert scene.leases.seconds_left is None
        await scene.pass_time(200)
        assert scene.queue.calls["extend"] == 3


async def test_a_silent_queue_fences() -> None:
    """Without a confirmed extension the job is told to stop 30 seconds before its lease ends, once."""
    async with running() as scene:
        lease = await scene.take()
        scene.queue.faults["extend"] = AWAY
        await scene.pass_time(268)
        assert scene.ended == []
        assert scene.queue.calls["extend"] >= 3
        assert scene.leases.failure is AWAY
        await scene.pass_time(4)
        assert (scene.ended, lease.hold) == ([("web", "lease.lost")], Hold.LOST)
        assert (lease.loss is not None, scene.leases.lost, scene.leases.is_over(lease)) == (True, 1, True)
        # The queue answers again: a lost lease stays lost.
        del scene.queue.faults["extend"]
        await scene.pass_time(60)
        assert scene.ended == [("web", "lease.lost")]
        with pytest.raises(FencedError):
            await lease.confirm()


async def test_a_hanging_queue_fences() -> None:
    """A request that never returns is given up, and does not hide the end of a lease."""
    async with running() as scene:
        await scene.take()
        scene.queue.held["extend"] = asyncio.Event()
        await scene.pass_time(272)
        assert scene.ended == [("web", "lease.lost")]
        assert scene.queue.calls["extend"] == 2
        assert scene.leases.failure is not None
        assert scene.leases.failure.code == "queue.silent"


async def test_a_short_failure_is_overcome() -> None:
    """After a failed beat the next comes soon, and the trouble is over with the first success."""
    async with running() as scene:
        lease = await scene.take()
        scene.queue.faults["extend"] = AWAY
        await scene.pass_time(104)
        assert scene.queue.calls["extend"] >= 2
        del scene.queue.faults["extend"]
        await scene.pass_time(20)
        assert (scene.ended, scene.leases.failure) == ([], None)
        assert scene.leases.failed_beats >= 2
        assert lease.ends_at > now() + 270


async def test_a_message_that_is_not_ours_any_more() -> None:
    """One refused handle ends its own lease at once, and the others go on."""
    async with running() as scene:
        lost = await scene.take("lost")
        kept = await scene.take("kept")
        del scene.queue.waiting[lost.message.message_id]
        await scene.pass_time(102)
        assert scene.ended == [("lost", "lease.lost")]
        assert (lost.hold, kept.hold) == (Hold.LOST, Hold.HELD)
        assert scene.extended.count("kept") >= 1


async def test_a_suspended_machine() -> None:
    """After a sleep past the lease's end the job is fenced at once, before any request."""
    async with running() as scene:
        await scene.take()
        put_forward(1000)
        await scene.queue.wait_until(lambda: scene.ended == [("web", "lease.lost")])


async def test_confirming() -> None:
    """A confirmation extends the lease at the queue now, and counts from before the request."""
    async with running() as scene:
        lease = await scene.take()
        put_forward(50)
        began = now()
        await lease.confirm()
        assert scene.queue.calls["extend"] == 1
        assert began + 300 <= lease.ends_at < began + 301


async def test_confirming_repeats() -> None:
    """A confirmation is tried again while the lease lasts, and ends as fenced when it does not."""
    async with running() as scene:
        first, second = await scene.take("first"), await scene.take("second")
        scene.queue.faults["extend"] = AWAY
        confirming = asyncio.create_task(first.confirm())
        await scene.pass_time(10)
        assert not confirming.done()
        del scene.queue.faults["extend"]
        await scene.pass_time(40)
        assert confirming.done()
        await confirming
        scene.queue.faults["extend"] = AWAY
        fenced = asyncio.create_task(second.confirm())
        await scene.pass_time(340)
        with pytest.raises(FencedError, match="confirmed in time"):
            await fenced


async def test_confirming_a_stale_handle() -> None:
    """A lease that the queue has given to another host is not confirmed."""
    async with running() as scene:
        lease = await scene.take()
        scene.queue.waiting.clear()
        with pytest.raises(FencedError) as caught:
            await lease.confirm()
        assert caught.value.code == "lease.lost"
        assert scene.ended == [("web", "lease.lost")]


async def test_parking() -> None:
    """Before the queue's 12 hours are over the job is told to stop, while its lease is still held."""
    async with running(Terms(visibility_s=300, park_after_s=150)) as scene:
        lease = await scene.take()
        await scene.pass_time(149)
        assert lease.hold is Hold.HELD
        await scene.pass_time(3)
        assert (lease.hold, scene.ended) == (Hold.PARKED, [("web", "lease.parked")])
        await scene.pass_time(100)
        assert scene.queue.calls["extend"] == 2
        assert not scene.leases.is_over(lease)
        await lease.confirm()
        assert len(scene.ended) == 1


async def test_giving_back() -> None:
    """A message that is given back is not extended any more, and the next host gets it."""
    async with running() as scene:
        lease = await scene.take()
        await scene.leases.give_back(lease, 0)
        (again,) = await scene.queue.receive(1, 0, 300)
        assert (again.message_id, again.receives) == (lease.message.message_id, 2)
        await scene.pass_time(102)
        assert scene.queue.calls["extend"] == 0
        with pytest.raises(AmistreamError, match="not ours"):
            await scene.leases.give_back(lease, 0)


async def test_a_second_receive() -> None:
    """A refusal of the first handle, asked for before the second receive, does not end the lease."""
    async with running() as scene:
        lease = await scene.take()
        answer = scene.queue.held["extend"] = asyncio.Event()
        confirming = asyncio.create_task(lease.confirm())
        await scene.queue.wait_call("extend")
        scene.queue.hand_out_again("m1")
        (again,) = await scene.queue.receive(1, 0, 300)
        assert scene.leases.renew(replace(lease.message, handle=again.handle, ends_at=now() + 300))
        answer.set()
        await scene.pass_time(10)
        assert confirming.done()
        assert (lease.hold, scene.ended) == (Hold.HELD, [])
        scene.leases.drop(lease)
        assert not scene.leases.renew(lease.message)


async def test_a_check_after_a_suspension() -> None:
    """A process that was stopped past the end of its lease finds that out at its next request, before any timer."""
    async with running() as scene:
        lease = await scene.take()
        lease.check()
        put_forward(271)
        with pytest.raises(FencedError):
            lease.check()
        assert (lease.hold, scene.ended) == (Hold.LOST, [("web", "lease.lost")])
