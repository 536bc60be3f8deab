"""The queue of jobs: `max_jobs` run at once in the order they came, the others wait.

It owns the jobs' tasks and nothing else: what a job does is its work, the `run` or the `clean` that it was given. A job
is in the journal before anybody hears of it, and what an earlier daemon left there is taken up at the start.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from types import TracebackType
from typing import Self

import structlog

from amistream.errors import AmistreamError, BusyError, ConflictError, JobEndedError, NotFoundError, bug_error
from amistream.events import State
from amistream.flow.cancel import finish_despite_cancel
from amistream.jobs.job import Job
from amistream.jobs.journal import REMEMBERED, Journal
from amistream.jobs.records import JournalEntry, NextStep
from amistream.request import JobRequest
from amistream.settings import OnStop

log = structlog.get_logger()

Work = Callable[[Job], Awaitable[None]]


FRESH = 16
"""Ended jobs, of those that came last, that are kept with all their events: somebody may be about to read them."""


class JobQueue:
    """`async with JobQueue(...)`: leaving waits for every job. `run(job)` and `clean(job)` end the job's state."""

    def __init__(
        self, run: Work, clean: Work, journal: Journal, *, max_jobs: int, max_queued: int, default_prefix: str
    ) -> None:
        self._run = run
        self._clean = clean
        self._journal = journal
        self._max_queued = max_queued
        self._default_prefix = default_prefix
        self._slots = asyncio.Semaphore(max_jobs)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._begun: set[asyncio.Task[None] | None] = set()
        self._taken: set[str] = set()
        """Ended jobs that are being taken up: their places are not free."""
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

    async def recover(self, *, resume: bool) -> None:
        """Take up what earlier processes left: finish what they were removing, and with `resume` what they were making.

        Jobs that were run without a daemon are only remembered: whoever ran them may resume them.
        """
        for kept in await self._journal.all():
            job = self._remember(kept)
            removes = kept.fate is NextStep.CLEANING
            goes_on = kept.fate is not NextStep.OVER and job.state is State.INTERRUPTED and kept.by_itself and resume
            if not removes and not goes_on:
                continue
            try:
                await self._claim(job)
            except JobEndedError:
                pass  # another process ended it; it is remembered as that left it
            except ConflictError:
                self._forget(job.id)  # another process has it
            else:
                if self.stopping:
                    return
                self._begin(job.again(), self._clean if removes else self._run)
        self._put_away()

    async def submit(
        self, request: JobRequest, *, idempotency_key: str = "", confined: bool = False
    ) -> tuple[Job, bool]:
        """Queue a job; returns it and whether it is new (false: the key was seen before, with the same request).

        Raises `BusyError` when stopping or full, `ConflictError` when the key came with another request or another job
        writes to the same place, `JobError` when the journal cannot be written.
        """
        known = self._seen(idempotency_key, request)
        if known is None:
            await self._look_at_others(request)
            # The same may have been sent again meanwhile.
            known = self._seen(idempotency_key, request)
        if known is not None:
            return known, False
        self._check_room(request)
        job = Job(request, confined=confined)
        self._jobs[job.id] = job
        if idempotency_key:
            self._keys[idempotency_key] = job.id
        entering = self._journal.add(job.view(), request, confined=confined, idempotency_key=idempotency_key)
        try:
            await finish_despite_cancel(entering)
        except asyncio.CancelledError:
            # Whoever asked does not wait for the answer; the job is entered, or was refused and is not found again.
            if await finish_despite_cancel(self._journal.find(job.id)) is None:
                self._forget(job.id)
            else:
                self._begin(job, self._run)
            raise
        except AmistreamError:
            self._forget(job.id)
            raise
        self._begin(job, self._run)
        self._put_away()
        return job, True

    def _seen(self, idempotency_key: str, request: JobRequest) -> Job | None:
        """The job that came with this key. Raises `ConflictError` when its request was another."""
        if idempotency_key not in self._keys:
            return None
        known = self.get(self._keys[idempotency_key])
        if known.request != request:
            raise ConflictError(
                "job.key_reused",
                f"cannot take the job: its Idempotency-Key is that of job {known.id}, which is another",
                hint="send a new key with a new request",
            )
        return known

    def get(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFoundError(
                "job.unknown",
                f"cannot find a job {job_id!r}",
                hint="`amistream jobs` lists the daemon's, `amistream jobs --in-process` those without one",
                field="id",
            ) from None

    def jobs(self, state: State | None = None) -> list[Job]:
        """Every job that is remembered, oldest first."""
        return [job for job in self._jobs.values() if state in (None, job.state)]

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop and clean up; its state says when it has. A second request is the same as one.

        A job that ended and kept what it stored is begun again, to remove that.
        """
        job = self.get(job_id)
        if job.resumable:
            async with self._taking(job):
                await self._claim(job)
                # Whoever is told so finds it removed, if not by this process then by the next.
                await self._journal.set_fate(job_id, NextStep.CLEANING)
            job = job.again()
            self._begin(job, self._clean)
        elif job.state.ended:
            raise JobEndedError("job.ended", f"cannot cancel job {job_id}: it is {job.state.value} already")
        else:
            self._stop(job)
        return job

    async def resume(self, job_id: str) -> Job:
        """Take up a job that ended unfinished. Raises `ConflictError` when there is nothing to go on with."""
        job = self.get(job_id)
        if not job.resumable:
            raise ConflictError(
                "job.not_resumable",
                f"cannot resume job {job_id}: it is {job.state.value}, and nothing of it is kept",
                hint="submit it again with `amistream bundle`" if job.state.ended else "it goes on by itself",
            )
        self._check_waiting()
        async with self._taking(job):
            await self._claim(job)
            # The daemon may have been told to stop meanwhile, and does not know of this one.
            self._check_waiting()
        job = job.again()
        self._begin(job, self._run)
        return job

    async def drain(self, how: OnStop) -> None:
        """Take no more jobs, stop those that wait, and unless they may finish those that run; return when all ended.

        Jobs that are stopped stay in the journal for the next daemon, unless `how` is to cancel them.
        """
        self.stopping = True
        for job in self.jobs():
            if not job.state.ended and (how is not OnStop.FINISH or job.state is State.QUEUED):
                self._stop(job, keep=how is not OnStop.CANCEL)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    @asynccontextmanager
    async def _taking(self, job: Job) -> AsyncIterator[None]:
        """Keep an ended job from a second request, and its place from another job, while the first is being entered."""
        job.resumable = False
        self._taken.add(job.id)
        try:
            yield
        except BaseException:
            job.resumable = True
            raise
        finally:
            self._taken.discard(job.id)

    async def _claim(self, job: Job) -> None:
        """Make an ended job this process's own.

        Raises `ConflictError` when another process has it, or has ended it: then it is remembered as that left it.
        """
        kept = await self._journal.claim(job.id)
        if kept.fate is NextStep.OVER:
            now = self._remember(kept)
            raise JobEndedError(
                "job.ended",
                f"cannot take up job {job.id}: it is {now.state.value} already",
                hint=f"another process ended it: `amistream status {job.id}{self._journal.option}`",
            )

    def _begin(self, job: Job, work: Work) -> None:
        """Let the job live, in place of its earlier life if it had one."""
        self._jobs[job.id] = job
        task = self._group.create_task(self._live(job, work), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda done: self._settle(job.id, done))

    async def _live(self, job: Job, work: Work) -> None:
        self._begun.add(asyncio.current_task())
        try:
            if job.cancel_requested:
                raise asyncio.CancelledError
            # A removal costs next to nothing, and somebody waits for the place.
            async with nullcontext() if work is self._clean else self._slots:
                await work(job)
        except asyncio.CancelledError:
            # A job that ran has ended itself.
            if job.state is State.QUEUED:
                await finish_despite_cancel(self._end_unrun(job))
            raise
        except Exception as error:
            # One job's bug must not end the others'. The journal tells what is left of it.
            log.exception("job.bug", job=job.id)
            if not job.state.ended:
                job.fail(bug_error(error), resumable=True)

    async def _end_unrun(self, job: Job) -> None:
        """End a job that never began in this life: kept for the next daemon, removed, or simply over."""
        if job.interrupt_requested:
            job.interrupt()
        elif job.lived_before:
            await self._clean(job)
        else:
            try:
                await self._journal.end(job.view().model_copy(update={"state": State.CANCELLED}))
            except AmistreamError as error:
                job.note(f"the journal could not be written: {error.message}")
            job.move(State.CANCELLED)

    def _stop(self, job: Job, *, keep: bool = False) -> None:
        if job.cancel_requested:
            return
        job.cancel_requested = True
        job.interrupt_requested = keep
        # A task that is cancelled before its first step would never get to end its job.
        if (task := self._tasks.get(job.id)) in self._begun and task is not None:
            task.cancel()

    def _settle(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        # The job may have begun a new life already.
        if self._tasks.get(job_id) is task:
            del self._tasks[job_id]

    def _check_waiting(self) -> None:
        if self.stopping:
            raise BusyError("daemon.stopping", "cannot take the job: the daemon is stopping", hint="try again later")
        if sum(job.state is State.QUEUED for job in self._jobs.values()) >= self._max_queued:
            raise BusyError(
                "daemon.full",
                f"cannot take the job: {self._max_queued} jobs wait already",
                hint="try again later",
            )

    async def _look_at_others(self, request: JobRequest) -> None:
        """See what other processes have at the places of a request. Raises `ConflictError` when one that is alive does.

        What one that is gone has left there is remembered from here on.
        """
        for kept, alive in await self._journal.others():
            job_id = kept.view.id
            if not self._places(kept.request) & self._places(request):
                continue
            if not alive:
                if job_id not in self._jobs:
                    self._remember(kept)
            elif kept.view.state.ended:
                raise _kept_there(job_id, "")
            else:
                raise _same_destination(job_id, request, "in another process")

    def _check_room(self, request: JobRequest) -> None:
        self._check_waiting()
        for job in self._jobs.values():
            if not self._places(job.request) & self._places(request):
                continue
            if not job.state.ended:
                raise _same_destination(job.id, request, f"amistream watch {job.id}")
            if job.resumable or job.id in self._taken:
                raise _kept_there(job.id, self._journal.option)

    def _places(self, request: JobRequest) -> set[tuple[str, str]]:
        return {(destination, request.prefix or self._default_prefix) for destination in request.destinations}

    def _remember(self, kept: JournalEntry) -> Job:
        job = Job.remembered(kept.request, kept.view, confined=kept.confined)
        job.kept_parts = kept.parts
        self._jobs[job.id] = job
        if kept.idempotency_key:
            self._keys[kept.idempotency_key] = job.id
        return job

    def _put_away(self) -> None:
        """Shelve the jobs that came and ended a while ago, and forget the oldest."""
        ended = [
            job
            for job in self._jobs.values()
            if job.state.ended and not job.resumable and job.id not in self._taken and job.id not in self._tasks
        ]
        for job in ended[:-FRESH]:
            job.shelve()
        for job in ended[: max(0, len(self._jobs) - REMEMBERED)]:
            self._forget(job.id)

    def _forget(self, job_id: str) -> None:
        del self._jobs[job_id]
        self._keys = {key: known for key, known in self._keys.items() if known != job_id}


def _same_destination(job_id: str, request: JobRequest, where: str) -> ConflictError:
    return ConflictError(
        "job.same_destination",
        f"cannot take the job: job {job_id} is writing to {request.destinations[0]} already",
        hint=f"wait for it ({where}), or choose another destination or prefix",
        field="destinations",
    )


def _kept_there(job_id: str, option: str) -> ConflictError:
    return ConflictError(
        "job.kept_there",
        f"cannot take the job: the parts of job {job_id}, which ended unfinished, are where it is to go",
        hint=f"go on with it (amistream resume {job_id}{option}), remove them (amistream cancel {job_id}{option}), "
        "or choose another destination or prefix",
        field="destinations",
    )
