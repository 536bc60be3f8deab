"""What goes how fast: the compression level that fits the link, and an upload's rate limit.

Both look at what the queues and clocks around them say; neither touches payload.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from amistream.values import KIB

AUTO_LEVELS = (1, 2, 3, 4, 5, 6)
"""The measured front of ratio against speed, from the quickest on."""

_BLOCKS_PER_STEP = 4
_RELAXED = 0.5


class AutoLevel:
    """Chooses the compression level block by block, so that neither cores nor link idle.

    The sign is the pool of part buffers. When none is free the upload is behind: compressing harder costs nothing and
    makes less to send, so the level goes up. When half of them are free the link waits for the cores: it goes down.
    Between the two it stays; mixing levels is fine, since blocks are independent.
    """

    def __init__(self, used: Callable[[], float], levels: Sequence[int] = AUTO_LEVELS) -> None:
        """`used` tells the share of part buffers that are not free, 0 to 1. It begins at the quickest level."""
        self._used = used
        self._levels = levels
        self._index = 0
        self._asked = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The level for the next block; called from any worker."""
        with self._lock:
            self._asked += 1
            if self._asked % _BLOCKS_PER_STEP == 0:
                used = self._used()
                if used >= 1:
                    self._index = min(self._index + 1, len(self._levels) - 1)
                elif used <= _RELAXED:
                    self._index = max(self._index - 1, 0)
            return self._levels[self._index]


class RateLimit:
    """Lets bytes through at an even rate, whoever they belong to; exact over a second or two."""

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
        """How much to ask for at once: an eighth of a second's worth, so that no wait is long."""

    async def wait_for(self, count: int) -> None:
        """Return when `count` bytes may be sent. Unused time is not saved up: there are no bursts."""
        now = self._clock()
        start = max(self._free_at, now)
        self._free_at = start + count / self._bytes_per_s
        if start > now:
            await self._sleep(start - now)
