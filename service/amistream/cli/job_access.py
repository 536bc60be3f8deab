"""Reaches jobs through the daemon, or in this process with `--in-process`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from amistream.cli.daemon_socket import socket_path
from amistream.cli.job_table import listing_path, states_of
from amistream.cli.showing import Showing
from amistream.errors import EXIT_INTERRUPTED, ConflictError, JobError, UsageError
from amistream.states import State

if TYPE_CHECKING:
    from amistream.cli.client import Client
    from amistream.events import JobLines, JobList, JobView
    from amistream.jobs.job import Job
    from amistream.jobs.queue import JobQueue
    from amistream.request import JobRequest

_Answer = TypeVar("_Answer")


class Jobs:
    """The daemon's jobs, or with `in_process` those of the state directory."""

    def __init__(
        self,
        socket: Path | None,
        config: Path | None,
        *,
        in_process: bool,
        detach: bool = False,
        shown: Showing | None = None,
    ) -> None:
        """`detach`: never wait for a job's end. Raises `UsageError`."""
        if detach and in_process:
            raise UsageError("usage", "cannot run the command: --detach needs the daemon, and --in-process has none")
        self._socket = socket
        self._config = config
        self._in_process = in_process
        self._detach = detach
        self._shown = shown or Showing()
        self._option = " --in-process" if in_process else ""

    def list(self, state: str | None = None, label: str | None = None, limit: int | None = None) -> JobList:
        """The jobs, oldest first; `state` is a word of --state, `limit` selects the newest."""
        from amistream.events import JobList

        async def here(queue: JobQueue) -> JobList:
            return JobList(jobs=tuple(queue.view(job) for job in queue.chosen(states_of(state), label, limit)))

        return self._ask(lambda client: client.jobs(listing_path(state, label, limit)), here)

    def get(self, job_id: str) -> JobView:
        async def here(queue: JobQueue) -> JobView:
            return queue.view(queue.find(job_id))

        return self._ask(lambda client: client.get(job_id), here, job_id)

    def lines(self, job_id: str) -> JobLines:
        """The lines that were logged about a job."""

        async def here(queue: JobQueue) -> JobLines:
            from amistream.events import JobLines

            found = queue.find(job_id).id
            return JobLines(id=found, lines=tuple(await queue.lines(found)))

        return self._ask(lambda client: client.lines(job_id), here, job_id)

    def submit(self, request: JobRequest) -> int:
        """Run a job, write its result, and return the exit status."""

        async def begin_here(queue: JobQueue) -> Job:
            return (await queue.submit(request))[0]

        return self._run(lambda client: client.submit(request), begin_here)

    def resume(self, job_id: str) -> int:
        """Continue a job, write its result, and return the exit status."""
        return self._run(
            lambda client: client.resume(job_id), lambda queue: queue.resume(queue.find(job_id).id), job_id
        )

    def cancel(self, job_id: str) -> tuple[JobView, bool]:
        """Cancel a job and wait until it is removed; return it, and whether a signal here interrupted that."""
        job, interrupted = self._follow(
            lambda client: client.cancel(job_id), lambda queue: queue.cancel(queue.find(job_id).id), job_id
        )
        if self._detach or job.state is State.CANCELLED:
            return job, interrupted
        if job.resumable and job.error is not None:
            raise JobError(**job.error.model_dump())
        raise ConflictError(
            "job.ended",
            f"cannot cancel job {job.id}: it has already ended ({job.state.value})",
            hint=f"`amistream status {job.id}{self._option}` shows its result",
        )

    def _run(
        self,
        in_daemon: Callable[[Client], Awaitable[str]],
        here: Callable[[JobQueue], Awaitable[Job]],
        word: str = "",
    ) -> int:
        from amistream.cli.follow import put_begun, put_end

        job, interrupted = self._follow(in_daemon, here, word)
        if self._detach:
            return put_begun(job, as_json=self._shown.as_json)
        exit_status = put_end(job, self._shown, option=self._option)
        return EXIT_INTERRUPTED if interrupted else exit_status

    def _follow(
        self, in_daemon: Callable[[Client], Awaitable[str]], here: Callable[[JobQueue], Awaitable[Job]], word: str
    ) -> tuple[JobView, bool]:
        """Begin a job and, unless detached, wait for its end; return it, and whether a signal here ended it.

        `word` stands for the job unless it is new.
        """
        if self._in_process:
            from amistream.cli.in_process import follow_in_process

            return follow_in_process(here, self._config, shown=self._shown, word=word)
        from amistream.cli.follow import follow_in_daemon

        socket = socket_path(self._socket, self._config)
        return follow_in_daemon(socket, in_daemon, self._shown, detach=self._detach), False

    def _ask(
        self,
        daemon: Callable[[Client], Awaitable[_Answer]],
        here: Callable[[JobQueue], Awaitable[_Answer]],
        word: str | None = None,
    ) -> _Answer:
        """Ask about the job that `word` stands for, or about all."""
        if self._in_process:
            from amistream.cli.in_process import ask_in_process

            return ask_in_process(here, self._config, remove=False, over_like=word)
        import asyncio

        from amistream.cli.client import Client

        async def ask() -> _Answer:
            async with Client(socket_path(self._socket, self._config)) as client:
                return await daemon(client)

        return asyncio.run(ask())
