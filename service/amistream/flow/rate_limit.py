"""Limits the rate of uploads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from amistream.values import KIB


class RateLimit:
    """Lets the bytes of all uploads together through at an even rate; exact over a second or two."""

    def __init__(
        self,
        bytes_per_s: int,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0
        self.slice_size = max(4 * KIB, min(512 * KIB, bytes_per_s // 8))
        """Bytes to ask for at once: an eighth of a second's worth, so that no wait is long."""

    async def wait_for(self, count: int) -> None:
        """Return when `count` bytes may be sent. Unused time is not saved, so there are no bursts."""
        now = self._clock()
        start = max(self._free_at, now)
        self._free_at = start + count / self._bytes_per_s
        if start > now:
            await self._sleep(start - now)

    def charge(self, count: int) -> None:
        """Account for bytes that are sent without waiting: those after them wait longer."""
        self._free_at = max(self._free_at, self._clock()) + count / self._bytes_per_s
