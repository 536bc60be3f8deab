"""The contract of a run: the part of a job's work that differs from one kind to another (`engine.KINDS`).

A run works; the engine enters and announces the job's end. A run that fails leaves things as they are: the engine
then either keeps them for a later run, or calls `undo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Semaphore
from typing import Protocol

from amistream.aws.session import Aws
from amistream.events import JobResult
from amistream.flow.undo import Progress
from amistream.jobs.journal import Journal
from amistream.jobs.records import JournalEntry
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
    def entry(self) -> JournalEntry:
        """The job's record as the journal has it by now. `undo` does not touch the finished destinations."""

    @property
    def result(self) -> JobResult | None:
        """The result so far."""

    @property
    def parts(self) -> int:
        """Parts that this run or an earlier one has sent or was about to send."""

    @property
    def worth_keeping(self) -> bool:
        """Something is stored that a later run need not store again."""

    async def run(self) -> JobResult:
        """Do what no earlier run has done. Raises the first cause."""

    def conclude(self) -> JobResult:
        """The result of a run that has finished every destination."""

    async def undo(self, progress: Progress) -> None:
        """Remove what this run and earlier ones made and did not finish. Raises the first error of all.

        A run that was never begun removes what the earlier ones left.
        """
