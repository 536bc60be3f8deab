"""The work of `amistream fleet` with queues: sends, counts, looks through, and empties them.

Looking through a queue means to receive its messages, and to give them back: meanwhile no other reader sees them. So
only queues of results and of dead letters are looked through, never the one from which hosts take jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from amistream.aws.sqs import BATCH, Delivery, Sqs
from amistream.cli.fleet_results import FleetStatus, last_of_each, read_result, tally
from amistream.errors import JobError, StoreError
from amistream.fleet.results import ResultModel
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import gather_limited
from amistream.units import HOUR_S

SENDS_AT_ONCE = 8
READERS = 4
HOLD_S = 120
"""Seconds for which a message that is shown is kept from other readers, unless it is given back before."""
POLL_S = 2
"""Longest wait for a new message, and so for the end after Ctrl-C."""
GIVE_BACK_S = 10
"""Longest time for giving messages back, such as after Ctrl-C."""


async def send_all(queue: Sqs, jobs: Sequence[tuple[str, str]]) -> None:
    """Send messages, given with the names of their jobs.

    Raises `JobError`, which counts those that were not sent and names one of them.
    """
    failures: list[tuple[str, StoreError]] = []

    async def send(batch: Sequence[tuple[str, str]]) -> None:
        try:
            failed = await queue.send([text for _, text in batch])
        except StoreError as error:
            failed = dict.fromkeys(range(len(batch)), error)
        failures.extend((batch[index][0], error) for index, error in failed.items())

    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    if batches:
        # A queue that refuses the first refuses all: that is shown as it is, and once.
        await send(batches[0])
        if len(failures) == len(batches[0]):
            raise failures[0][1]
        await gather_limited(send, batches[1:], SENDS_AT_ONCE)
    if failures:
        name, error = failures[0]
        raise JobError(
            error.code,
            f"cannot send {len(failures)} of {len(jobs)} messages, that of {name} among them: {error.message}",
            hint=f"{error.hint or 'try again'}; then send the same lines again: a job that was sent twice is done once",
            field=error.field,
        )


class Reader:
    """Looks through a queue. Every message is given once; at the end of the block all are given back."""

    def __init__(self, queue: Sqs) -> None:
        self._queue = queue
        self._held: dict[str, str] = {}
        self._taken: set[str] = set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Hold messages for the block, and give back at its end those that were not taken."""
        try:
            yield
        finally:
            handles = [handle for message_id, handle in self._held.items() if message_id not in self._taken]
            if handles:
                await finish_despite_cancel(self._give_back(handles))

    async def _give_back(self, handles: Sequence[str]) -> None:
        # Those that cannot be given back come back by themselves.
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_S):
                await self._queue.extend(handles, 0)

    async def read_all(self) -> list[Delivery]:
        """All messages that are there now."""
        found: list[Delivery] = []

        async def read(_: int) -> None:
            # A poll that waits asks all servers of the queue; one that does not may miss messages.
            while new := await self.read_some(1):
                found.extend(new)

        await gather_limited(read, range(READERS), READERS)
        return sorted(found, key=lambda each: each.sent_at)

    async def read_some(self, wait_s: int) -> list[Delivery]:
        """Some messages that were not given before; none if none comes within `wait_s`.

        A poll is not cut off by a cancel: the queue would hand out messages to it all the same, those that are given
        back among them.
        """
        return await finish_despite_cancel(self._receive(wait_s))

    async def _receive(self, wait_s: int) -> list[Delivery]:
        received = await self._queue.receive(BATCH, wait_s, HOLD_S)
        new = [each for each in received if each.message_id not in self._held]
        self._held.update({each.message_id: each.handle for each in received})
        return new

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Delete messages for good. Raises `StoreError` for the first that could not be."""
        failed = await self._queue.delete([self._held[each.message_id] for each in deliveries])
        self._taken |= {each.message_id for each in deliveries if self._held[each.message_id] not in failed}
        for error in failed.values():
            raise error


class Board:
    """Counts the messages and results of a fleet, again and again; a result is read once."""

    def __init__(self, queue: Sqs, results: Reader | None) -> None:
        self._queue = queue
        self._results = results
        self._found: list[ResultModel] = []

    async def look(self) -> FleetStatus:
        counts = await self._queue.counts()
        letters = await self._queue.dead_letter()
        dead = (await letters.counts()).total if letters is not None else None
        found = None
        if self._results is not None:
            new = [read_result(each.body) for each in await self._results.read_all()]
            self._found = last_of_each([*self._found, *(each for each in new if each is not None)])
            found = tally(self._found, datetime.now(UTC))
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
