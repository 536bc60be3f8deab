"""The commands about jobs that exist: list, look, follow, end, take up again. Each returns its exit status.

What talks to the daemon, or stands in for it, is imported when a command runs: `--help` and a mistyped option need none
of it.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from amistream.cli.options import (
    ConfigOption,
    DetachOption,
    InProcessOption,
    JobArgument,
    JsonOption,
    SocketOption,
    socket_path,
)
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE, EXIT_INTERRUPTED, ConflictError, JobError, UsageError
from amistream.events import JobView, State

if TYPE_CHECKING:
    from amistream.cli.client import Client
    from amistream.jobs.job import Job
    from amistream.jobs.queue import JobQueue

_Answer = TypeVar("_Answer")


def jobs(
    *,
    state: Annotated[
        State | None, typer.Option("--state", metavar="STATE", help=f"Only jobs in this state: {', '.join(State)}.")
    ] = None,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """List the jobs, oldest first.

    Example: [bold]amistream jobs --state bundling[/bold]
    """
    from amistream.cli.summary import job_table
    from amistream.events import JobList

    found = JobList(jobs=_list(state, in_process=in_process, socket=socket, config=config))
    put_result(found.model_dump_json() if as_json else job_table(found.jobs))
    return EXIT_DONE


def status(
    job_id: JobArgument,
    *,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show one job: its state, how far it is, and what it made or why it failed.

    Example: [bold]amistream status 20250131-120000-5f3a9c --json[/bold]
    """
    from amistream.cli.summary import job_text

    if in_process:
        from amistream.cli.in_process import ask_in_process

        async def look(queue: JobQueue) -> JobView:
            return queue.get(job_id).view()

        job = ask_in_process(look, config)
    else:
        job = _ask(socket_path(socket, config), lambda client: client.get(job_id))
    put_result(job.model_dump_json() if as_json else job_text(job, option=" --in-process" * in_process))
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
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cancel a job and wait until it has removed what it had stored; also one that ended unfinished.

    Example: [bold]amistream cancel 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import put_begun

    job = _cancel(job_id, detach=_detach(detach, in_process), in_process=in_process, socket=socket, config=config)
    return put_begun(job, as_json=as_json)


def resume(
    job_id: JobArgument,
    *,
    detach: DetachOption = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take a job up again that was interrupted or failed, where it stopped, and follow it.

    What is stored already is proved, not sent again; a volume that changed since is bundled anew.

    Example: [bold]amistream resume 20250131-120000-5f3a9c[/bold]
    """
    from amistream.cli.follow import follow_in_daemon, put_begun, put_end

    if _detach(detach, in_process) or not in_process:

        async def begin(client: Client) -> str:
            await client.resume(job_id)
            return job_id

        job = follow_in_daemon(socket_path(socket, config), begin, detach=detach)
        return put_begun(job, as_json=as_json) if detach else put_end(job, as_json=as_json)

    from amistream.cli.in_process import follow_in_process

    async def begin_here(queue: JobQueue) -> Job:
        return await queue.resume(job_id)

    job, interrupted = follow_in_process(begin_here, config)
    exit_status = put_end(job, as_json=as_json)
    return EXIT_INTERRUPTED if interrupted else exit_status


def clean(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only list the jobs whose leftovers would be removed.")
    ] = False,
    in_process: InProcessOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove what unfinished jobs left at their destinations: parts, open uploads, manifests, images.

    Only what the journal proves to be a job's own is touched. A job whose leftovers are gone cannot be resumed.

    Example: [bold]amistream clean --dry-run[/bold]
    """
    from amistream.cli.summary import job_table
    from amistream.events import JobList

    found = _list(None, in_process=in_process, socket=socket, config=config)
    unfinished = [job for job in found if job.resumable]
    if not dry_run:
        unfinished = [
            _cancel(job.id, detach=False, in_process=in_process, socket=socket, config=config) for job in unfinished
        ]
    listed = JobList(jobs=tuple(unfinished))
    put_result(listed.model_dump_json() if as_json else job_table(listed.jobs))
    return EXIT_DONE


def _list(state: State | None, *, in_process: bool, socket: Path | None, config: Path | None) -> tuple[JobView, ...]:
    if not in_process:
        return _ask(socket_path(socket, config), lambda client: client.jobs(state)).jobs

    from amistream.cli.in_process import ask_in_process

    async def look(queue: JobQueue) -> tuple[JobView, ...]:
        return tuple(job.view() for job in queue.jobs(state))

    return ask_in_process(look, config)


def _cancel(job_id: str, *, detach: bool, in_process: bool, socket: Path | None, config: Path | None) -> JobView:
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
        f"cannot cancel job {job_id}: it was {job.state.value} before that",
        hint=f"`amistream status {job_id}` shows what it came to",
    )


def _detach(detach: bool, in_process: bool) -> bool:
    if detach and in_process:
        raise UsageError("usage", "cannot run the command: --detach needs the daemon, and --in-process has none")
    return detach


def _ask(socket: Path, question: Callable[[Client], Awaitable[_Answer]]) -> _Answer:
    """Put one question to the daemon."""
    from amistream.cli.client import Client

    async def ask() -> _Answer:
        async with Client(socket) as client:
            return await question(client)

    return asyncio.run(ask())
