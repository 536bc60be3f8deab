"""Several runs of one job: an engine over a journal that may be full, hold an entry, or be unreadable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from amistream.aws.session import Aws
from amistream.errors import JournalError
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import JournalEntry, NextStep, SealedPart
from amistream.request import JobRequest
from amistream.settings import Settings


class Cramped(Journal):
    """A journal with space for a number of parts of a job, which can also be full altogether."""

    room: int | None = None
    is_full = False
    is_unreadable = False

    async def find(self, job_id: str) -> JournalEntry | None:
        if self.is_unreadable:
            raise JournalError("journal.failed", "cannot keep the journal: disk I/O error")
        return await super().find(job_id)

    async def seal(self, job_id: str, part: SealedPart) -> None:
        self._check(self.is_full or (self.room is not None and part.digest.index >= self.room))
        await super().seal(job_id, part)

    async def set_next_step(self, job_id: str, next_step: NextStep) -> None:
        self._check(self.is_full)
        await super().set_next_step(job_id, next_step)

    @staticmethod
    def _check(is_full: bool) -> None:
        if is_full:
            raise JournalError("journal.full", "cannot keep the journal: database or disk is full")


@dataclass
class Scene:
    """An engine over a journal that may be full."""

    engine: Engine
    journal: Cramped

    async def run(self, asked: JobRequest, *, room: int | None = None, confined: bool = False) -> Job:
        """A job's first life; with room for so many parts only it fails after them."""
        job = Job(asked, confined=confined)
        self.journal.room = room
        await self.engine.enter(job)
        await self.engine.run(job)
        self.journal.room = None
        return job

    async def again(self, job: Job) -> Job:
        """Another life of it, as after a restart: from what the journal has."""
        job = await self.remembered(job)
        await self.engine.run(job)
        return job

    async def remembered(self, job: Job) -> Job:
        kept = await self.journal.find(job.id)
        assert kept is not None
        return Job.remembered(kept).again()

    async def next_step(self, job: Job) -> NextStep:
        kept = await self.journal.find(job.id)
        assert kept is not None
        return kept.next_step


@asynccontextmanager
async def scene_with(chosen: Settings, *, by_itself: bool = True) -> AsyncIterator[Scene]:
    """An engine as in a daemon, or without `by_itself` as in-process."""
    async with Cramped(chosen.state_dir, by_itself=by_itself) as journal, Aws(chosen) as aws:
        yield Scene(Engine(chosen, journal, aws), journal)


def files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder's files by name; empty when there is no folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*")}
