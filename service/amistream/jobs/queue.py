"""The queue of jobs: `max_jobs` run at once in the order they came, the others wait.

It owns the jobs' tasks and nothing else: what a job does is the `run` it was given. Ended jobs are remembered up to
a bound.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from amistream.errors import BusyError, ConflictError, NotFoundError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.request import JobRequest

REMEMBERED = 1000
"""Ended jobs kept for `list` and `get`; older ones are forgotten."""


class JobQueue:
    """`async with JobQueue(run, ...)`: leaving waits for every job. `run(job)` must end the job's state itself."""

    def __init__(self, run: Callable[[Job], Awaitable[None]], *, max_jobs: int, max_queued: int) -> None:
        self._run = run
        self._max_queued = max_queued
        self._slots = asyncio.Semaphore(max_jobs)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._keys: dict[str, str] = {}
        self._group = asyncio.TaskGroup()
        self.stopping = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def submit(self, request: JobRequest, *, idempotency_key: str = "") -> tuple[Job, bool]:
        """Queue a job; returns it and whether it is new (false: the key was seen before, with the same request).

        Raises `BusyError` when stopping or full, `ConflictError` when the key came with another request or a living job
        writes to the same place.
        """
        if idempotency_key in self._keys:
            known = self.get(self._keys[idempotency_key])
            if known.request != request:
                raise ConflictError(
                    "job.key_reused",
                    f"cannot take the job: its Idempotency-Key is that of job {known.id}, which is another",
                    hint="send a new key with a new request",
                )
            return known, False
        if self.stopping:
            raise BusyError("daemon.stopping", "cannot take the job: the daemon is stopping", hint="try again later")
        living = [job for job in self._jobs.values() if not job.state.ended]
        if sum(job.state is State.QUEUED for job in living) >= self._max_queued:
            raise BusyError(
                "daemon.full",
                f"cannot take the job: {self._max_queued} jobs wait already",
                hint="try again later",
            )
        for job in living:
            if (job.request.destination, job.request.prefix) == (request.destination, request.prefix):
                raise ConflictError(
                    "job.same_destination",
                    f"cannot take the job: job {job.id} is writing to {request.destination} already",
                    hint=f"wait for it (amistream watch {job.id}), or choose another destination or prefix",
                    field="destinations",
                )
        job = Job(request)
        self._jobs[job.id] = job
        if idempotency_key:
            self._keys[idempotency_key] = job.id
        task = self._group.create_task(self._live(job), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._settle(job))
        self._forget_oldest()
        return job, True

    def get(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFoundError(
                "job.unknown", f"cannot find a job {job_id!r}", hint="`amistream jobs` lists them", field="id"
            ) from None

    def jobs(self, state: State | None = None) -> list[Job]:
        """Every job that is remembered, oldest first."""
        return [job for job in self._jobs.values() if state in (None, job.state)]

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop and clean up; its state says when it has. A second request is the same as one."""
        job = self.get(job_id)
        if job.state.ended:
            raise ConflictError("job.ended", f"cannot cancel job {job_id}: it is {job.state.value} already")
        if not job.cancel_requested:
            job.cancel_requested = True
            self._tasks[job_id].cancel()
        return job

    def resume(self, job_id: str) -> Job:
        """Take an interrupted job up again. No job is kept across a restart yet, so each request is refused."""
        job = self.get(job_id)
        raise ConflictError(
            "job.not_resumable",
            f"cannot resume job {job_id}: it is {job.state.value}, and only an interrupted job can go on",
            hint="submit it again with `amistream bundle`",
        )

    async def drain(self, *, cancel: bool) -> None:
        """Take no more jobs, cancel those that wait, and with `cancel` those that run; return when all have ended."""
        self.stopping = True
        for job in self.jobs():
            if not job.state.ended and (cancel or job.state is State.QUEUED):
                self.cancel(job.id)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _live(self, job: Job) -> None:
        async with self._slots:
            await self._run(job)

    def _settle(self, job: Job) -> None:
        """Close the books of a task that ended, also of one that was cancelled before its first step."""
        del self._tasks[job.id]
        if job.state is State.QUEUED:
            job.move(State.CANCELLED)

    def _forget_oldest(self) -> None:
        ended = [job_id for job_id, job in self._jobs.items() if job.state.ended]
        for job_id in ended[: max(0, len(self._jobs) - REMEMBERED)]:
            del self._jobs[job_id]
            self._keys = {key: known for key, known in self._keys.items() if known != job_id}
