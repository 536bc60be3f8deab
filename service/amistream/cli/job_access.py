"""Reaches jobs through the daemon, or in this process with `--in-process`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from amistream.cli.options import socket_path
from amistream.errors import ConflictError, JobError, UsageError
from amistream.events import JobView, State

if TYPE_CHECKING:
    from amistream.cli.client import Client
    from amistream.jobs.job import Job
    from amistream.jobs.queue import JobQueue


_Answer = TypeVar("_Answer")


def list_jobs(
    state: State | None, *, in_process: bool, socket: Path | None, config: Path | None
) -> tuple[JobView, ...]:
    if not in_process:
        return ask_daemon(socket_path(socket, config), lambda client: client.jobs(state)).jobs

    from amistream.cli.in_process import ask_in_process

    async def look(queue: JobQueue) -> tuple[JobView, ...]:
        return tuple(job.view() for job in queue.jobs(state))

    return ask_in_process(look, config)


def cancel_job(job_id: str, *, detach: bool, in_process: bool, socket: Path | None, config: Path | None) -> JobView:
    if in_process:
        from amistream.cli.in_process import follow_in_process

        async def begin_here(queue: JobQueue) -> Job:
            return await queue.cancel(job_id)

        job, _ = follow_in_process(begin_here, config)
    else:
        from amistream.cli.follow import follow_in_daemon

        async def begin(client: Client) -> str:
            await client.cancel(job_id)
            return job_id

        job = follow_in_daemon(socket_path(socket, config), begin, detach=detach)
    if detach or job.state is State.CANCELLED:
        return job
    if job.resumable and job.error is not None:
        raise JobError(job.error.code, job.error.message, hint=job.error.hint, field=job.error.field)
    raise ConflictError(
        "job.ended",
        f"cannot cancel job {job_id}: it has already ended ({job.state.value})",
        hint=f"`amistream status {job_id}` shows its result",
    )


def check_detach(*, detach: bool, in_process: bool) -> bool:
    if detach and in_process:
        raise UsageError("usage", "cannot run the command: --detach needs the daemon, and --in-process has none")
    return detach


def ask_daemon(socket: Path, question: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
    """Send one request to the daemon."""
    from amistream.cli.client import Client

    async def ask() -> _Answer:
        async with Client(socket) as client:
            return await question(client)

    return asyncio.run(ask())
