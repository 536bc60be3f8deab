"""The commands about jobs that exist: list, look, follow, end, take up again. Each returns its exit status.

What talks to the daemon is imported when a command runs: `--help` and a mistyped option need none of it.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from amistream.cli.options import ConfigOption, DetachOption, JobArgument, JsonOption, SocketOption, socket_path
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE, ConflictError
from amistream.events import State

if TYPE_CHECKING:
    from amistream.cli.client import Client

_Answer = TypeVar("_Answer")


def jobs(
    *,
    state: Annotated[
        State | None, typer.Option("--state", metavar="STATE", help=f"Only jobs in this state: {', '.join(State)}.")
    ] = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the daemon's jobs, oldest first.

    Example: [bold]amistream jobs --state bundling[/bold]
    """
    from amistream.cli.summary import job_table

    found = _ask(socket_path(socket, config), lambda client: client.jobs(state))
    put_result(found.model_dump_json() if as_json else job_table(found.jobs))
    return EXIT_DONE


def status(
    job_id: JobArgument,
    *,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show one job: its state, how far it is, and what it made or why it failed.

    Example: [bold]amistream status 20250131-120000-5f3a9c --json[/bold]
    """
    from amistream.cli.summary import job_text

    job = _ask(socket_path(socket, config), lambda client: client.get(job_id))
    put_result(job.model_dump_json() if as_json else job_text(job))
    return EXIT_DONE


def watch(
    job_id: JobArgument,
    *,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Follow a job until it has ended; the exit status is the job's. Ctrl-C leaves the job running.

    Example: [bold]amistream watch 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_end

    async def begin(_: Client) -> str:
        return job_id

    return put_end(follow_in_daemon(socket_path(socket, config), begin, detach=False), as_json=as_json)


def cancel(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cancel a job and wait until it has removed what it had stored.

    Example: [bold]amistream cancel 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_begun

    async def begin(client: Client) -> str:
        await client.cancel(job_id)
        return job_id

    job = follow_in_daemon(socket_path(socket, config), begin, detach=detach)
    if detach or job.state is State.CANCELLED:
        return put_begun(job, as_json=as_json)
    raise ConflictError(
        "job.ended",
        f"cannot cancel job {job_id}: it was {job.state.value} before that",
        hint=f"`amistream status {job_id}` shows what it came to",
    )


def resume(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take an interrupted job up again where it stopped, and follow it.

    Example: [bold]amistream resume 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_begun, put_end

    async def begin(client: Client) -> str:
        await client.resume(job_id)
        return job_id

    job = follow_in_daemon(socket_path(socket, config), begin, detach=detach)
    return put_begun(job, as_json=as_json) if detach else put_end(job, as_json=as_json)


def _ask(socket: Path, question: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
    """Put one question to the daemon."""
    from amistream.cli.client import Client

    async def ask() -> _Answer:
        async with Client(socket) as client:
            return await question(client)

    return asyncio.run(ask())
