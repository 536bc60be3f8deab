"""Watches for the notice that AWS is about to end this instance, so that its jobs are given back in time.

A spot instance is told two minutes before it is interrupted; an instance of an Auto Scaling group as soon as the group
ends it, where a lifecycle hook holds up the end. Both are in the instance's metadata, which is asked every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from amistream.aws.metadata import EndNotice, end_notice
from amistream.errors import AmistreamError

log = structlog.get_logger()

EVERY_S = 5.0
"""AWS asks for it, for spot instances."""


async def watch_end(
    stop: Callable[[], object],
    *,
    look: Callable[[], Awaitable[EndNotice | None]] = end_notice,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Call `stop` once there is a notice, and return. Trouble with the metadata is logged once, and ends nothing."""
    code = ""
    while True:
        try:
            notice = await look()
        except AmistreamError as error:
            if error.code != code:
                log.warning("instance.metadata", code=error.code, reason=error.message, hint=error.hint)
            code = error.code
        else:
            code = ""
            if notice is not None:
                log.warning("instance.ending", reason=notice.reason, at=notice.at and notice.at.isoformat())
                stop()
                return
        await pause(EVERY_S)
