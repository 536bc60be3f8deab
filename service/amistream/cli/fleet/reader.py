"""Looks through a queue: receives its messages, and gives them back; meanwhile no other reader sees them.

So only queues of results and of dead letters are looked through, never the one from which hosts take jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from amistream.aws.sqs import BATCH, Delivery, Sqs
from amistream.errors import StoreError
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import gather_limited

READERS = 4
HOLD_S = 120
"""Seconds for which a message that is shown is kept from other readers, unless it is given back before."""
POLL_S = 2
"""Longest wait for a new message, and so for the end after Ctrl-C."""
GIVE_BACK_S = 10
"""Longest time for giving messages back, such as after Ctrl-C."""


class QueueReader:
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
