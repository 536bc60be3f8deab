"""Counts a fleet's jobs: the messages of its queues, and the results that its hosts sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from amistream.aws.session import Aws
from amistream.aws.sqs import Sqs, open_sqs
from amistream.cli.fleet.reader import QueueReader
from amistream.cli.fleet.results import last_of_each, read_result
from amistream.cli.fleet.status import FleetStatus, tally
from amistream.fleet.results import ResultModel
from amistream.settings import Settings
from amistream.units import HOUR_S


class FleetCounter:
    """Counts the messages and results of a fleet, again and again; a result is read once."""

    def __init__(self, queue: Sqs, results: QueueReader | None) -> None:
        self._queue = queue
        self._results = results
        self._found: list[ResultModel] = []

    async def look(self) -> FleetStatus:
        await self.read()
        return await self.count()

    async def read(self) -> None:
        """Take the results into account that came since the last read."""
        if self._results is not None:
            new = [read_result(each.body) for each in await self._results.read_all()]
            self._found = last_of_each([*self._found, *(each for each in new if each is not None)])

    async def count(self) -> FleetStatus:
        """Count the messages of the queue now, and the results that were read."""
        counts = await self._queue.counts()
        letters = await self._queue.dead_letter()
        dead = (await letters.counts()).total if letters is not None else None
        found = tally(self._found, datetime.now(UTC)) if self._results is not None else None
        rate = found.rate_per_hour if found is not None else None
        return FleetStatus(
            queue=self._queue.url,
            waiting=counts.waiting,
            running=counts.in_flight,
            delayed=counts.delayed,
            dead=dead,
            results=found,
            eta_s=counts.total * HOUR_S / rate if rate and counts.total else None,
        )


@asynccontextmanager
async def open_counter(queue: Sqs, results_url: str, settings: Settings, aws: Aws) -> AsyncIterator[FleetCounter]:
    """Count a queue and, where `results_url` is not '', the results there, which are given back at the end."""
    if not results_url:
        yield FleetCounter(queue, None)
        return
    reader = QueueReader(await open_sqs(aws, results_url, settings, named="results"))
    async with reader.reading():
        yield FleetCounter(queue, reader)
