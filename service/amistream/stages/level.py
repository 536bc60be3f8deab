"""Chooses the compression level that fits the link, block by block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

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
