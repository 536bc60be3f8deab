"""The rate limit, with a clock of the test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amistream.flow.rate_limit import RateLimit


class Clock:
    """A clock that advances only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(rate=st.integers(16 * 1024, 10**9), counts=st.lists(st.integers(1, 512 * 1024), min_size=1, max_size=50))
async def test_the_rate_is_kept(rate: int, counts: list[int]) -> None:
    """Bytes in any pieces take exactly the time of the rate, and unused time is not saved."""
    clock = Clock()
    limit = RateLimit(rate, clock=clock, sleep=clock.sleep)
    clock.now += 100  # idle time gives no burst
    started = clock.now
    for count in counts:
        await limit.wait_for(count)
    assert abs((clock.now - started) - sum(counts[:-1]) / rate) < 1e-6
    assert limit.slice_size <= max(rate / 8, 4096)
