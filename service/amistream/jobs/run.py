"""The contract of a run: the part of a job's work that differs from one kind to another (`engine.load_run`).

A run works; the engine enters and announces the job's end. A run that fails leaves things as they are: the engine
then either keeps them for a later run, or calls `undo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Semaphore
from typing import ClassVar, Protocol

from amistream.aws.session import Aws
from amistream.events import JobResult
from amistream.flow.undo import Progress
from amistream.jobs.journal import Journal
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

    KEEPS: ClassVar[str]
    """The things that a later run need not store again, in the plural, for users."""
    ONLY_READS: ClassVar[bool]
    """Nothing outside changes: the result of a run that failed is of use, and there is nothing to undo."""

    @property
    def resumed(self) -> bool:
        """An earlier run began, and may have left something outside."""

    @property
    def finished(self) -> bool:
        """Everything is made and entered; only the job's end is missing."""

    @property
    def result(self) -> JobResult | None:
        """The result so far."""

    @property
    def kept(self) -> int:
        """Number of the things that this run or an earlier one has sent or was about to send."""

    @property
    def worth_keeping(self) -> bool:
        """Something is stored that a later run need not store again."""

    @property
    def stays(self) -> Sequence[str]:
        """The finished things that `undo` does not touch, for users."""

    @property
    def late_until(self) -> datetime | None:
        """The time until which an unanswered request may still make something, after an `undo` that found that out."""

    async def run(self) -> JobResult:
        """Do what no earlier run has done. Raises the first cause."""

    def conclude(self) -> JobResult:
        """The result of a run that has finished everything."""

    async def undo(self, progress: Progress) -> None:
        """Remove what this run and earlier ones made and did not finish. Raises the first error of all.

        A run that was never begun removes what the earlier ones left.
        """
