"""Takes jobs from the queue: receives a message when a place is free, and gives it to `handling`.

It never receives more than can begin at once, because a message that waits here is one that no other host can take.
Polls are long, and pauses after failures grow, so that an idle host asks 180 times an hour. Trouble with the queue is
logged once, shown in `health`, and ends nothing: running jobs go on as long as their leases last.

SIGTERM: after `stop` no poll is begun. One that is under way is not cut off, because the queue would hand out messages
to it all the same, those that are given back among them. Messages that it brings are given back, and until its end no
other is. Jobs end as the setting `on_stop` says, within `queue_drain_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, Protocol

import structlog

from amistream.aws.sqs import Delivery
from amistream.errors import AmistreamError, JournalError
from amistream.events import ErrorBody, QueueHealth
from amistream.fleet.counts import Counts
from amistream.fleet.dead_letters import DeadLetters, Redrives
from amistream.fleet.deletions import Deletes, Deletions
from amistream.fleet.handling import Handling, is_held, read_name
from amistream.fleet.lease import Extends, Leases, QueueLease, Terms, boot_id, clock
from amistream.fleet.outbox import GATHER_S, Outbox, Takes
from amistream.fleet.pause import jittered, pause_s
from amistream.flow.gather import task_group
from amistream.jobs.deliveries import HeldMessage
from amistream.jobs.old_jobs import end_old
from amistream.jobs.queue import JobQueue
from amistream.settings import Settings

log = structlog.get_logger()

LONGEST_POLL_S = 20
"""AWS limit."""
_IDLE_PAUSE_S = 2.0
"""The longest pause between two polls that found nothing."""
_LOOK_S = 1.0
"""Seconds after which a full host looks for a place again, because jobs of the socket end without a word."""
_DAY_S = 24 * 3600
"""Between two looks for jobs that nobody goes on with."""
_GIVE_BACK_S = 30.0
"""Seconds for interrupted jobs to end and for their messages to be given back. Guess."""
_LAST_RESULTS_S = 10.0
"""Seconds at the end in which waiting results may still be sent. Guess."""


class MessageQueue(Extends, Deletes, Redrives, Protocol):
    """A queue (`aws.sqs.Sqs`). Every method raises `AmistreamError`."""

    async def receive(self, most: int, wait_s: int, visibility_s: int) -> list[Delivery]:
        """Receive up to `most` messages, and hold them for `visibility_s` seconds."""


class Intake:
    """`run` works until `stop` was called and all messages are dealt with.

    `changed` is called whenever `health` may have changed. `hurry` ends the last poll, and the wait for the jobs.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: JobQueue,
        queue: MessageQueue,
        *,
        holder: str,
        open_outlet: Callable[[], Awaitable[Takes]] | None,
        changed: Callable[[], object] = lambda: None,
        hurry: asyncio.Event | None = None,
        terms: Terms | None = None,
        gather_s: float = GATHER_S,
        now: Callable[[], float] = clock,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._queue = queue
        self._holder = holder
        self._changed = changed
        self._hurry = hurry or asyncio.Event()
        self._terms = terms or Terms(visibility_s=settings.queue_visibility_s)
        self._now = now
        self._boot = boot_id()
        self.counts = Counts()
        self._outbox = Outbox(jobs.deliveries, open_outlet, changed, gather_s=gather_s) if open_outlet else None
        self._leases = Leases(queue, self._terms, ended=self._lease_ended, extended=self._enter_extended, now=now)
        self._deletions = Deletions(queue)
        self._dead_letters = DeadLetters(queue=queue, url=settings.queue_url, counts=self.counts)
        self._handling = Handling(
            dead_letters=self._dead_letters,
            deletions=self._deletions,
            jobs=jobs,
            leases=self._leases,
            settings=settings,
            terms=self._terms,
            counts=self.counts,
            outbox=self._outbox,
            ended=self._free_place,
            may_give_back=self._wait_may_give_back,
        )
        self._taken: set[str] = set()
        """Messages whose jobs have not ended."""
        self._handled: set[asyncio.Task[None]] = set()
        self._place_free = asyncio.Event()
        self._stopping = asyncio.Event()
        self._receives_no_more = asyncio.Event()
        self._over = asyncio.Event()
        self._failure: AmistreamError | None = None

    async def run(self) -> None:
        async with task_group() as group:
            beside = [
                group.create_task(self._leases.run(), name="leases"),
                group.create_task(self._deletions.run(), name="deletions"),
                group.create_task(self._end_old_jobs(), name="old jobs"),
            ]
            if self._outbox is not None:
                beside.append(group.create_task(self._outbox.run(), name="outbox"))
            try:
                # Its end waits for every message.
                async with asyncio.TaskGroup() as messages:
                    await self._take_over(messages)
                    receiving = messages.create_task(self._receive(messages), name="receive")
                    receiving.add_done_callback(self._end_receiving)
                    await self._stopping.wait()
                    beside += [
                        group.create_task(self._end_in_time(), name="drain"),
                        group.create_task(self._end_at_once(receiving), name="hurry"),
                    ]
                await self._send_last_results()
            finally:
                for task in beside:
                    task.cancel()
                self._over.set()

    def stop(self) -> None:
        """Receive no more messages, and give back those whose jobs do not end in time."""
        self._handling.is_stopping = True
        self._stopping.set()
        self._place_free.set()
        self._changed()

    async def wait_over(self) -> None:
        """Wait until every message is dealt with after a stop."""
        await self._over.wait()

    @property
    def leases_lost(self) -> int:
        return self._leases.lost

    @property
    def failed_beats(self) -> int:
        return self._leases.failed_beats

    @property
    def results_given_up(self) -> int:
        return self._outbox.given_up if self._outbox is not None else 0

    @property
    def messages(self) -> int:
        """Messages that are not dealt with."""
        return len(self._handled)

    def health(self) -> QueueHealth:
        failures = (self._failure, self._leases.failure, self._outbox.failure if self._outbox else None)
        errors = tuple(ErrorBody(**failure.as_dict()) for failure in failures if failure is not None)
        status: Literal["ok", "trouble", "stopping"] = "trouble" if errors else "ok"
        left_s = self._leases.seconds_left
        return QueueHealth(
            url=self._settings.queue_url,
            status="stopping" if self._stopping.is_set() else status,
            jobs=len(self._taken),
            places=0 if self._stopping.is_set() else self._places(),
            lease_s=None if left_s is None else round(left_s, 1),
            results_waiting=self._outbox.waiting if self._outbox else 0,
            errors=errors,
        )

    async def _receive(self, messages: asyncio.TaskGroup) -> None:
        failures = 0
        while places := await self._wait_places():
            asked_at = self._now()
            try:
                if not self._dead_letters.learned.is_set():
                    await self._dead_letters.learn()
                received = await self._queue.receive(places, self._poll_s, self._terms.visibility_s)
            except AmistreamError as error:
                failures += 1
                self._set_failure(error)
                await self._wait_stopping(pause_s(failures))
                continue
            failures = 0
            self._set_failure(None)
            if received and self._stopping.is_set():
                await self._return(received)
                return
            for delivery in received:
                await self._take(self._held(delivery, asked_at), messages)
            if not received:
                await self._wait_stopping(jittered(_IDLE_PAUSE_S))

    async def _end_old_jobs(self) -> None:
        while True:
            await end_old(self._jobs, datetime.now(UTC))
            await asyncio.sleep(_DAY_S)

    def _end_receiving(self, _: object) -> None:
        self._receives_no_more.set()
        self._dead_letters.learned.set()

    async def _return(self, received: Sequence[Delivery]) -> None:
        """Give back messages that came after the stop."""
        try:
            await self._queue.extend([delivery.handle for delivery in received], 0)
        except AmistreamError as error:
            log.warning("message.not_given_back", code=error.code, reason=error.message)

    def _held(self, delivery: Delivery, asked_at: float) -> HeldMessage:
        return HeldMessage(
            message_id=delivery.message_id,
            name=read_name(delivery.body),
            queue=self._settings.queue_url,
            handle=delivery.handle,
            body=delivery.body,
            attempt=delivery.receives,
            sent_at=delivery.sent_at.timestamp(),
            boot=self._boot,
            ends_at=asked_at + self._terms.visibility_s,
            parks_at=asked_at + self._terms.park_after_s,
        )

    async def _take(self, message: HeldMessage, messages: asyncio.TaskGroup) -> None:
        self.counts.received += 1
        self.counts.redelivered += message.attempt > 1
        log.info("message.received", message=message.message_id, name=message.name, attempt=message.attempt)
        if not self._leases.renew(message):
            self._begin(message, messages)
            return
        try:
            await self._jobs.deliveries.received_again(message)
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)

    def _begin(self, message: HeldMessage, messages: asyncio.TaskGroup) -> None:
        self._taken.add(message.message_id)
        lease = self._leases.take(message, self._holder)
        task = messages.create_task(self._handling.handle(lease), name=f"message {message.message_id}")
        self._handled.add(task)
        task.add_done_callback(self._forget)
        self._changed()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._handled.discard(task)
        self._changed()

    async def _take_over(self, messages: asyncio.TaskGroup) -> None:
        """Go on with the messages of an earlier process, as far as their leases can still be confirmed."""
        try:
            left = await self._jobs.deliveries.left()
            for message in left:
                ours = message.queue == self._settings.queue_url
                if ours and is_held(message, boot=self._boot, now=self._now(), margin_s=self._terms.margin_s):
                    self._begin(message, messages)
                else:
                    # It comes again, to this host or another one.
                    await self._jobs.deliveries.forget(message.message_id)
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)

    async def _wait_places(self) -> int:
        """Wait until a message may be received; returns how many: 0 when the daemon stops."""
        while not self._stopping.is_set():
            if places := self._places():
                return places
            self._place_free.clear()
            await _wait_for(self._place_free, _LOOK_S)
        return 0

    async def _wait_stopping(self, most_s: float) -> None:
        await _wait_for(self._stopping, most_s)

    async def _wait_may_give_back(self) -> None:
        """Wait for the last poll: it would receive what is given back."""
        if self._stopping.is_set():
            await self._receives_no_more.wait()

    def _places(self) -> int:
        if self._outbox is not None and self._outbox.is_full:
            return 0
        entering = len(self._taken) - len(self._handling.running)
        return max(0, min(self._settings.queue_jobs - len(self._taken), self._jobs.places - entering))

    @property
    def _poll_s(self) -> int:
        """The lease of a message counts from before the poll, so a short one bounds it."""
        return max(1, min(LONGEST_POLL_S, self._terms.visibility_s // 3))

    def _free_place(self, lease: QueueLease) -> None:
        self._taken.discard(lease.message.message_id)
        self._place_free.set()
        self._changed()

    def _lease_ended(self, lease: QueueLease, cause: AmistreamError) -> None:
        log.warning("lease.ended", name=lease.name, code=cause.code, reason=cause.message)
        self._handling.stop_job(lease, cause)
        self._changed()

    async def _enter_extended(self, leases: Sequence[QueueLease]) -> None:
        try:
            await self._jobs.deliveries.extended({lease.message.message_id: lease.ends_at for lease in leases})
        except JournalError as error:
            # A process that follows this one then waits until the messages come again.
            log.warning("journal.failed", reason=error.message)
        self._changed()

    async def _end_in_time(self) -> None:
        """Give back what has not ended in time, and leave to its lease what the queue does not take back."""
        await asyncio.sleep(self._settings.queue_drain_s)
        self._handling.stop_all()
        await asyncio.sleep(_GIVE_BACK_S)
        for task in self._handled:
            task.cancel()

    async def _end_at_once(self, receiving: asyncio.Task[None]) -> None:
        await self._hurry.wait()
        receiving.cancel()
        self._handling.stop_all()

    async def _send_last_results(self) -> None:
        if self._outbox is not None:
            await self._outbox.wait_empty(_LAST_RESULTS_S)

    def _set_failure(self, error: AmistreamError | None) -> None:
        if error is not None and (self._failure is None or self._failure.code != error.code):
            log.warning("queue.failed", code=error.code, reason=error.message, hint=error.hint)
        elif error is None and self._failure is not None:
            log.info("queue.recovered")
        if (self._failure and self._failure.code) != (error and error.code):
            self._failure = error
            self._changed()
        self._failure = error


async def _wait_for(event: asyncio.Event, most_s: float) -> None:
    """Wait for an event, `most_s` seconds at the longest."""
    with suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await event.wait()
