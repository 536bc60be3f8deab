"""Runs jobs and ends them: done, failed with nothing left behind, or kept so that a later run can finish them.

The same engine serves the daemon and `--in-process`. The work of a run differs from kind to kind (`load_run`); here is
what all kinds share: the means of a run, and the decision about what a run leaves.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import structlog

from amistream.aws.session import Aws
from amistream.errors import (
    AmistreamError,
    FencedError,
    JobError,
    JournalError,
    LateError,
    NotJournaledError,
    RefusedError,
    RegisterError,
    ShortageError,
    StoreError,
    TakenError,
    bug_error,
    shortage_of,
)
from amistream.events import JobKind, State
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.undo import UNDO_STALLS, Undoing
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.narration import Narrator
from amistream.jobs.records import JournalEntry, NextStep
from amistream.jobs.run import Run, Shared
from amistream.settings import Settings

log = structlog.get_logger()


_MODULES = {
    JobKind.BUNDLE: "amistream.jobs.bundle_run",
    JobKind.CONVERT: "amistream.jobs.convert_run",
    JobKind.VERIFY: "amistream.jobs.verify_run",
    JobKind.MIGRATE: "amistream.jobs.migrate_run",
}


async def load_run(job: Job, entry: JournalEntry, shared: Shared) -> Run:
    """Make a run of a job from its journal entry. Raises `AmistreamError` before anything is made.

    A new kind is a member of `states.JobKind`, a request, a run in a file of its own, and a case here. Each is loaded
    by the first job of its kind: together they take long, and a command runs one job.
    """
    if _MODULES[entry.kind] not in sys.modules:
        # It takes a tenth of a second, in which other jobs go on.
        await asyncio.to_thread(import_module, _MODULES[entry.kind])
    match entry.kind:
        case JobKind.BUNDLE:
            from amistream.jobs.bundle_run import BundleRun  # noqa: PLC0415

            return await BundleRun.load(job, entry, shared)
        case JobKind.CONVERT:
            from amistream.jobs.convert_run import ConvertRun  # noqa: PLC0415

            return await ConvertRun.load(job, entry, shared)
        case JobKind.VERIFY:
            from amistream.jobs.verify_run import VerifyRun  # noqa: PLC0415

            return await VerifyRun.load(job, entry, shared)
        case JobKind.MIGRATE:
            from amistream.jobs.migrate_run import MigrateRun  # noqa: PLC0415

            return await MigrateRun.load(job, entry, shared)


_SHOWN_AT_END = {"manifest", "image_id", "snapshot_id", "region", "image_size", "bundled_size", "bottleneck"}
"""The fields of a result that stand in the line of the log about a job's end."""


class Engine:
    """`await Engine(settings, journal, aws).run(job)`; any number of jobs, also at once."""

    def __init__(self, settings: Settings, journal: Journal, aws: Aws) -> None:
        slots = threading.Semaphore(settings.worker_count())
        self._journal = journal
        self._shared = Shared(settings=settings, journal=journal, aws=aws, slots=slots)

    async def enter(self, job: Job) -> None:
        """Enter a new job in the journal, for callers that have no queue."""
        await self._journal.add(
            job.view(), job.request, confined=job.confined, user=job.user, idempotency_key="", name=job.name
        )

    async def run(self, job: Job) -> None:
        """Bring a queued job, which is in the journal, to its end. Raises only CancelledError."""
        with structlog.contextvars.bound_contextvars(job=job.id), job.heard_by(Narrator()):
            try:
                await self._run(job)
            finally:
                if job.state.ended:  # the queue ends a job that is stopped before its run has begun
                    _log_end(job)

    async def clean(self, job: Job) -> None:
        """Remove everything that an ended job left. The job is cancelled then, or failed and still resumable."""
        with structlog.contextvars.bound_contextvars(job=job.id):
            await self._removing(job, partial(self._clean, job))
            log.info("job.cleaned", state=job.state.value)

    async def _clean(self, job: Job, undoing: Undoing) -> None:
        try:
            entry, run = await self._begin(job)
            await job.confirm()
            await self._journal.set_next_step(job.id, NextStep.CLEANING, entry.failure)
        except FencedError as error:
            await self._end(job, End(State.INTERRUPTED, error=error, resumable=True))
        except AmistreamError as error:
            await self._end(job, End(State.FAILED, error=error, resumable=True))
        else:
            end = End(State.CANCELLED)
            if entry.failure is not None and not job.cancel_requested:
                end = End(State.FAILED, error=JobError(**entry.failure.model_dump()))
            await self._undo_all(job, run, end, undoing)

    async def _begin(self, job: Job) -> tuple[JournalEntry, Run]:
        entry = await self._journal.find(job.id)
        if entry is None:
            raise NotJournaledError("journal.missing", f"cannot run job {job.id}: it is not in the journal")
        return entry, await load_run(job, entry, self._shared)

    async def _run(self, job: Job) -> None:
        try:
            entry, run = await self._begin(job)
            if entry.next_step is NextStep.CLEANING:
                # A removal that failed; the job is resumed instead.
                await self._journal.set_next_step(job.id, NextStep.KEPT)
        except NotJournaledError as error:
            job.end(End(State.FAILED, error=error))
            return
        except AmistreamError as error:
            # The next process goes by the journal, even if this one could not read it.
            await self._end(job, End(State.FAILED, error=error, resumable=True))
            return
        try:
            result = await run.run()
            await self._end(job, End(State.DONE, result=result))
        except asyncio.CancelledError:
            await self._cut_short(job, run)
            raise
        except FencedError as error:
            await self._end_fenced(job, run, error)
        except AmistreamError as error:
            await self._fail(job, run, error)
        except Exception as error:
            if (shortage := shortage_of(error)) is not None:
                await self._fail(job, run, shortage)
                return
            log.exception("job.bug")
            await self._undo(job, run, End(State.FAILED, error=bug_error(error)))

    async def _cut_short(self, job: Job, run: Run) -> None:
        """End a job that is cancelled or interrupted; a job that ended before the cancel arrived stays as it is."""
        if job.state.ended:
            return
        if run.finished:
            await self._end(job, End(State.DONE, result=run.conclude()))
        elif job.interrupt_requested:
            await self._end(job, End(State.INTERRUPTED, error=job.stop_cause, resumable=True, kept=run.kept))
        else:
            await self._undo(job, run, End(State.CANCELLED))

    async def _end_fenced(self, job: Job, run: Run, error: FencedError) -> None:
        """End a job that another host may have by now: all that it made stays for that one."""
        await self._end(job, End(State.INTERRUPTED, error=error, resumable=True, kept=run.kept))

    async def _fail(self, job: Job, run: Run, error: AmistreamError) -> None:
        """Keep what is stored if a later run can use it, else remove it."""
        mendable = isinstance(error, StoreError | RegisterError | ShortageError) and not isinstance(error, TakenError)
        journal_broken = isinstance(error, JournalError)
        keep = (mendable and run.worth_keeping) or (journal_broken and run.kept > 0)
        # A failed check says nothing about what earlier runs stored; only another's object in their place does.
        in_vain = isinstance(error, RefusedError) or (job.state is State.CHECKING and not isinstance(error, TakenError))
        if keep or (run.resumed and in_vain):
            named = job.id + self._journal.option
            how = f"{run.KEEPS} are kept: `amistream resume {named}` continues, `amistream cancel {named}` removes them"
            hint = "\n".join(filter(None, (error.hint, how)))
            kept = error.reworded(hint=hint)
            await self._end(job, End(State.FAILED, result=run.result, error=kept, resumable=True, kept=run.kept))
        else:
            refused = job.state is State.CHECKING and not run.resumed
            result = run.result if run.ONLY_READS else None
            await self._undo(job, run, End(State.REFUSED if refused else State.FAILED, result=result, error=error))

    async def _undo(self, job: Job, run: Run, end: End) -> None:
        """Remove what the job made, and end it; the job stays resumable if anything is left."""

        async def undo(undoing: Undoing) -> None:
            try:
                await job.confirm()
            except FencedError as error:
                await self._end_fenced(job, run, error)
                return
            try:
                await self._journal.set_next_step(job.id, NextStep.CLEANING, end.body)
            except AmistreamError as failure:
                log.warning("journal.failed", reason=failure.message)
            await self._undo_all(job, run, end, undoing)

        await self._removing(job, undo)

    async def _undo_all(self, job: Job, run: Run, end: End, undoing: Undoing) -> None:
        error = await undoing.run(run.undo)
        try:
            job.check_lease()
        except FencedError as fenced:
            # The removal ended there, whatever else failed in it.
            error = fenced
        if isinstance(error, FencedError):
            await self._end_fenced(job, run, error)
            return
        for finished in run.stays:
            job.note(f"complete, and stays: {finished}")
        if error is not None:
            left = "" if isinstance(error, LateError) else "not all is removed: "
            job.note(f"{left}{error.message}; {self._how_on(job, error)}")
            if isinstance(error, LateError):
                end = replace(end, looks_again_at=run.late_until)
            elif job.state is State.QUEUED and end.error is None:
                end = End(State.FAILED, error=error)
        await self._end(job, replace(end, resumable=error is not None))

    def _how_on(self, job: Job, error: AmistreamError) -> str:
        command = f"`amistream cancel {job.id}{self._journal.option}`"
        if isinstance(error, LateError):
            return f"{command} looks again then" if self._journal.option else "the daemon looks again then"
        mend = f"{error.hint}; then ".replace("\n", "; ") if error.hint else ""
        return f"{mend}{command} tries again"

    async def _removing(self, job: Job, work: Callable[[Undoing], Awaitable[None]]) -> None:
        """Run `work` to its end. A job that is interrupted leaves the rest of its removal to a later process."""
        undoing = Undoing(UNDO_STALLS * self._shared.settings.stall_timeout_s)

        def hurry() -> None:
            if job.hurry_requested:
                undoing.hurry()

        hurry()
        await finish_despite_cancel(work(undoing), on_cancel=hurry)

    async def _end(self, job: Job, end: End) -> None:
        """Enter the job's end, then announce it, so that a crash never takes back an announced end.

        Not to be cut short: a job whose end is entered must also show it.
        """
        await finish_despite_cancel(end_job(job, end, self._journal))


async def end_job(job: Job, end: End, journal: Journal) -> None:
    """Enter the job's end, then announce it.

    An end that cannot be entered is announced as an interruption, with the reason: the next process finds the job
    unfinished, and takes it up again. Only what is done stays done, and that process ends it without doing it again.
    """
    view = job.view_at(end)
    try:
        await (journal.update(view) if end.resumable else journal.end(view))
    except AmistreamError as failure:
        log.warning("journal.failed", reason=failure.message)
        if end.state in {State.DONE, State.INTERRUPTED}:
            job.note(f"its end could not be recorded, so the next start takes it up once more: {failure.message}")
        else:
            why = f" ({end.error.message})" if end.error else ""
            unrecorded = failure.reworded(
                message=f"cannot record that job {job.id} is {end.state.value}{why}: {failure.message}",
                hint=f"{failure.hint}; the next start finds the job unfinished, and takes it up again or removes it: "
                f"`amistream cancel {job.id}{journal.option}` removes it for good",
            )
            end = replace(end, state=State.INTERRUPTED, error=unrecorded, resumable=True)
    job.end(end)


def _log_end(job: Job) -> None:
    """Write one short line: the state, and what was made or went wrong. `amistream status ID` has the rest."""
    view = job.view()
    facts: dict[str, Any] = {"state": view.state.value, "kind": view.kind.value, "resumable": view.resumable}
    if view.started_at and view.ended_at:
        facts["elapsed_s"] = round((view.ended_at - view.started_at).total_seconds(), 3)
    if view.result is not None:
        facts |= view.result.model_dump(mode="json", include=_SHOWN_AT_END, exclude_none=True)
    if view.error is not None:
        facts |= {"code": view.error.code, "reason": view.error.message, "hint": view.error.hint}
        facts |= {"request_id": view.error.request_id} if view.error.request_id else {}
    level = log.info if view.state in {State.DONE, State.CANCELLED} else log.warning
    level("job.end", **facts)
