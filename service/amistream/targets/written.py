"""Writes one image to a target: open, then commit or abandon. A cancel waits for the running call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from amistream.flow.cancel import finish_despite_cancel
from amistream.ports.target import Target


@asynccontextmanager
async def written(target: Target, size: int, least: int, note: Callable[[str], None]) -> AsyncIterator[None]:
    """Open the target for the block, at whose end the image is complete and gets its name.

    If the block raises, the target is abandoned, and `note` gets what stays behind.
    """
    try:
        await finish_despite_cancel(asyncio.to_thread(target.open, size, least))
        yield
        await finish_despite_cancel(asyncio.to_thread(target.commit))
    except BaseException:

        async def abandon() -> None:
            if left := await asyncio.to_thread(target.abandon):
                note(left)

        await finish_despite_cancel(abandon())
        raise
