"""Reports the progress of a pass while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from amistream.events import Progress
from amistream.flow.gather import task_group
from amistream.jobs.job import Job

PROGRESS_PERIOD_S = 0.25


class Meter(Protocol):
    """Measures one pass."""

    def sample(self, *, over: bool = False) -> Progress:
        """The progress so far; `over` once everything is stored."""


@asynccontextmanager
async def reporting(job: Job, meter: Meter) -> AsyncIterator[None]:
    """Report in a block that runs the pass, and once more when it has ended well. Raises its first cause."""

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_S)
            job.report(meter.sample())

    async with task_group() as group:
        reporter = group.create_task(report(), name="progress")
        yield
        reporter.cancel()
    job.report(meter.sample(over=True))
