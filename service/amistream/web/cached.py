"""Keeps the answer of a slow question, so that several pages, and one that is loaded again, ask only once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Cached(Generic[_T]):
    """Asks again when the answer is older than the caller accepts; one question at a time."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._answer: _T
        self._asked_at: float | None = None

    async def get(self, max_age_s: float) -> _T:
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self._asked_at is None or clock() - self._asked_at > max_age_s:
                self._answer = await self._ask()
                self._asked_at = clock()
            return self._answer
