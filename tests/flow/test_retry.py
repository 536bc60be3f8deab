"""Delays between attempts, and the deadline of an attempt."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from amistream.errors import FencedError, StoreError
from amistream.flow.retry import Alive, RetryPolicy, with_retries
from support.loop import clock


@pytest.mark.parametrize("failures", [1, 2, 5, 31, 1100, 10**6])
def test_delays_stay_within_the_cap(failures: int) -> None:
    """After any number of failures the delay is between 0 and the cap, and at most the doubled base."""
    policy = RetryPolicy(attempts=10**7, base_s=0.5, cap_s=20, stall_s=60)
    most = min(20, 0.5 * 2 ** (failures - 1)) if failures < 10 else 20
    assert all(0 <= policy.delay_s(failures) <= most for _ in range(100))


@pytest.mark.parametrize(("pause_s", "steps"), [(59, 10), (61, 2)], ids=["in time", "too late"])
async def test_a_deadline_moves_with_progress(pause_s: float, steps: int) -> None:
    """An attempt may take any time while something moves within `stall_s`, and is given up otherwise."""
    policy = RetryPolicy(attempts=2, base_s=0, cap_s=0, stall_s=60)
    taken = 0

    async def attempt(alive: Alive) -> None:
        nonlocal taken
        for _ in range(10):
            taken += 1
            clock(pause_s).loop.put_forward(pause_s)
            for _ in range(3):
                await asyncio.sleep(0)
            alive()

    stalled = pytest.raises(StoreError, match=r"no progress for 60 s \(tried 2 times\)")
    with stalled if pause_s > policy.stall_s else nullcontext():
        await with_retries(policy, "move", attempt)
    assert taken == steps


async def test_a_check_before_each_attempt() -> None:
    """A check that fails ends the attempts, and its error is raised as it is."""
    made = 0

    def check() -> None:
        if made == 2:
            raise FencedError("lease.lost", "cannot go on: the lease is over")

    async def attempt(_: Alive) -> None:
        nonlocal made
        made += 1
        raise StoreError("store.stalled", "cannot move", transient=True)

    policy = RetryPolicy(attempts=5, base_s=0, cap_s=0, stall_s=60, check=check)
    with pytest.raises(FencedError):
        await with_retries(policy, "move", attempt)
    assert made == 2
