"""Lets a limited number of requests be in flight, and fewer when the service asks for it.

A service that is asked too much refuses requests. The gate then narrows by a fifth, once for all requests that were
sent before it did, and widens by one a second. (By half, as usual, it would let through 31 of 40 puts a second that are
allowed, at 100 ms each: measured.) A refused request leaves its place, and comes back before any new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

NARROWER = 0.8
WIDER_PER_S = 1.0


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
        self._changed_at = clock()
        self._refused = 0
        """Requests that were refused and have not come back."""
        self._left = asyncio.Event()
        self.in_flight = 0

    @property
    def width(self) -> int:
        """The number of requests that may be in flight now."""
        return int(self._exact_width())

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

    def narrow(self, entered: float) -> None:
        """Narrow: a request that entered then was refused, or not answered."""
        if entered >= self._changed_at:
            self._width, self._changed_at = max(1.0, NARROWER * self._exact_width()), self._clock()

    def _exact_width(self) -> float:
        return min(self._most, self._width + WIDER_PER_S * (self._clock() - self._changed_at))

    async def _wait(self) -> None:
        self._left.clear()
        await self._left.wait()
