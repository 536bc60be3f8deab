"""The queue while its journal cannot be written: jobs are refused, continue, or are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from amistream.errors import JobError, JournalError
from amistream.events import JobView, State
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import JournalEntry, NextStep
from jobs.queueing import ended, left_behind, running


class Breaking(Journal):
    """A journal whose disk is full once the test says so."""

    is_full = False

    async def end(self, view: JobView) -> None:
        self._check()
        await super().end(view)

    async def add(self, *values: Any, **more: Any) -> None:
        self._check()
        await super().add(*values, **more)

    async def claim(self, job_id: str) -> JournalEntry:
        self._check()
        return await super().claim(job_id)

    def _check(self) -> None:
        if self.is_full:
            raise JournalError("journal.full", "cannot keep the journal: database or disk is full")


async def test_full_disk_refuses_a_job(tmp_path: Path) -> None:
    """A job that cannot be entered is refused with the cause, and its destination stays free."""
    async with running(tmp_path, make_journal=Breaking) as scene:
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        with pytest.raises(JobError, match="disk is full"):
            await scene.submit("a", idempotency_key="one")
        assert scene.queue.jobs() == []
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        job = await scene.submit("a", idempotency_key="one")
        assert await scene.hands.wait_begun() == ("run", job)


async def test_full_disk_does_not_stop_the_other_jobs(tmp_path: Path) -> None:
    """A waiting job whose end cannot be entered is interrupted instead of cancelled, and the others continue."""
    async with running(tmp_path, max_jobs=1, make_journal=Breaking) as scene:
        busy = await scene.begin("a")
        waiting = await scene.submit("b")
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        await scene.queue.cancel(waiting.id)
        assert await ended(waiting) is State.INTERRUPTED
        assert waiting.error is not None
        assert "is cancelled: cannot keep the journal: database or disk is full" in waiting.error.message
        assert not busy.state.ended
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        await scene.hands.end(busy)
        assert busy.state is State.DONE


async def test_full_disk_keeps_a_job_resumable(tmp_path: Path) -> None:
    """A job that cannot be taken up while the disk is full can be later."""
    async with running(tmp_path, make_journal=Breaking) as scene:
        job = await scene.keep()
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        for ask in (scene.queue.resume, scene.queue.cancel):
            with pytest.raises(JobError, match="disk is full"):
                await ask(job.id)
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        again = await scene.queue.resume(job.id)
        assert await scene.hands.wait_begun() == ("run", again)


@pytest.mark.parametrize(("next_step", "word"), [(NextStep.KEPT, "resume"), (NextStep.CLEANING, "cancel")])
async def test_what_cannot_be_taken_up_says_how_to_go_on(next_step: NextStep, word: str, tmp_path: Path) -> None:
    """A job that a full disk keeps from being taken up names the command that does what was begun."""
    view = await left_behind(tmp_path, next_step, state=State.BUNDLING)
    async with running(tmp_path, make_journal=Breaking) as scene:
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        await scene.queue.recover(resume=True)
        (notice,) = scene.queue.get(view.id).notices
        assert f"amistream {word} {view.id}" in notice
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above


async def test_a_cancel_outlives_the_daemon(tmp_path: Path) -> None:
    """Once a cancel is accepted another process removes the job, even if this one is killed before it does."""
    async with running(tmp_path) as scene:
        job = await scene.begin()
        finish = asyncio.Event()
        end = scene.hands._end

        async def end_late(job: Job, state: State) -> None:
            await finish.wait()
            await end(job, state)

        scene.hands._end = end_late  # type: ignore[method-assign]
        await scene.queue.cancel(job.id)
        assert await scene.next_step(job) is NextStep.CLEANING
        finish.set()
        assert await ended(job) is State.CANCELLED


async def test_an_error_in_the_queue_s_block_comes_out_plain(tmp_path: Path) -> None:
    """A failure while a queue is open is the error itself, not a group of errors."""
    with pytest.raises(JournalError, match="disk is full"):
        async with running(tmp_path):
            raise JournalError("journal.full", "cannot keep the journal: database or disk is full")
