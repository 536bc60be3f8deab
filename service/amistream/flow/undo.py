"""Removes the objects that a job has made outside, if the job does not succeed.

An undo is registered before its object can exist, so that a cancel during the request is covered too; undoing a thing
that never existed is no error. Undos run last-in first-out, each is tried, and a second cancel does not interrupt them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from amistream.flow.cancel import finish_despite_cancel

log = structlog.get_logger()


class Undo:
    """One job's list of undos. `run` leaves it empty; `forget` keeps the objects."""

    def __init__(self, *, deadline_s: float = 120.0, parallel: int = 1) -> None:
        """`deadline_s` bounds each undo, so that a dead endpoint does not hold a cancelled job for ever.

        `parallel` undos run at the same time: more than 1 only if their order does not matter.
        """
        self._deadline_s = deadline_s
        self._parallel = parallel
        self._actions: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def push(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Register `action`, which removes `what` (its name for users) and may find it absent."""
        self._actions.append((what, action))

    def forget(self) -> None:
        self._actions.clear()

    async def run(self) -> list[str]:
        """Undo everything; returns the names of objects that could not be removed, with the reasons."""
        return await finish_despite_cancel(self._run_all())

    async def _run_all(self) -> list[str]:
        left: list[str] = []
        while self._actions:
            newest = [self._actions.pop() for _ in range(min(self._parallel, len(self._actions)))]
            undone = [self._undo(what, action) for what, action in newest]
            left += filter(None, await asyncio.gather(*undone) if len(undone) > 1 else [await undone[0]])
        return left

    async def _undo(self, what: str, action: Callable[[], Awaitable[None]]) -> str:
        """Run one undo; returns its name with the reason if it failed, or ''."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await action()
        except (Exception, asyncio.CancelledError) as error:
            current = asyncio.current_task()
            # A task group that failed inside counts as a cancel of the task until Python 3.13: check for a real one.
            if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
                raise
            log.warning("undo.failed", what=what, reason=str(error) or type(error).__name__)
            return f"{what}: {str(error) or type(error).__name__}"
        return ""
