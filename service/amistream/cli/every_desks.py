"""The places where the jobs of `convert --every` run: the daemon, or this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.cli.client import Client
from amistream.cli.daemon_socket import socket_path
from amistream.cli.every import Desk, Outcomes
from amistream.errors import AmistreamError
from amistream.events import Event, JobView
from amistream.request.convert import ConvertRequest

if TYPE_CHECKING:
    from amistream.jobs.queue import JobQueue

Work = Callable[[Desk], Awaitable[Outcomes]]


class EveryInterruptedError(AmistreamError):
    """The caller pressed Ctrl-C. Nobody's fault."""

    exit_status = 130
    is_failure = False


class DaemonDesk:
    """Jobs of the daemon."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def jobs(self) -> Sequence[JobView]:
        return (await self._client.jobs()).jobs

    async def submit(self, request: ConvertRequest, key: str) -> str:
        return await self._client.submit(request, key)

    async def resume(self, job_id: str) -> str:
        return await self._client.resume(job_id)

    def events(self, job_id: str) -> AsyncIterator[Event]:
        return self._client.events(job_id)


class OwnDesk:
    """Jobs of this process."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def jobs(self) -> Sequence[JobView]:
        return [job.view() for job in self._queue.jobs()]

    async def submit(self, request: ConvertRequest, key: str) -> str:
        return (await self._queue.submit(request, idempotency_key=key))[0].id

    async def resume(self, job_id: str) -> str:
        return (await self._queue.resume(job_id)).id

    def events(self, job_id: str) -> AsyncIterator[Event]:
        return self._queue.get(job_id).events()


def work_in_daemon(work: Work, socket: Path | None, config: Path | None) -> Outcomes:
    """Work with the daemon's jobs, which go on after Ctrl-C."""

    async def ask() -> Outcomes:
        async with Client(socket_path(socket, config)) as client:
            return await work(DaemonDesk(client))

    try:
        return asyncio.run(ask())
    except KeyboardInterrupt:
        raise EveryInterruptedError(
            "interrupted",
            "the jobs that were begun continue in the daemon",
            hint="the same command again takes up the rest",
        ) from None


def work_here(work: Work, config: Path | None) -> Outcomes:
    """Work with jobs of this process, which Ctrl-C interrupts: the same command again resumes them."""
    from amistream.cli.in_process import ask_in_process
    from amistream.flow.cancel import finish_despite_cancel
    from amistream.settings import OnStop

    async def ask(queue: JobQueue) -> Outcomes:
        try:
            return await work(OwnDesk(queue))
        except asyncio.CancelledError:
            await finish_despite_cancel(queue.drain(OnStop.INTERRUPT))
            raise

    return ask_in_process(ask, config)
