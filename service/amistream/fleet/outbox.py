"""Sends the results that the journal holds, oldest first, until each has arrived.

A result is in the journal before anybody hears of it, and is deleted there once the outlet took it: it is sent at least
once, under one id, whatever happens to this process. One that the outlet refuses goes behind the others, which are sent
meanwhile, and is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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


class Takes(Protocol):
    """An outlet (`aws.notices.Outlet`)."""

    async def send(self, notice_id: str, document: str, outcome: str) -> None:
        """Send one result. Raises `AmistreamError`."""


class Outbox:
    """`run` sends. `changed` is called when `failure` or `waiting` may have changed."""

    def __init__(
        self, records: DeliveryRecords, open_outlet: Callable[[], Awaitable[Takes]], changed: Callable[[], object]
    ) -> None:
        self._records = records
        self._open_outlet = open_outlet
        self._changed = changed
        self._outlet: Takes | None = None
        self._new = asyncio.Event()
        self._empty = asyncio.Event()
        self._arrivals: dict[str, asyncio.Event] = {}
        self._refused: set[str] = set()
        """Results that the outlet refused, as far as they have not arrived."""
        self.waiting = 0
        self.failure: AmistreamError | None = None
        """Why the last attempt failed; None since one succeeded and no result is refused."""

    @property
    def is_full(self) -> bool:
        return self.waiting >= MOST_WAITING

    def wake(self) -> None:
        """Look for new results."""
        self._empty.clear()
        self._new.set()

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
        """Wait until no result waits, `most_s` seconds at the longest."""
        self.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._empty.wait()

    async def run(self) -> None:
        """Send results until the task is cancelled."""
        failures = 0
        while True:
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
        refusals = [refusal for notice in notices if (refusal := await self._send(notice)) is not None]
        if notices and len(refusals) == len(notices):
            raise _RefusedError(refusals[0])
        if not notices and not self._new.is_set():
            self._empty.set()
        return not notices

    async def _send(self, notice: Notice) -> StoreError | None:
        """Send a result, or put it behind the others; returns why the outlet refused it."""
        if self._outlet is None:
            self._outlet = await self._open_outlet()
        try:
            await self._outlet.send(notice.notice_id, notice.document, notice.outcome)
        except StoreError as error:
            if error.transient:
                raise
            if notice.notice_id not in self._refused:
                log.warning("results.refused", result=notice.notice_id, code=error.code, reason=error.message)
            self._refused.add(notice.notice_id)
            await self._records.refused(notice.notice_id)
            return error
        self._refused.discard(notice.notice_id)
        if not self._refused:
            self._set_failure(None)
        if arrival := self._arrivals.get(notice.notice_id):
            arrival.set()
        await self._records.sent(notice.notice_id)
        return None

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


class _RefusedError(Exception):
    """The outlet refused all results that were sent to it."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.message)
        self.error = error
