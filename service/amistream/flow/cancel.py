"""Protects work that a cancel must not interrupt, because it would leave something behind outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

log = structlog.get_logger()

SETTLE_S = 5.0
"""Time for the answer to a cancelled request that was sent completely."""

T = TypeVar("T")


async def finish_despite_cancel(work: Awaitable[T], *, on_cancel: Callable[[], object] = lambda: None) -> T:
    """Run `work` to its end; a cancel in the meantime is raised afterwards.

    `on_cancel` is called at every cancel. It must end `work`, unless `work` has its own time limit.
    """
    task = asyncio.ensure_future(work)
    cancelled = await _wait(task, on_cancel=on_cancel)
    if cancelled is not None:
        # Retrieve the failure of `work`, if any, so that asyncio does not report it.
        task.cancelled() or task.exception()
        raise cancelled
    return task.result()


async def await_answer(call: Awaitable[T], is_sent: Callable[[], bool]) -> T:
    """Await `call`; when cancelled after the whole request was sent, wait for the answer before raising the cancel.

    Further cancels do not shorten that wait.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if is_sent() and not task.done():
            log.info("request.cut", wait_s=SETTLE_S)
            await _wait(task, most_s=SETTLE_S)
        task.cancel()
        await _wait(task)
        if not task.cancelled():
            task.exception()
        raise


async def _wait(
    task: asyncio.Future[T], *, most_s: float | None = None, on_cancel: Callable[[], object] = lambda: None
) -> asyncio.CancelledError | None:
    """Wait for the task, `most_s` at the longest; returns the last cancel that came meanwhile."""
    cancelled = None
    loop = asyncio.get_running_loop()
    end = None if most_s is None else loop.time() + most_s
    while not task.done() and (end is None or loop.time() < end):
        try:
            await asyncio.wait({task}, timeout=None if end is None else end - loop.time())
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    return cancelled
