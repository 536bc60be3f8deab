"""The contract of a run: the part of a job's work that differs from one kind to another (`kinds`).

A run works; the engine enters and announces the job's end. A run that fails leaves things as they are: the engine
then either keeps them for a later run, or calls `undo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Semaphore
from typing import Protocol

from amistream.aws.session import Aws
from amistream.checks.destination import Destination
from amistream.events import JobResult, PlaceResult
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import JournalEntry
from amistream.roots import Roots
from amistream.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The means that all runs of an engine share."""

    settings: Settings
    journal: Journal
    aws: Aws
    slots: Semaphore
    """One for each core: together the runs compute on no more blocks at a time."""


class Run(Protocol):
    """One run of one job, from the start or from where an earlier run stopped. Used once."""

    @property
    def result(self) -> JobResult | None:
        """The result so far."""

    @property
    def parts(self) -> int:
        """Parts that this run or an earlier one has sent or was about to send."""

    @property
    def worth_keeping(self) -> bool:
        """Something is stored that a later run need not store again."""

    @property
    def is_whole(self) -> bool:
        """Every destination has all that was asked for."""

    @property
    def finished(self) -> Sequence[PlaceResult]:
        """The destinations that have all that was asked for: `undo` does not touch them."""

    async def run(self) -> JobResult:
        """Do what no earlier run has done. Raises the first cause."""

    def conclude(self) -> JobResult:
        """The result of a run that is whole."""

    async def undo(self) -> list[str]:
        """Remove what this run and earlier ones made and did not finish; returns what could not be removed."""

    async def leave(self) -> None:
        """Release what is held after `undo`."""


def addresses_of(job: Job, entry: JournalEntry, shared: Shared) -> list[Destination]:
    """The job's destinations; an earlier run's settings hold for them. Raises `JobError` where they must not."""
    token = job.id.rpartition("-")[2]
    settings = shared.settings
    roots = Roots(settings.source_roots, readers=settings.socket_group) if job.confined else None
    return [
        Destination(job.request, settings, shared.aws, token, number, roots=roots, settled=entry.bundling)
        for number in range(len(job.request.destinations))
    ]
