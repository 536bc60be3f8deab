"""Sends the results that the journal holds, oldest first, until each has arrived.

A result is in the journal before anybody hears of it, and is deleted there once the outlet took it: it is sent at least
once, under one id, whatever happens to this process. One that the outlet refuses goes behind the others, which are sent
meanwhile, and is tried again for `LONGEST_REFUSED_S`. Results that follow each other closely share a request, where the
outlet has such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from amistream.errors import AmistreamError, StoreError
from amistream.fleet.pause import pause_s
from amistream.jobs.deliveries import DeliveryRecords, Notice

log = structlog.get_logger()

MOST_WAITING = 1000
"""Results that may wait before no more messages are received. Guess: a fifth of a GiB on disk at the very most."""
_BATCH = 10
"""Results of a request. AWS limit."""
GATHER_S = 1.0
"""Seconds between two requests in which results are gathered; a result after a longer pause goes at once. Guess."""
LONGEST_REFUSED_S = 3 * 24 * 3600
"""Seconds after which a result that the outlet refuses again and again is given up. Guess: a long weekend."""


class Takes(Protocol):
    """An outlet (`aws.notices.Outlet`)."""

    async def send(self, notices: Sequence[Notice]) -> dict[str, StoreError]:
        """Send results. Returns the ids of those that did not arrive, with why."""


class Outbox:
    """`run` sends. `changed` is called when `failure` or `waiting` may have changed."""

    def __init__(
        self,
        records: DeliveryRecords,
        open_outlet: Callable[[], Awaitable[Takes]],
        changed: Callable[[], object],
        *,
        gather_s: float = GATHER_S,
    ) -> None:
        self._records = records
        self._open_outlet = open_outlet
        self._changed = changed
        self._gather_s = gather_s
        self._outlet: Takes | None = None
        self._new = asyncio.Event()
        self._empty = asyncio.Event()
        self._enough = asyncio.Event()
        """Set when results fill a request."""
        self._asked_at = -gather_s
        self._arrivals: dict[str, asyncio.Event] = {}
        self._refused: set[str] = set()
        """Results that the outlet refused, as far as they have not arrived."""
        self.waiting = 0
        self.given_up = 0
        """Results that the outlet refused for `LONGEST_REFUSED_S`."""
        self.failure: AmistreamError | None = None
        """The failure of the last attempt; None since one succeeded and no result is refused."""

    @property
    def is_full(self) -> bool:
        return self.waiting >= MOST_WAITING

    def wake(self) -> None:
        """Look for new results."""
        self._empty.clear()
        self._new.set()
        if len(self._arrivals) >= _BATCH:
            self._enough.set()

    async def wait_sent(self, notice_id: str, most_s: float) -> bool:
        """Wait until a result that was entered has arrived, `most_s` seconds at the longest; false if it has not."""
        arrival = self._arrivals.setdefault(notice_id, asyncio.Event())
        self.wake()
        try:
            async with asyncio.timeout(most_s):
                await arrival.wait()
        except TimeoutError:
            return False
        finally:
            self._arrivals.pop(notice_id, None)
        return True

    async def wait_empty(self, most_s: float) -> None:
        """Wait until no result waits, `most_s` seconds at the longest. None is held back for others from now on."""
        self._gather_s = 0.0
        self._enough.set()
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._empty.wait()

    async def run(self) -> None:
        """Send results until the task is cancelled."""
        failures = 0
        while True:
            await self._gather()
            self._new.clear()
            try:
                idle = await self._send_some()
            except _RefusedError as refused:
                # Only what was refused is left, as far as is known: a new result may be taken.
                failures += 1
                self._set_failure(refused.error)
                await self._wait_new(pause_s(failures))
            except AmistreamError as error:
                failures += 1
                self._set_failure(error)
                await asyncio.sleep(pause_s(failures))
            else:
                failures = 0
                if idle:
                    await self._new.wait()

    async def _send_some(self) -> bool:
        """Send the oldest results; true if there are no more. Raises `_RefusedError` if the outlet refused each."""
        self.waiting = await self._records.count_unsent()
        self._changed()
        notices = await self._records.unsent(_BATCH)
        if notices:
            refused = await self._send(notices)
            if len(refused) == len(notices):
                raise _RefusedError(next(iter(refused.values())))
        elif not self._new.is_set():
            self._empty.set()
        return not notices

    async def _send(self, notices: Sequence[Notice]) -> dict[str, StoreError]:
        """Send results; returns those that the outlet refused, which are behind the others now.

        Raises the `StoreError` of one that did not arrive for another reason.
        """
        if self._outlet is None:
            self._outlet = await self._open_outlet()
        self._asked_at = _now()
        failed = await self._outlet.send(notices)
        arrived = [each.notice_id for each in notices if each.notice_id not in failed]
        for notice_id in arrived:
            self._refused.discard(notice_id)
            if arrival := self._arrivals.get(notice_id):
                arrival.set()
        await self._records.sent(arrived)
        refused = {notice_id: error for notice_id, error in failed.items() if not error.transient}
        for notice_id, error in refused.items():
            if notice_id not in self._refused:
                log.warning("results.refused", result=notice_id, code=error.code, reason=error.message)
            self._refused.add(notice_id)
            await self._records.refused(notice_id)
        given_up = await self._give_up() if refused else set()
        for error in failed.values():
            if error.transient:
                raise error
        if (arrived or given_up) and not self._refused:
            self._set_failure(None)
        return {notice_id: error for notice_id, error in refused.items() if notice_id not in given_up}

    async def _give_up(self) -> set[str]:
        """Forget the results that were refused for so long that nobody will mend that."""
        given_up = set(await self._records.give_up(LONGEST_REFUSED_S))
        for notice_id in given_up:
            log.error("results.given_up", result=notice_id, hint="the job's view and the log of its end have the same")
        self.given_up += len(given_up)
        self._refused -= given_up
        return given_up

    async def _gather(self) -> None:
        """Wait for more results if some were sent a moment ago."""
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._asked_at + self._gather_s):
                await self._enough.wait()

    async def _wait_new(self, most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._new.wait()

    def _set_failure(self, error: AmistreamError | None) -> None:
        if error is not None and (self.failure is None or self.failure.code != error.code):
            log.warning("results.failed", code=error.code, reason=error.message, hint=error.hint)
        elif error is None and self.failure is not None:
            log.info("results.recovered")
        self.failure = error
        self._changed()


def _now() -> float:
    return asyncio.get_running_loop().time()


class _RefusedError(Exception):
    """The outlet refused all results that were sent to it."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.message)
        self.error = error
