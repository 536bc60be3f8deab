"""The queue of jobs: `max_jobs` run at once in the order they came, the others wait.

It owns the jobs' tasks: the work of a job is the `run` or the `clean` that the queue was given (`engine`), the jobs it
remembers are in its `roster`. A job is in the journal before a client hears of it, and the jobs that an earlier daemon
left there are taken up at the start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from amistream.aws.session import Aws
from amistream.errors import (
    AmistreamError,
    BusyError,
    ConflictError,
    JobEndedError,
    JournalError,
    bug_error,
    first_cause,
)
from amistream.events import JobView, LogLine, State
from amistream.flow.cancel import finish_despite_cancel
from amistream.jobs.engine import Engine, end_job
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.lease import Lease
from amistream.jobs.records import NextStep
from amistream.jobs.roster import LAST, Roster, kept_there, writing_there
from amistream.request import JobRequest
from amistream.settings import OnStop, Settings

if TYPE_CHECKING:
    from amistream.jobs.deliveries import DeliveryRecords

log = structlog.get_logger()

Work = Callable[[Job], Awaitable[None]]


class JobQueue:
    """`async with JobQueue(...)`: leaving waits for every job. `run(job)` and `clean(job)` end the job."""

    def __init__(
        self, run: Work, clean: Work, journal: Journal, *, max_jobs: int, max_queued: int, default_prefix: str
    ) -> None:
        self._run = run
        self._clean = clean
        self._journal = journal
        self._max_queued = max_queued
        self._max_jobs = max_jobs
        self._slots = asyncio.Semaphore(max_jobs)
        self._roster = Roster(default_prefix=default_prefix, option=journal.option)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._begun: set[asyncio.Task[None] | None] = set()
        self._group = asyncio.TaskGroup()
        self._looks: dict[str, asyncio.TimerHandle] = {}
        self._waiting: dict[str, None] = {}
        self.stopping = False
        """No more jobs are taken."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping = True
        for look in self._looks.values():
            look.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as errors:
            # Jobs end with their errors, so it is the one of the block.
            raise first_cause(errors) from None

    @property
    def notices(self) -> tuple[str, ...]:
        """Damage of the journal that was found when it was opened."""
        return self._journal.notices

    async def lines(self, job_id: str) -> list[LogLine]:
        """Lines of the log about a job, oldest first. Raises `JournalError`."""
        return await self._journal.log.lines(job_id)

    @property
    def journal(self) -> Journal:
        """The journal, for those who read what the jobs have left."""
        return self._journal

    @property
    def deliveries(self) -> DeliveryRecords:
        """The journal's records of messages."""
        return self._journal.deliveries

    @property
    def places(self) -> int:
        """Jobs that could begin at once."""
        return max(0, self._max_jobs - len(self._tasks))

    def get(self, job_id: str) -> Job:
        """The job; raises `NotFoundError`."""
        return self._roster.get(job_id)

    def find(self, word: str, user: int | None = None) -> Job:
        """The job that `word` stands for, as `Roster.find` has it."""
        return self._roster.find(word, user)

    def view(self, job: Job) -> JobView:
        """The job's view with its place in the queue."""
        if job.state is not State.QUEUED or job.id not in self._waiting:
            return job.view()
        return job.view().model_copy(update={"place": list(self._waiting).index(job.id) + 1})

    def jobs(self, state: State | None = None) -> list[Job]:
        """Every job that is remembered, oldest first."""
        return self._roster.jobs(state)

    def chosen(self, states: Collection[str] = (), label: str | None = None, limit: int | None = None) -> list[Job]:
        """The jobs of a list, oldest first, as `Roster.chosen` has it."""
        return self._roster.chosen(states, label, limit)

    async def recover(self, *, resume: bool, remove: bool = True, over_like: str | None = None) -> None:
        """Take up the jobs of earlier processes: with `remove` every removal that began, with `resume` every bundle.

        Jobs that ran without a daemon are only remembered: their users may resume them. So are those with a name:
        another host may have them by now, and they need a lease. The removal of a job without a daemon that is to look
        again later does so then: otherwise each command would wait for its answers.

        With `over_like` only those jobs that are over are remembered that `find` may find by this word, with '' none.
        """
        for entry in await self._journal.all(None if over_like == LAST else over_like):
            job = self._roster.remember(entry)
            removes = entry.next_step is NextStep.CLEANING and remove
            if removes and not entry.by_itself and job.looks_again_at and job.looks_again_at > datetime.now(UTC):
                self._look_again_at(job, job.looks_again_at)
                continue
            continues = entry.next_step is not NextStep.OVER and job.state is State.INTERRUPTED and entry.by_itself
            continues = continues and not entry.name
            if not removes and not (continues and resume):
                continue
            await self._take_up(job, removes=removes)
            if self.stopping:
                return
        self._roster.put_away(self._tasks)

    async def _take_up(self, job: Job, *, removes: bool) -> None:
        """Begin another run, or a removal, of a job that ended, unless this process stops or another has the job."""
        try:
            with job.taking():
                await self._claim(job)
        except JobEndedError:
            pass  # another process ended it; it is remembered with that end
        except ConflictError:
            self._roster.forget(job.id)  # another process has it
        except JournalError as error:
            # The disk is full, for example. The job stays as it was left.
            log.warning("journal.failed", job=job.id, reason=error.message)
            how = f"amistream {'cancel' if removes else 'resume'} {job.id}{self._journal.option}"
            job.note(f"not taken up again: {error.message}; {error.hint}; then `{how}`")
        else:
            if not self.stopping:
                if not removes:
                    log.info("job.resume", job=job.id, state=job.state.value)
                self._begin(job.again(), self._clean if removes else self._run)

    def named(self, name: str) -> Job | None:
        """The newest job of this name that is remembered."""
        return self._roster.named(name)

    async def submit(
        self,
        request: JobRequest,
        *,
        idempotency_key: str = "",
        confined: bool = False,
        user: int | None = None,
        name: str = "",
        lease: Lease | None = None,
    ) -> tuple[Job, bool]:
        """Queue a job; returns it and whether it is new (false: the key came before, with the same request).

        `name` and `lease` are those of `Job`. A job of the same name that is remembered is no obstacle: see `named`.
        Raises `BusyError` when stopping or full, `ConflictError` when the key came with another request or another job
        writes to the same destination, `JobError` when the journal cannot be written.
        """
        known = self._roster.with_key(idempotency_key, request)
        if known is None:
            await self._check_other_processes(request)
            # The same request may have come again meanwhile.
            known = self._roster.with_key(idempotency_key, request)
        if known is not None:
            return known, False
        self._check_room()
        self._roster.check_destinations(request)
        if user is None and self._journal.option:
            user = os.geteuid()  # without a daemon
        job = Job(request, confined=confined, user=user, name=name, lease=lease)
        self._roster.add(job, idempotency_key)
        entering = self._journal.add(
            job.view(), request, confined=confined, user=user, idempotency_key=idempotency_key, name=name
        )
        try:
            await finish_despite_cancel(entering)
        except asyncio.CancelledError:
            # The client left. The job runs if it is entered; else it was refused and is forgotten.
            if await finish_despite_cancel(self._journal.find(job.id)) is None:
                self._roster.forget(job.id)
            else:
                self._begin(job, self._run)
            raise
        except AmistreamError:
            self._roster.forget(job.id)
            raise
        log.info(
            "job.submitted",
            job=job.id,
            kind=request.kind.value,
            user=user,
            source=request.source,
            to=list(request.destinations),
            **{key: value for key, value in (("label", request.label), ("name", name)) if value},
        )
        self._begin(job, self._run)
        self._roster.put_away(self._tasks)
        return job, True

    async def cancel(self, job_id: str, *, user: int | None = None) -> Job:
        """Ask a job to stop and clean up; its state says when it has. A second request changes nothing.

        A job that ended and kept its parts is begun again, to remove them. `user` asked for it, if that is known.
        """
        job = self.get(job_id)
        if job.resumable or not job.state.ended:
            log.info("job.cancel", job=job_id, user=user, state=job.state.value)
        if job.resumable:
            with job.taking():
                await self._claim(job)
                # Entered before the client hears of it: if this process does not remove the parts, the next does.
                await self._journal.set_next_step(job_id, NextStep.CLEANING)
            job = job.again()
            self._begin(job, self._clean)
        elif job.state.ended:
            raise JobEndedError("job.ended", f"cannot cancel job {job_id}: it is {job.state.value} already")
        else:
            self._stop(job)
            # A kill from now on must not bring the job back. If this cannot be entered, the job's own end reports it.
            with suppress(JournalError):
                await self._journal.set_next_step(job_id, NextStep.CLEANING)
        return job

    def interrupt(self, job_id: str, cause: AmistreamError) -> Job:
        """Ask a job to stop and to keep what is stored: its lease is lost, or it is given back. It ends with `cause`.

        A removal stops, too. A job that has ended stays as it is.
        """
        job = self.get(job_id)
        if not job.state.ended:
            self._stop(job, keep=True, cause=cause)
        return job

    async def resume(self, job_id: str, lease: Lease | None = None, *, user: int | None = None) -> Job:
        """Take up a job that ended unfinished, for `user` if that is known.

        Raises `ConflictError` when nothing of it is kept.
        """
        job = self.get(job_id)
        if not job.resumable:
            raise ConflictError(
                "job.not_resumable",
                f"cannot resume job {job_id}: it is {job.state.value}, and nothing of it is kept",
                hint=f"submit it again with `amistream {job.request.kind}`"
                if job.state.ended
                else "it continues by itself",
            )
        self._check_room()
        with job.taking():
            await self._claim(job)
            # A drain that began meanwhile did not see this job.
            self._check_room()
        log.info("job.resume", job=job_id, user=user, state=job.state.value)
        job = job.again(lease)
        self._begin(job, self._run)
        return job

    async def let_go(self, job_id: str) -> None:
        """End a job that is kept, and leave all that it made as it is. Raises `ConflictError` or `JournalError`."""
        job = self.get(job_id)
        if not job.resumable:
            return
        with job.taking():
            await self._claim(job)
            await self._journal.end(job.view().model_copy(update={"resumable": False, "looks_again_at": None}))
        if (entry := await self._journal.find(job_id)) is not None:
            self._roster.remember(entry)

    async def drain(self, how: OnStop) -> None:
        """Take no more jobs, stop waiting ones and, unless they may finish, running ones; return when all ended.

        Stopped jobs stay in the journal for the next daemon, unless `how` is to cancel them.
        """
        self.stopping = True
        for job in self.jobs():
            if not job.state.ended and (how is not OnStop.FINISH or job.state is State.QUEUED):
                self._stop(job, keep=how is not OnStop.CANCEL)
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _claim(self, job: Job) -> None:
        """Make an ended job this process's own.

        Raises `ConflictError` when another process has it, or has ended it: then it is remembered with that end.
        """
        entry = await self._journal.claim(job.id)
        if entry.next_step is NextStep.OVER:
            now = self._roster.remember(entry)
            raise JobEndedError(
                "job.ended",
                f"cannot take up job {job.id}: it is {now.state.value} already",
                hint=f"another process ended it: `amistream status {job.id}{self._journal.option}`",
            )

    def _begin(self, job: Job, work: Work) -> None:
        """Begin a run, or a removal, in place of the job's earlier run."""
        if (look := self._looks.pop(job.id, None)) is not None:
            look.cancel()
        self._roster.add(job)
        if work is not self._clean:
            self._waiting[job.id] = None
        task = self._group.create_task(self._work(job, work), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda done: self._settle(job.id, done))

    async def _work(self, job: Job, work: Work) -> None:
        self._begun.add(asyncio.current_task())
        try:
            if job.cancel_requested:
                raise asyncio.CancelledError
            # A removal costs next to nothing, and a client waits for the destination.
            async with nullcontext() if work is self._clean else self._turn(job):
                await work(job)
        except asyncio.CancelledError:
            # A job that ran has ended itself.
            if job.state is State.QUEUED:
                await self._end_unrun(job)
            raise
        except Exception as error:
            # One job's bug must not end the others. The journal records what the job left.
            log.exception("job.bug", job=job.id)
            if not job.state.ended:
                end = End(State.FAILED, error=bug_error(error), resumable=True)
                await finish_despite_cancel(end_job(job, end, self._journal))

    @asynccontextmanager
    async def _turn(self, job: Job) -> AsyncIterator[None]:
        """Wait for one of the slots, and hold it."""
        async with self._slots:
            del self._waiting[job.id]
            yield

    async def _end_unrun(self, job: Job) -> None:
        """End a job whose run never began: kept for the next daemon, removed, or simply over."""
        if job.interrupt_requested:
            job.end(End(State.INTERRUPTED, error=job.stop_cause, resumable=True))
        elif job.ran_before:
            # It is not cut short by a cancel, and hears that the process is to stop.
            await self._clean(job)
        else:
            await finish_despite_cancel(end_job(job, End(State.CANCELLED), self._journal))

    def _stop(self, job: Job, *, keep: bool = False, cause: AmistreamError | None = None) -> None:
        # A task that is cancelled before its first step would never get to end its job.
        if (
            job.ask_to_stop(keep=keep, cause=cause)
            and (task := self._tasks.get(job.id)) in self._begun
            and task is not None
        ):
            task.cancel()

    def _settle(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        # The next run of the job may have begun already.
        if self._tasks.get(job_id) is task:
            self._waiting.pop(job_id, None)
            del self._tasks[job_id]
            job = self.get(job_id)
            if job.looks_again_at is not None and not self.stopping:
                self._look_again_at(job, job.looks_again_at)

    def _look_again_at(self, job: Job, at: datetime) -> None:
        wait_s = (at - datetime.now(UTC)).total_seconds()
        self._looks[job.id] = asyncio.get_running_loop().call_later(wait_s, self._look_again, job)

    def _look_again(self, job: Job) -> None:
        """Remove what came late of a job that was removed, unless somebody took it up meanwhile."""
        del self._looks[job.id]
        if job.resumable and not self.stopping:
            self._group.create_task(self._take_up(job, removes=True))

    def _check_room(self) -> None:
        if self.stopping:
            who = "this process" if self._journal.option else "the daemon"
            raise BusyError("daemon.stopping", f"cannot take the job: {who} is stopping", hint="try again later")
        if len(self.jobs(State.QUEUED)) >= self._max_queued:
            raise BusyError(
                "daemon.full",
                f"cannot take the job: {self._max_queued} jobs wait already",
                hint="try again later",
            )

    async def _check_other_processes(self, request: JobRequest) -> None:
        """Raise `ConflictError` when a living process has a job at a destination of the request.

        Jobs that dead processes left there are remembered from here on.
        """
        for entry, alive in await self._journal.others():
            job_id = entry.view.id
            if not self._roster.overlap(entry.request, request):
                continue
            if not alive:
                if job_id not in self._roster:
                    self._roster.remember(entry)
            elif entry.view.state.ended:
                raise kept_there(job_id, "", request, entry.view.looks_again_at)
            else:
                raise writing_there(job_id, request, "in another process")


@asynccontextmanager
async def open_queue(
    settings: Settings, aws: Aws, *, by_itself: bool, watch: Callable[[Work], Work] = lambda run: run
) -> AsyncIterator[JobQueue]:
    """A queue over the state directory's journal, for the daemon and for `--in-process`; leaving waits for every job.

    `by_itself` is the journal's: the next daemon takes up these jobs. `watch` wraps the engine's `run`.
    """
    async with Journal(settings.state_dir, by_itself=by_itself) as journal, journal.log.keeping():
        engine = Engine(settings, journal, aws)
        async with JobQueue(
            watch(engine.run),
            engine.clean,
            journal,
            max_jobs=settings.max_jobs,
            max_queued=settings.max_queued,
            default_prefix=settings.prefix,
        ) as queue:
            yield queue
