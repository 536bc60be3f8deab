"""Removes what was made outside and not finished: for a bounded time, and not cut short by a cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Protocol

import structlog

from amistream.errors import AmistreamError, JobError, bug_error
from amistream.flow.cancel import finish_despite_cancel

log = structlog.get_logger()

UNDO_STALLS = 2
"""A removal is given up when nothing was removed for so many times `stall_timeout_s`. Guess."""
_MOST_STALLS = 15
"""Limit of a whole removal in such spans: an endpoint that answers now and then holds no job for hours. Guess."""
_HURRY_SHARE = 1 / 12
"""Share of such a span that is left once the process is to stop: 5 s by default. Guess."""
_EARNED_S = 1.0
"""Seconds that each removed thing adds to the limit of the whole, or 100,000 parts could never be removed. Guess."""


class Progress(Protocol):
    """Called whenever a thing is removed, and with `compared` whenever a piece of one is read to be compared."""

    def __call__(self, *, compared: bool = False) -> None: ...


class Undoing:
    """One removal. Its caller keeps cancels away from `run`."""

    def __init__(self, stall_s: float) -> None:
        """`stall_s` is the longest time without a thing removed, in seconds."""
        self._stall_s = stall_s
        self._latest = inf
        self._moved = 0.0
        self._hurried = False
        self._timeout: asyncio.Timeout | None = None

    async def run(self, removal: Callable[[Progress], Awaitable[object]]) -> AmistreamError | None:
        """Run `removal` within the limits; returns the reason why something is left, if anything is."""
        self._latest = min(self._latest, _now() + _MOST_STALLS * self._stall_s)
        self._moved = _now()
        try:
            async with asyncio.timeout_at(self._deadline()) as self._timeout:
                await removal(self._progress)
        except AmistreamError as error:
            return error
        except (Exception, asyncio.CancelledError) as error:
            # Until Python 3.13 a task group that failed inside may keep the timeout from raising TimeoutError.
            ended = isinstance(error, TimeoutError | asyncio.CancelledError)
            if ended and self._timeout is not None and self._timeout.expired():
                return JobError("removal.unfinished", f"cannot finish the removal: {self._why()}")
            if isinstance(error, asyncio.CancelledError):
                raise
            log.exception("job.bug")
            return bug_error(error)
        finally:
            self._timeout = None
        return None

    def hurry(self) -> None:
        """End the removal soon; a later one finds what is left."""
        if not self._hurried:
            self._hurried, self._latest = True, _now() + self._stall_s * _HURRY_SHARE
            self._extend()

    def _why(self) -> str:
        if self._hurried:
            return "it was interrupted"
        return f"no answer came for {self._stall_s:g} s" if _now() < self._latest else "the endpoint is too slow"

    def _progress(self, *, compared: bool = False) -> None:
        now = _now()
        if not self._hurried:
            # A store without checksums reads whole parts, which takes as long as it takes.
            self._latest += now - self._moved if compared else _EARNED_S
        self._moved = now
        self._extend()

    def _extend(self) -> None:
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._deadline())

    def _deadline(self) -> float:
        return min(self._latest, _now() + self._stall_s)


async def undo_despite_cancel(
    removal: Callable[[Progress], Awaitable[object]], report: Callable[[AmistreamError | None], None], *, stall_s: float
) -> None:
    """Run a removal to its end, and report why something is left, before a cancel in the meantime is raised."""

    async def work() -> None:
        report(await Undoing(stall_s).run(removal))

    await finish_despite_cancel(work())


def _now() -> float:
    return asyncio.get_running_loop().time()
