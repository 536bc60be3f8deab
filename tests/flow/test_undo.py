"""A removal ends: when it is done, when nothing moves, when it takes too long, or soon after a process is to stop."""

from __future__ import annotations

import asyncio

import pytest

from amistream.errors import AmistreamError, StoreError
from amistream.flow.undo import Progress, Undoing, undo_despite_cancel
from support.loop import clock

STALL_S = 120.0
GONE = StoreError("store.gone", "cannot remove: the bucket is gone")


async def pass_time(seconds: float) -> None:
    clock(STALL_S).loop.put_forward(seconds)
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "left"),
    [(None, None), (GONE, "store.gone"), (KeyError("secret"), "internal.bug"), (TimeoutError(), "internal.bug")],
    ids=str,
)
async def test_reason(error: Exception | None, left: str | None) -> None:
    """A removal that fails returns its error; a bug in it ends no job."""

    async def removal(_: Progress) -> None:
        if error is not None:
            raise error

    found = await Undoing(STALL_S).run(removal)
    assert (found.code if found else None) == left
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("pause_s", "steps", "things"),
    [(STALL_S + 1, 0, 100), (STALL_S - 1, 15, 100), (1.0, 100, 100), (1.0, 2500, 2500)],
    ids=["stuck", "slow", "quick", "many"],
)
async def test_bounds(pause_s: float, steps: int, things: int) -> None:
    """A removal goes on while things are removed, but not for ever."""
    taken = 0

    async def removal(progress: Progress) -> None:
        nonlocal taken
        for _ in range(things):
            await pass_time(pause_s)
            progress()
            taken += 1

    error = await Undoing(STALL_S).run(removal)
    assert taken == steps
    assert (error is None) == (steps == things)
    assert error is None or error.code == "removal.unfinished"


async def test_comparing_takes_as_long_as_it_takes() -> None:
    """A removal that reads large parts to compare them is not ended while pieces of them come."""

    async def removal(progress: Progress) -> None:
        for _ in range(100):
            await pass_time(STALL_S - 1)
            progress(compared=True)
        await pass_time(STALL_S + 1)

    error = await Undoing(STALL_S).run(removal)
    assert error is not None
    assert f"no answer came for {STALL_S:g} s" in error.message
    assert clock(STALL_S).loop.time() > 100 * (STALL_S - 1)


@pytest.mark.parametrize("early", [True, False])
async def test_hurried(early: bool) -> None:
    """A removal in a process that is to stop has a moment left, whatever it still removes."""
    undoing, taken = Undoing(STALL_S), 0

    async def removal(progress: Progress) -> None:
        nonlocal taken
        undoing.hurry()
        while True:
            await pass_time(STALL_S / 24 - 0.1)
            progress()
            undoing.hurry()
            taken += 1

    if early:
        undoing.hurry()
    error = await undoing.run(removal)
    assert taken == 2
    assert error is not None
    assert "interrupted" in error.message


async def test_reported_before_a_cancel_is_raised() -> None:
    """A removal reports what is left, however often its caller is cancelled meanwhile."""
    begun = asyncio.Event()
    told: list[AmistreamError | None] = []

    async def removal(_: Progress) -> None:
        begun.set()
        await asyncio.sleep(0)
        raise GONE

    task = asyncio.create_task(undo_despite_cancel(removal, told.append, stall_s=STALL_S))
    await begun.wait()
    for _ in range(2):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [GONE]


async def test_a_cancel_of_its_own_is_none_of_the_limits() -> None:
    """A removal whose task is cancelled raises the cancel."""

    async def removal(_: Progress) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Undoing(STALL_S).run(removal)
