"""Starts the intake of the daemon's queue, with the queue and the outlet that the settings name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from amistream.aws.notices import Outlet, open_outlet
from amistream.aws.queue_address import parse_queue_url
from amistream.aws.session import Aws
from amistream.aws.sqs import Delivery, RedrivePolicy, Sqs, open_sqs
from amistream.errors import AmistreamError, StoreError
from amistream.fleet.end_watch import watch_end
from amistream.fleet.intake import Intake
from amistream.flow.gather import task_group
from amistream.jobs.queue import JobQueue
from amistream.settings import Settings


@asynccontextmanager
async def taking_jobs(
    settings: Settings, aws: Aws, jobs: JobQueue, changed: Callable[[], object], hurry: asyncio.Event
) -> AsyncIterator[Intake]:
    """Take jobs from the queue of the settings while the block runs. Leaving deals with every message first.

    `changed` and `hurry` are those of the intake. Raises `UsageError` for a URL that is none.
    """
    parse_queue_url(settings.queue_url, field="queue_url")
    holder = f"{socket.gethostname()}/{jobs.deliveries.runner}"

    async def outlet() -> Outlet:
        return await open_outlet(settings.results, aws, settings)

    intake = Intake(
        settings,
        jobs,
        LateQueue(settings, aws),
        holder=holder,
        open_outlet=outlet if settings.results else None,
        changed=changed,
        hurry=hurry,
    )
    async with task_group() as group:
        group.create_task(intake.run(), name="intake")
        watch = group.create_task(watch_end(intake.stop), name="end watch") if settings.queue_watch_notices else None
        try:
            yield intake
        finally:
            if watch is not None:
                watch.cancel()
            intake.stop()


_PERHAPS_OLD = frozenset(
    {
        *("aws.ExpiredToken", "aws.InvalidToken", "aws.InvalidClientTokenId", "aws.UnrecognizedClientException"),
        *("aws.InvalidAccessKeyId", "aws.SignatureDoesNotMatch", "aws.InvalidSignatureException"),
    }
)
"""Codes of credentials that may have been replaced in their file meanwhile."""


class LateQueue:
    """The queue of the settings, opened by the first request that succeeds in that: credentials may come later.

    Jobs look for newer credentials when they begin. A host whose credentials are refused receives none, so the next
    request after such a refusal has the newest.
    """

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self._settings = settings
        self._aws = aws
        self._opened: Sqs | None = None

    async def receive(self, most: int, wait_s: int, visibility_s: int) -> list[Delivery]:
        async with self._queue() as queue:
            return await queue.receive(most, wait_s, visibility_s)

    async def extend(self, handles: Sequence[str], seconds: int) -> dict[str, StoreError]:
        async with self._queue() as queue:
            return await queue.extend(handles, seconds)

    async def delete(self, handles: Sequence[str]) -> dict[str, StoreError]:
        async with self._queue() as queue:
            return await queue.delete(handles)

    async def redrive_policy(self) -> RedrivePolicy:
        async with self._queue() as queue:
            return await queue.redrive_policy()

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[Sqs]:
        try:
            if self._opened is None:
                self._opened = await open_sqs(self._aws, self._settings.queue_url, self._settings, named="queue_url")
            yield self._opened
        except StoreError as error:
            if error.code in _PERHAPS_OLD:
                with suppress(AmistreamError):
                    await self._aws.credentials()
            raise
