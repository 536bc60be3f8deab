"""Work that a cancel must not cut in the middle, because something outside would be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

SETTLE_S = 5.0
"""How long a cancelled request that was wholly sent may take to be answered."""

T = TypeVar("T")


async def finish_despite_cancel(work: Awaitable[T], *, on_cancel: Callable[[], None] = lambda: None) -> T:
    """Run `work` to its end; a cancel that comes meanwhile is raised afterwards.

    `work` must bound its own time, or `on_cancel`, which is called at every cancel, must bring it to its end.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    if cancelled is not None:
        # Its own failure, if any, is of no interest any more, but must be looked at.
        task.cancelled() or task.exception()
        raise cancelled
    return task.result()


async def await_answer(call: Awaitable[T], wholly_sent: Callable[[], bool]) -> T:
    """Await `call`; when cancelled after everything was sent, wait for the answer before passing the cancel on."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if wholly_sent() and not task.done():
            await asyncio.wait({task}, timeout=SETTLE_S)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
