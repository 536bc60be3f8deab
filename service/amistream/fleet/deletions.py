"""Deletes messages: those that are asked for at nearly the same time share a request.

Nothing waits for long here: between the result of a job and the deletion of its message a host that dies leaves the job
to another one, which sends a second result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from amistream.errors import AmistreamError, StoreError
from amistream.flow.gather import task_group

_BATCH = 10
"""Messages of a request. AWS limit."""
_GATHER_S = 0.05
"""Seconds for which the first deletion waits for others. Guess: results arrive together, and the journal is slow."""


class Deletes(Protocol):
    """The part of a queue that is needed here (`aws.sqs.Sqs`)."""

    async def delete(self, handles: Sequence[str]) -> dict[str, StoreError]:
        """Delete messages. Returns the handles that failed. Raises `AmistreamError`."""


class Deletions:
    """`delete` may be called any number of times at once while `run` runs."""

    def __init__(self, queue: Deletes) -> None:
        self._queue = queue
        self._wanted: dict[str, asyncio.Future[StoreError | None]] = {}
        self._some = asyncio.Event()

    async def delete(self, handle: str) -> None:
        """Delete the message of this handle. Raises `AmistreamError`."""
        answer: asyncio.Future[StoreError | None] = asyncio.get_running_loop().create_future()
        self._wanted[handle] = answer
        self._some.set()
        if (error := await answer) is not None:
            raise error

    async def run(self) -> None:
        """Delete messages until the task is cancelled."""
        async with task_group() as group:
            while True:
                await self._some.wait()
                await asyncio.sleep(_GATHER_S)
                self._some.clear()
                wanted, self._wanted = list(self._wanted.items()), {}
                for first in range(0, len(wanted), _BATCH):
                    group.create_task(self._ask(dict(wanted[first : first + _BATCH])))

    async def _ask(self, wanted: dict[str, asyncio.Future[StoreError | None]]) -> None:
        failed: dict[str, StoreError] = {}
        failure: AmistreamError | None = None
        try:
            failed = await self._queue.delete([*wanted])
        except AmistreamError as error:
            failure = error
        for handle, answer in wanted.items():
            if answer.done():
                # Whoever asked was cancelled.
                continue
            if failure is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(failed.get(handle))
