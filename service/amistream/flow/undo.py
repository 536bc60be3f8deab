"""What exists outside and must go again if the job does not end well.

An undo is registered before the thing can exist, so that a cancel in mid-request is covered too; undoing what never
came to be is no error. Undos run last-in first-out, each is tried, and they are not cut short by a second cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from amistream.flow.cancel import finish_despite_cancel

log = structlog.get_logger()


class Undo:
    """One job's list. `run` leaves it empty; `forget` keeps what was made."""

    def __init__(self, *, deadline_s: float = 120.0, parallel: int = 1) -> None:
        """`deadline_s` bounds each undo, so that a dead endpoint does not keep a cancelled job for ever.

        `parallel` are undone together: more than one for things of which none needs another gone first.
        """
        self._deadline_s = deadline_s
        self._parallel = parallel
        self._actions: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def push(self, what: str, action: Callable[[], Awaitable[None]]) -> None:
        """Register `action`, which removes `what` (for people) and may find it absent."""
        self._actions.append((what, action))

    def forget(self) -> None:
        self._actions.clear()

    async def run(self) -> list[str]:
        """Undo everything; returns what could not be removed, with the reason."""
        return await finish_despite_cancel(self._run_all())

    async def _run_all(self) -> list[str]:
        left: list[str] = []
        while self._actions:
            newest = [self._actions.pop() for _ in range(min(self._parallel, len(self._actions)))]
            undone = [self._undo(what, action) for what, action in newest]
            left += filter(None, await asyncio.gather(*undone) if len(undone) > 1 else [await undone[0]])
        return left

    async def _undo(self, what: str, action: Callable[[], Awaitable[None]]) -> str:
        """Undo one thing; returns what is left of it, with the reason, or ''."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await action()
        except (Exception, asyncio.CancelledError) as error:
            current = asyncio.current_task()
            # A task group that failed inside leaves its mark on the task (until Python 3.13): only a cancel is one.
            if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
                raise
            log.warning("undo.failed", what=what, reason=str(error) or type(error).__name__)
            return f"{what}: {str(error) or type(error).__name__}"
        return ""
