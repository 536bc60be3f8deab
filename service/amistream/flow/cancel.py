"""Protects work that a cancel must not interrupt, because it would leave something behind outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

SETTLE_S = 5.0
"""Time for the answer to a cancelled request that was sent completely."""

T = TypeVar("T")


async def finish_despite_cancel(work: Awaitable[T], *, on_cancel: Callable[[], None] = lambda: None) -> T:
    """Run `work` to its end; a cancel in the meantime is raised afterwards.

    `on_cancel` is called at every cancel. It must end `work`, unless `work` has its own time limit.
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
        # Retrieve the failure of `work`, if any, so that asyncio does not report it.
        task.cancelled() or task.exception()
        raise cancelled
    return task.result()


async def await_answer(call: Awaitable[T], is_sent: Callable[[], bool]) -> T:
    """Await `call`; when cancelled after the whole request was sent, wait for the answer before raising the cancel."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if is_sent() and not task.done():
            await asyncio.wait({task}, timeout=SETTLE_S)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
