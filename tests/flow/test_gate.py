"""The gate: so many requests at a time, fewer when the service asks for it, refused ones first."""

from __future__ import annotations

import asyncio

from amistream.flow.gate import Gate


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_only_so_many() -> None:
    """A request waits while as many as allowed are in flight."""
    gate = Gate(2, clock=Clock())
    await gate.enter()
    await gate.enter()
    third = asyncio.ensure_future(gate.enter())
    await turns()
    assert not third.done()
    gate.leave()
    await third
    assert gate.in_flight == 2


async def test_narrows_once_for_all_in_flight() -> None:
    """Refusals of requests that were sent before the gate narrowed count once."""
    clock = Clock()
    gate = Gate(50, clock=clock)
    clock.now += 1
    entered = [await gate.enter() for _ in range(50)]
    clock.now += 0.1
    for each in entered:
        gate.narrow(each)
    assert gate.width == 40
    for _ in entered:
        gate.leave()
    gate.narrow(await gate.enter(), 0.5)
    assert gate.width == 20


async def test_widens_with_success() -> None:
    """Successes widen the gate by one a second at most, and by one for as many as are in flight at most."""
    clock = Clock()
    gate = Gate(50, clock=clock)
    gate.narrow(clock(), 0.2)
    assert gate.width == 10
    clock.now += 100
    assert gate.width == 10
    for _ in range(11):
        clock.now += 20
        gate.widen()
    assert gate.width == 11
    for _ in range(1000):
        clock.now += 0.01
        gate.widen()
    assert gate.width in {20, 21}
    for _ in range(10_000):
        clock.now += 1
        gate.widen()
    assert gate.width == 50


async def test_never_closes() -> None:
    """However often requests are refused, one may be in flight."""
    clock = Clock()
    gate = Gate(4, clock=clock)
    for _ in range(20):
        clock.now += 0.01
        gate.narrow(clock(), 0.5)
    assert gate.width == 1
    await gate.enter()


async def test_refused_requests_come_first() -> None:
    """No new request enters before those that were refused have come back."""
    clock = Clock()
    gate = Gate(2, clock=clock, sleep=clock.sleep)
    first, _ = await gate.enter(), await gate.enter()
    gate.narrow(first, 0.5)
    back, new = asyncio.ensure_future(gate.come_back(0.1)), asyncio.ensure_future(gate.enter())
    await turns()
    assert not back.done()
    assert not new.done()
    gate.leave()
    await turns()
    assert back.done()
    assert not new.done()
    gate.leave()
    await new
