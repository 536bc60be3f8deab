"""Work that a cancel must not cut in the middle, because something outside would be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uncut(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; a cancel that comes meanwhile is raised afterwards. `work` must bound its own time."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Its own failure, if any, is of no interest any more, but must be looked at.
        task.cancelled() or task.exception()
        raise cancelled
    return task.result()
