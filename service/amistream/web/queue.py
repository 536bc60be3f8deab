"""The queue of the fleet, counted as `amistream fleet status` does.

Results are received to be counted, and given back at once: meanwhile no other reader sees them. Each receive is a
request, and counts for a limit of receives that the queue may have. So they are read again only when their number has
changed, and every few minutes.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from pydantic import BaseModel

from amistream.aws.session import Aws
from amistream.aws.sqs import open_sqs
from amistream.cli.fleet.counter import FleetCounter, open_counter
from amistream.cli.fleet.status import FleetStatus
from amistream.settings import Settings
from amistream.web.cached import Cached

KEPT_S = 10.0
"""As often as `fleet status --watch` looks, however many pages ask."""
READ_AGAIN_S = 300.0
"""Time after which results are read although there are as many: some may have gone, and as many come. Guess."""


class Looked(BaseModel):
    """The state of the queue at a time; null if the command line names no queue."""

    looked_at: datetime
    fleet: FleetStatus | None


class FleetQueue:
    """Counts the messages of one queue, and the results in another if there is one."""

    def __init__(self, url: str, results_url: str, settings: Settings, aws: Aws) -> None:
        """`url` is '' where no queue is to be shown, `results_url` where the results are not in a queue."""
        self._url, self._results_url = url, results_url
        self._settings, self._aws = settings, aws
        self._found = Cached(self._look)
        self._counter: FleetCounter | None = None
        self._results_read, self._read_at = 0, 0.0

    async def look(self) -> Looked:
        """Raises `AmistreamError`."""
        return await self._found.get(KEPT_S)

    async def _look(self) -> Looked:
        return Looked(looked_at=datetime.now(UTC), fleet=await self._count() if self._url else None)

    async def _count(self) -> FleetStatus:
        number, now = await self._number_of_results(), asyncio.get_running_loop().time()
        if self._counter is None or number != self._results_read or now - self._read_at > READ_AGAIN_S:
            self._counter = None
            queue = await open_sqs(self._aws, self._url, self._settings)
            async with open_counter(queue, self._results_url, self._settings, self._aws) as counter:
                await counter.read()
            self._counter, self._results_read, self._read_at = counter, number, now
        return await self._counter.count()

    async def _number_of_results(self) -> int:
        if not self._results_url:
            return 0
        results = await open_sqs(self._aws, self._results_url, self._settings, named="results")
        return (await results.counts()).total
