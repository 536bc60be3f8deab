"""Runs jobs and sees to their ends: done, failed with nothing left behind, or kept so that they can go on.

The same engine serves the daemon and `--in-process`. It holds what jobs share: the AWS clients, the compute slots and
the journal. What a run does is in `run`; here is what becomes of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

import structlog

from amistream.aws.session import Aws
from amistream.checks.destination import Address
from amistream.errors import (
    AmistreamError,
    JournalError,
    NotJournaledError,
    RefusedError,
    RegisterError,
    StoreError,
    TakenError,
    bug_error,
)
from amistream.events import ErrorBody, JobResult, PlaceResult, State
from amistream.flow.cancel import finish_despite_cancel
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import JournalEntry, NextStep
from amistream.jobs.removal import remove_kept
from amistream.jobs.run import Run
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.values import AccessKeys

log = structlog.get_logger()

HOW_TO_GO_ON = (
    "what is stored is kept: `amistream resume {job}` goes on from there, `amistream cancel {job}` removes it"
)


class Engine:
    """`async with Engine(settings, journal) as engine: await engine.run(job)`; any number of jobs, also at once."""

    def __init__(self, settings: Settings, journal: Journal, keys: AccessKeys | None = None) -> None:
        """`keys` come before the AWS credentials that the SDK finds."""
        self._settings = settings
        self._journal = journal
        self._aws = Aws(settings, keys)
        # All jobs together never work on more blocks at a time than there are cores.
        self._slots = threading.Semaphore(settings.worker_count())

    async def __aenter__(self) -> Self:
        await self._aws.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._aws.__aexit__()

    async def enter(self, job: Job) -> None:
        """Enter a new job in the journal, for whoever runs it without a queue."""
        await self._journal.add(job.view(), job.request, confined=job.confined, idempotency_key="")

    async def run(self, job: Job) -> None:
        """Bring a queued job, which is in the journal, to its end. Raises only CancelledError."""
        with structlog.contextvars.bound_contextvars(job=job.id):
            try:
                await self._run(job)
            finally:
                _log_end(job)

    async def clean(self, job: Job) -> None:
        """Remove what an ended job left, if it left anything; the job is cancelled then, or keeps its error."""
        with structlog.contextvars.bound_contextvars(job=job.id):
            await finish_despite_cancel(self._clean(job))
            log.info("job.cleaned", state=job.state.value)

    async def _clean(self, job: Job) -> None:
        try:
            kept = await self._kept(job)
            await self._journal.set_fate(job.id, NextStep.CLEANING)
            await remove_kept(self._addresses(job, kept), kept, await self._journal.parts(job.id))
        except AmistreamError as error:
            await self._keep(job, error)
        except Exception as error:
            log.exception("job.bug")
            await self._keep(job, bug_error(error))
        else:
            _tell_finished(job, kept.done.values())
            await self._end(job, State.CANCELLED)

    async def _keep(self, job: Job, error: AmistreamError) -> None:
        """End a removal that failed: it can be asked for again."""
        job.note(f"could not be removed: {error.message}")
        await self._end(job, State.FAILED, error=error, resumable=True)

    async def _run(self, job: Job) -> None:
        try:
            kept = await self._kept(job)
            parts = await self._journal.parts(job.id)
            addresses = self._addresses(job, kept)
            if kept.fate is NextStep.CLEANING:
                # It is to go on after all.
                await self._journal.set_fate(job.id, NextStep.KEPT)
        except AmistreamError as error:
            # The next process goes by the journal, whatever this one could read of it.
            job.fail(error, resumable=not isinstance(error, NotJournaledError))
            return
        run = Run(job, kept, parts, addresses, journal=self._journal, slots=self._slots)
        try:
            result = await run.run()
            await self._end(job, State.DONE, result=result)
        except asyncio.CancelledError:
            await self._cut_short(job, run)
            raise
        except AmistreamError as error:
            await self._fail(job, run, error, resumed=kept.bundling is not None)
        except Exception as error:
            log.exception("job.bug")
            await self._undo(job, run, State.FAILED, bug_error(error))

    async def _cut_short(self, job: Job, run: Run) -> None:
        """End a job that is cancelled or interrupted; one that came to its end before it heard of that stays so."""
        if job.state.ended:
            return
        if run.is_whole:
            await self._end(job, State.DONE, result=run.conclude())
        elif job.interrupt_requested:
            job.kept_parts = run.parts
            await self._end(job, State.INTERRUPTED, resumable=True)
        else:
            await self._undo(job, run, State.CANCELLED)

    async def _fail(self, job: Job, run: Run, error: AmistreamError, *, resumed: bool) -> None:
        """Keep what a later run can go on from, and remove what it cannot."""
        mendable = isinstance(error, StoreError | RegisterError) and not isinstance(error, TakenError)
        journal_broken = isinstance(error, JournalError)
        keep = (mendable and run.worth_keeping) or (journal_broken and run.parts > 0)
        # What went wrong while it still checked says nothing about what is stored; only a rival's object there does.
        in_vain = isinstance(error, RefusedError) or (job.state is State.CHECKING and not isinstance(error, TakenError))
        if keep or (resumed and in_vain):
            job.kept_parts = run.parts
            kept_on = AmistreamError(
                error.code,
                error.message,
                hint="\n".join(filter(None, (error.hint, HOW_TO_GO_ON.format(job=job.id + self._journal.option)))),
                field=error.field,
            )
            await self._end(job, State.FAILED, result=run.result, error=kept_on, resumable=True)
        else:
            refused = job.state is State.CHECKING and not resumed
            await self._undo(job, run, State.REFUSED if refused else State.FAILED, error)

    async def _undo(self, job: Job, run: Run, state: State, error: AmistreamError | None = None) -> None:
        await finish_despite_cancel(self._undo_all(job, run, state, error))

    async def _undo_all(self, job: Job, run: Run, state: State, error: AmistreamError | None) -> None:
        try:
            await self._journal.set_fate(job.id, NextStep.CLEANING)
        except AmistreamError as failure:
            log.warning("journal.failed", reason=failure.message)
        left = await run.undo()
        await run.leave()
        for thing in left:
            job.note(f"could not be removed, please do it yourself: {thing}")
        _tell_finished(job, run.finished)
        await self._end(job, state, error=error, resumable=bool(left))

    async def _end(
        self,
        job: Job,
        state: State,
        *,
        result: JobResult | None = None,
        error: AmistreamError | None = None,
        resumable: bool = False,
    ) -> None:
        """Enter the job's end, then announce it: what somebody was told is never taken back by a crash.

        Not to be cut: a job whose end is entered must also show it.
        """
        job.result = result
        job.error = ErrorBody(**error.as_dict()) if error else None
        job.resumable = resumable
        await finish_despite_cancel(self._enter_end(job, state))

    async def _enter_end(self, job: Job, state: State) -> None:
        view = job.view().model_copy(update={"state": state, "ended_at": datetime.now(UTC)})
        try:
            await (self._journal.tell(view) if job.resumable else self._journal.end(view))
        except AmistreamError as failure:
            log.warning("journal.failed", reason=failure.message)
            job.note(f"the journal could not be written: {failure.message}")
        job.move(state)

    async def _kept(self, job: Job) -> JournalEntry:
        kept = await self._journal.find(job.id)
        if kept is None:
            raise NotJournaledError("journal.missing", f"cannot run job {job.id}: it is not in the journal")
        return kept

    def _addresses(self, job: Job, kept: JournalEntry) -> list[Address]:
        token = job.id.rpartition("-")[2]
        roots = Roots(self._settings.source_roots) if job.confined else None
        return [
            Address(job.request, self._settings, self._aws, token, number, roots=roots, settled=kept.bundling)
            for number in range(len(job.request.destinations))
        ]


def _tell_finished(job: Job, places: Iterable[PlaceResult]) -> None:
    """Say what stays of a job that is over without a result."""
    for place in places:
        job.note(f"complete, and stays: {place.manifest}" + (f", the AMI {place.image_id}" if place.image_id else ""))


def _log_end(job: Job) -> None:
    view = job.view()
    facts = view.model_dump(mode="json", include={"source", "destinations", "result", "error", "resumable"})
    if view.result is not None:
        facts["result"].pop("stages")
    level = log.info if job.state is State.DONE else log.warning
    level("job.end", state=job.state.value, **facts)
