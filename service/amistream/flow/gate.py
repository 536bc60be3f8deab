"""Lets a limited number of requests be in flight, and fewer when they are too many for the service or the link.

The gate narrows once for all requests that were sent before it did. It widens with each success: by one for as many as
may be in flight, and by one a second at most. A refused request leaves its place, and comes back before any new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

WIDER_PER_S = 1.0
THROTTLED = 0.8
"""Factor of a throttle. Half, as usual, would let through 31 of 40 puts a second that are allowed, with 100 ms each
(measured).
"""
STALLED = 0.5
"""Factor of a stall, which is noticed late."""


class Gate:
    """At most `most` requests in flight. For one event loop."""

    def __init__(
        self,
        most: int,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._most = most
        self._clock = clock
        self._sleep = sleep
        self._width = float(most)
        self._narrowed_at = self._widened_at = clock()
        self._refused = 0
        """Requests that were refused and have not come back."""
        self._left = asyncio.Event()
        self.in_flight = 0

    @property
    def width(self) -> int:
        """The number of requests that may be in flight now."""
        return int(self._width)

    async def enter(self) -> float:
        """Wait for a place; returns the time, for `narrow`."""
        while self._refused or self.in_flight >= self.width:
            await self._wait()
        self.in_flight += 1
        return self._clock()

    def leave(self) -> None:
        self.in_flight -= 1
        self._left.set()

    async def come_back(self, delay_s: float) -> float:
        """Leave, and enter again after `delay_s`; returns the time of the second entry."""
        self._refused += 1
        self.leave()
        try:
            await self._sleep(delay_s)
            while self.in_flight >= self.width:
                await self._wait()
        finally:
            self._refused -= 1
            self.in_flight += 1
            self._left.set()
        return self._clock()

    def narrow(self, entered: float, factor: float = THROTTLED) -> None:
        """Multiply the width by `factor`: a request that entered then was one too many."""
        if entered >= self._narrowed_at:
            self._width = max(1.0, factor * self._width)
            self._narrowed_at = self._widened_at = self._clock()

    def widen(self) -> None:
        """Count a success."""
        now = self._clock()
        wider = min(1 / self._width, WIDER_PER_S * (now - self._widened_at))
        self._width, self._widened_at = min(self._most, self._width + wider), now

    async def _wait(self) -> None:
        self._left.clear()
        await self._left.wait()
