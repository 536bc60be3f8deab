"""The level that fits the link, and the rate limit, by a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amistream.flow.rate_limit import RateLimit
from amistream.stages.level import AUTO_LEVELS, AutoLevel


class Clock:
    """A clock that goes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def levels(used: float, blocks: int, chooser: AutoLevel, share: list[float]) -> list[int]:
    share[0] = used
    return [chooser() for _ in range(blocks)]


def test_the_level_follows_the_queue() -> None:
    """It begins at the quickest, climbs while the upload is behind, holds between, and falls when cores are behind."""
    share = [0.0]
    chooser = AutoLevel(lambda: share[0])
    assert set(levels(0.0, 20, chooser, share)) == {AUTO_LEVELS[0]}
    climbing = levels(1.0, 40, chooser, share)
    assert climbing == sorted(climbing)
    assert climbing[-1] == AUTO_LEVELS[-1]
    assert set(levels(0.75, 20, chooser, share)) == {AUTO_LEVELS[-1]}
    falling = levels(0.25, 40, chooser, share)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == AUTO_LEVELS[0]


@given(rate=st.integers(16 * 1024, 10**9), counts=st.lists(st.integers(1, 512 * 1024), min_size=1, max_size=50))
async def test_the_rate_is_kept(rate: int, counts: list[int]) -> None:
    """However the bytes are cut, they take just the time that the rate gives them, and none is saved up."""
    clock = Clock()
    limit = RateLimit(rate, clock=clock, sleep=clock.sleep)
    clock.now += 100  # idle time gives no burst
    started = clock.now
    for count in counts:
        await limit.wait_for(count)
    assert abs((clock.now - started) - sum(counts[:-1]) / rate) < 1e-6
    assert limit.slice_size <= max(rate / 8, 4096)
