"""What exists outside and must go again if the job does not end well.

An undo is registered before the thing can exist, so that a cancel in mid-request is covered too; undoing what never
came to be is no error. Undos run last-in first-out, each is tried, and they are not cut short by a second cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from amistream.flow.uncut import uncut

log = structlog.get_logger()


class Undo:
    """One job's list. `run` leaves it empty; `forget` keeps what was made."""

    def __init__(self, *, deadline_s: float = 120.0) -> None:
        """`deadline_s` bounds each undo, so that a dead endpoint does not keep a cancelled job for ever."""
        self._deadline_s = deadline_s
        self._actions: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def push(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Register `action`, which removes `what` (for people) and may find it absent."""
        self._actions.append((what, action))

    def forget(self) -> None:
        self._actions.clear()

    async def run(self) -> list[str]:
        """Undo everything; returns what could not be removed, with the reason."""
        return await uncut(self._run_all())

    async def _run_all(self) -> list[str]:
        left = []
        while self._actions:
            what, action = self._actions.pop()
            try:
                async with asyncio.timeout(self._deadline_s):
                    await action()
            except (Exception, asyncio.CancelledError) as error:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise
                log.warning("undo.failed", what=what, reason=str(error) or type(error).__name__)
                left.append(f"{what}: {str(error) or type(error).__name__}")
        return left
