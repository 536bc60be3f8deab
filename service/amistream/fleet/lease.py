"""Leases of messages: kept alive while their jobs run, and given up in time when that does not succeed.

A lease is counted from before the request that got or extended it, by the clock that runs on while the machine or the
process is suspended. A job whose lease is not confirmed by `margin_s` before its end is fenced: it stops, and puts and
removes nothing more, because another host may have it soon. Each attempt of each request of a job asks before it is
sent (`check`), so that a process that was stopped for long sends none. A lease that is lost never comes back.

The queue counts 12 hours from the receive, whatever is confirmed. Before that the job is parked: it stops, keeps what
it stored, and its message is given back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import structlog

from amistream.errors import AmistreamError, FencedError, JobError, StaleHandleError, StalledError, StoreError
from amistream.fleet.pause import pause_s
from amistream.flow.gather import task_group
from amistream.jobs.deliveries import HeldMessage

log = structlog.get_logger()

LONGEST_MARGIN_S = 30.0
"""Seconds between fence and end of a lease: requests that are under way then have time to arrive. Guess."""
PARK_AFTER_S = 11.5 * 3600
"""AWS limit: 12 hours; the rest is for the stop of the job and for its next receive."""
_LONGEST_TICK_S = 1.0
"""A timer of the event loop stands still while the machine is suspended, so it is never set for longer."""
_SILENT = "no extension of its lease was confirmed in time"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def clock() -> float:
    """Seconds since the machine was started, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names the boot to which the seconds of `clock` belong."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The times of leases, in seconds. All but the first follow from it: a short visibility is for tests."""

    visibility_s: int
    park_after_s: float = PARK_AFTER_S

    @property
    def beat_s(self) -> float:
        """Between two extensions."""
        return self.visibility_s / 3

    @property
    def margin_s(self) -> float:
        """Between the fence and the end."""
        return min(LONGEST_MARGIN_S, self.visibility_s / 10)

    @property
    def tick_s(self) -> float:
        return min(_LONGEST_TICK_S, self.margin_s / 3)


class Extends(Protocol):
    """The part of a queue that leases need (`aws.sqs.Sqs`)."""

    async def extend(self, handles: Sequence[str], seconds: int) -> dict[str, StoreError]:
        """Hold the messages for `seconds` from now. Returns the handles that failed."""


class Hold(Enum):
    """State of a lease."""

    HELD = "held"
    LOST = "lost"
    """Another host may have the job."""
    PARKED = "parked"
    """Its time with the queue is nearly over; it is still ours."""


class QueueLease:
    """One message's lease (`jobs.lease.Lease`). Its attributes are written by `Leases` only."""

    def __init__(self, leases: Leases, message: HeldMessage, holder: str) -> None:
        self._leases = leases
        self.message = message
        self.name = message.name
        self.attempt = message.attempt
        self.holder = holder
        self.sent_at = message.sent_at
        self.ends_at = message.ends_at
        self.hold = Hold.HELD
        self.loss: FencedError | None = None
        """The cause of its loss."""

    def check(self) -> None:
        """Raise `FencedError` if the lease is over, also before its end was noticed."""
        self._leases.check(self)

    async def confirm(self) -> None:
        """Extend the lease at the queue now. Raises `FencedError` if that fails until its end comes near."""
        await self._leases.confirm(self)


class Leases:
    """Extends all held leases, in one request at a time, while `run` runs. `ended` hears of each that ends by itself.

    `extended` hears of those whose end moved.
    """

    def __init__(
        self,
        queue: Extends,
        terms: Terms,
        *,
        ended: Callable[[QueueLease, AmistreamError], object],
        extended: Callable[[Sequence[QueueLease]], Awaitable[object]],
        now: Callable[[], float] = clock,
    ) -> None:
        self._queue = queue
        self._terms = terms
        self._ended = ended
        self._tell_extended = extended
        self._now = now
        self._held: dict[str, QueueLease] = {}
        self._some = asyncio.Event()
        self._asking = asyncio.Lock()
        """Held by a beat, so that none arrives at the queue behind the return of a message."""
        self.failure: AmistreamError | None = None
        """The failure of the last extension; None since one succeeded, or none is needed."""
        self.failed_beats = 0
        self.lost = 0

    async def run(self) -> None:
        """Care for the leases until the task is cancelled."""
        async with task_group() as group:
            group.create_task(self._beat(), name="heartbeat")
            group.create_task(self._watch(), name="fence")

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the first lease ends; None without one."""
        ends = [lease.ends_at for lease in self._held.values()]
        return min(ends) - self._now() if ends else None

    def take(self, message: HeldMessage, holder: str) -> QueueLease:
        """The lease of a message that was received, from now on kept alive."""
        lease = QueueLease(self, message, holder)
        self._held[message.message_id] = lease
        self._some.set()
        return lease

    def renew(self, message: HeldMessage) -> bool:
        """Go on with the handle of a second receive, if the message is held here since an earlier one.

        The first handle may hold it no longer. False if no lease of the message is held, or only one that is over.
        """
        lease = self._held.get(message.message_id)
        if lease is None or self.is_over(lease):
            return False
        lease.message = message
        lease.ends_at = max(lease.ends_at, message.ends_at)
        return True

    def drop(self, lease: QueueLease) -> None:
        """End the care for a lease: its message is dealt with."""
        if self._held.get(lease.message.message_id) is lease:
            del self._held[lease.message.message_id]
        if not self._held:
            # No extension follows that could succeed.
            self.failure = None

    async def give_back(self, lease: QueueLease, after_s: int) -> None:
        """Let the queue hand the message out again in `after_s` seconds. Raises `AmistreamError`."""
        self.drop(lease)
        async with self._asking:
            failed = await self._queue.extend([lease.message.handle], after_s)
        for error in failed.values():
            raise error

    def is_over(self, lease: QueueLease) -> bool:
        """True if the job may put nothing more."""
        return lease.hold is Hold.LOST or self._now() >= lease.ends_at - self._terms.margin_s

    def check(self, lease: QueueLease) -> None:
        """Raise `FencedError` for a lease that is over: a process that was stopped may find that out here."""
        if self.is_over(lease):
            raise self._lose(lease, _SILENT)

    async def confirm(self, lease: QueueLease) -> None:
        """Extend a lease, and repeat that until it succeeds or the lease is over. Raises `FencedError`.

        A parked lease is extended, too: it is still ours.
        """
        failures = 0
        while not self.is_over(lease):
            if await self._extend([lease]) and not self.is_over(lease):
                return
            failures += 1
            await self._sleep(self._pause_s(failures))
        raise self._lose(lease, _SILENT)

    async def _beat(self) -> None:
        failures = 0
        while True:
            await self._wait_some()
            await self._sleep(self._pause_s(failures) if failures else self._terms.beat_s)
            async with self._asking:
                held = [lease for lease in list(self._held.values()) if not self._is_fenced(lease)]
                failures = failures + 1 if held and not await self._extend(held, is_beat=True) else 0

    async def _watch(self) -> None:
        """Fence what is not confirmed in time, and park what was held for long."""
        while True:
            await self._wait_some()
            for lease in list(self._held.values()):
                if not self._is_fenced(lease) and lease.hold is Hold.HELD and self._now() >= lease.message.parks_at:
                    lease.hold = Hold.PARKED
                    self._ended(lease, _parked(lease.name))
            await asyncio.sleep(self._terms.tick_s)

    def _is_fenced(self, lease: QueueLease) -> bool:
        """True if the lease is over; it is lost then."""
        if is_over := self.is_over(lease):
            self._lose(lease, _SILENT)
        return is_over

    async def _extend(self, leases: Sequence[QueueLease], *, is_beat: bool = False) -> bool:
        """Extend leases; false if that failed for one. Those that the queue does not let us have any more are lost.

        So are those whose end came near before the answer did: the queue may take the handle of an earlier receive.
        """
        before = self._now()
        handles = [lease.message.handle for lease in leases]
        try:
            async with asyncio.timeout(self._terms.beat_s):
                failed = await self._queue.extend(handles, self._terms.visibility_s)
        except TimeoutError:
            self._note_failure(_no_answer(self._terms.beat_s), len(leases))
            return False
        except AmistreamError as error:
            self._note_failure(error, len(leases))
            return False
        confirmed = []
        refused = False
        for lease in leases:
            refusal = failed.get(lease.message.handle)
            is_dropped = self._held.get(lease.message.message_id) is not lease
            if is_beat and is_dropped and isinstance(refusal, StaleHandleError):
                # It was deleted meanwhile.
                continue
            refused |= refusal is not None
            if isinstance(refusal, StaleHandleError):
                self._lose(lease, refusal.message)
            if refusal is not None:
                self._note_failure(refusal, 1)
            elif not self._is_fenced(lease):
                lease.ends_at = max(lease.ends_at, before + self._terms.visibility_s)
                confirmed.append(lease)
        if not refused:
            self.failure = None
        await self._tell_extended(confirmed)
        return not refused

    def _note_failure(self, error: AmistreamError, count: int) -> None:
        self.failed_beats += 1
        self.failure = error
        log.warning("lease.unconfirmed", messages=count, reason=error.message)

    def _lose(self, lease: QueueLease, why: str) -> FencedError:
        if lease.loss is None:
            lease.hold = Hold.LOST
            lease.loss = FencedError(
                "lease.lost",
                f"cannot go on with the job {lease.name}: {why}",
                hint="its message comes again, here or on another host, which continues it or begins anew",
            )
            self.lost += 1
            self._ended(lease, lease.loss)
        return lease.loss

    async def _wait_some(self) -> None:
        if not self._held:
            self._some.clear()
            await self._some.wait()

    async def _sleep(self, seconds: float) -> None:
        """Sleep by the clock of the leases."""
        until = self._now() + seconds
        while (left := until - self._now()) > 0:  # noqa: ASYNC110 - the loop's clock stands still in suspension
            await asyncio.sleep(min(left, self._terms.tick_s))

    def _pause_s(self, failures: int) -> float:
        return pause_s(failures, first_s=self._terms.tick_s, longest_s=self._terms.beat_s / 3)


def _no_answer(seconds: float) -> StalledError:
    return StalledError(
        "queue.silent",
        f"cannot hold the messages: the queue did not answer within {seconds:g} s",
        hint="check the network; running jobs stop before their leases end",
        transient=True,
    )


def _parked(name: str) -> JobError:
    return JobError(
        "lease.parked",
        f"cannot go on with the job {name} now: the queue lets nobody hold a message for more than 12 hours",
        hint="its message is given back, and the next host that receives it continues the job, or begins anew",
    )
