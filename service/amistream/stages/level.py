"""Compression levels: their names, and the automatic choice of the level that fits the link."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

AUTO_LEVELS = (1, 2, 3, 4, 5, 6)
"""The levels with the best ratio at their speed, measured, fastest first."""
_NAMED_LEVELS = {"fast": 1, "balanced": 4, "small": 6}
_HIGHEST = 9
_BLOCKS_PER_STEP = 4
_RELAXED = 0.5


def level_number(name: str) -> int | None:
    """The level 1 to 9 of `fast`, `balanced`, `small` or a digit; None for `auto`. Raises ValueError for others."""
    if name == "auto":
        return None
    level = _NAMED_LEVELS.get(name) or int(name)
    if not 1 <= level <= _HIGHEST:
        raise ValueError("compression levels go from 1 to 9")
    return level


class AutoLevel:
    """Chooses the compression level block by block, so that neither cores nor link idle.

    The measure is the pool of part buffers. When none is free, the upload is the bottleneck: compressing harder costs
    nothing and sends less, so the level rises. When half of them are free, the link waits for the cores: the level
    falls. In between it stays. Blocks are independent, so levels may be mixed.
    """

    def __init__(self, used: Callable[[], float], levels: Sequence[int] = AUTO_LEVELS) -> None:
        """`used` returns the share of part buffers in use, 0 to 1. The first level is the fastest."""
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
