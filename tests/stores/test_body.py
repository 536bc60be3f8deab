"""The request body: never copied, sent in slices, and slowed down by a limit."""

from __future__ import annotations

from amistream.flow.rate_limit import RateLimit
from amistream.stores.s3.body import SLICE, Body

DATA = bytes(range(256)) * (5 * SLICE // 512) + b"rest"


class Clock:
    """A clock that advances only while a task sleeps."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_slices_are_views_and_may_be_asked_for_again() -> None:
    """Each iteration yields all bytes as views of the same memory, and counts them."""
    told: list[int] = []
    body = Body(memoryview(DATA), told.append)
    for _ in range(2):
        pieces = [piece async for piece in body]
        assert b"".join(pieces) == DATA
        assert all(piece.obj is DATA for piece in pieces)
        assert max(map(len, pieces)) == SLICE
    assert sum(told) == 2 * len(DATA)


async def test_wholly_sent_only_at_the_last_slice() -> None:
    """`sent` is false until the last slice was handed over, and again when a repeat begins."""
    body = Body(memoryview(DATA), lambda _: None)
    seen = [body.sent async for _ in body]
    assert seen == [False] * (len(seen) - 1) + [True]
    async for _ in body:
        break
    assert not body.sent


async def test_a_limit_paces_every_slice() -> None:
    """With a limit the slices are small and take the time given by the rate; waiting counts as progress."""
    clock = Clock()
    told: list[int] = []
    limit = RateLimit(1_000_000, clock=clock, sleep=clock.sleep)
    pieces = [bytes(piece) async for piece in Body(memoryview(DATA), told.append, limit)]
    assert b"".join(pieces) == DATA
    assert max(map(len, pieces)) <= 125_000
    assert abs((clock.now - 5.0) - (len(DATA) - len(pieces[-1])) / 1_000_000) < 1e-6
    assert told.count(0) == len(pieces)


def test_for_signers_that_read() -> None:
    """`read`, `seek` and `tell` behave as those of a file."""
    body = Body(memoryview(DATA), lambda _: None)
    assert len(body) == len(DATA)
    assert body.read(3) == DATA[:3]
    assert (body.seek(-4, 2), body.read(), body.tell()) == (len(DATA) - 4, b"rest", len(DATA))
    assert (body.seek(0), body.read()) == (0, DATA)
