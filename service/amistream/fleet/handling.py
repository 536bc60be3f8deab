"""One message, from its receive to its end: read, permitted, submitted as a job, followed, and dealt with.

The order is what keeps a job from being lost or done twice by accident. The message is in the journal before its job is
submitted; the verdict and the result are in the journal before anybody hears of them; the result is sent before the
message is deleted, as far as the outlet answers in time. A message that is not deleted comes again, and its job or its
verdict is found then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from amistream.errors import (
    AmistreamError,
    ConflictError,
    JobError,
    JournalError,
    MessageError,
    NewerMessageError,
    bug_error,
)
from amistream.events import ErrorBody, State
from amistream.fleet.counts import Counts
from amistream.fleet.dead_letters import DeadLetters
from amistream.fleet.deletions import Deletions
from amistream.fleet.lease import Hold, Leases, QueueLease, Terms
from amistream.fleet.messages import Message, read_message
from amistream.fleet.outbox import Outbox
from amistream.fleet.outcomes import Ending, Fate, fate_of
from amistream.fleet.pause import jittered
from amistream.fleet.permissions import check_message_request
from amistream.fleet.results import result_of_job, result_of_refusal
from amistream.jobs.deliveries import HeldMessage, Notice, Verdict
from amistream.jobs.job import Job
from amistream.jobs.old_jobs import end_if_unkept
from amistream.jobs.queue import JobQueue
from amistream.settings import Settings

log = structlog.get_logger()

SEND_FIRST_S = 30.0
"""Seconds that the deletion of a message waits for its result to be sent. Guess: longer than a slow answer."""
_LONGEST_BACK_S = 900
_MOST_DOUBLINGS = 10


@dataclass(slots=True, kw_only=True)
class Handling:
    """Deals with messages, any number at once. `ended` hears of each whose job has ended, or has none."""

    dead_letters: DeadLetters
    deletions: Deletions
    jobs: JobQueue
    leases: Leases
    settings: Settings
    terms: Terms
    counts: Counts
    outbox: Outbox | None
    ended: Callable[[QueueLease], object]
    may_give_back: Callable[[], Awaitable[object]]
    """Waits until a message can be given back without coming to this host again."""
    is_stopping: bool = False
    running: dict[str, Job] = field(default_factory=dict)
    """The jobs under way, by the id of the message."""
    beginning: set[str] = field(default_factory=set)
    """The names of jobs that are being begun, which `jobs` may not know yet."""

    async def handle(self, lease: QueueLease) -> None:
        """Deal with a message that was received. Its lease is over afterwards. Raises nothing but a cancel."""
        try:
            with structlog.contextvars.bound_contextvars(message=lease.message.message_id, name=lease.name):
                await self._handle(lease)
        finally:
            self.leases.drop(lease)

    def stop_job(self, lease: QueueLease, cause: AmistreamError) -> None:
        """Interrupt the job of a lease that ended, if it has begun."""
        if (job := self.running.get(lease.message.message_id)) is not None:
            self.jobs.interrupt(job.id, cause)

    def stop_all(self) -> None:
        """Interrupt all jobs, so that their messages are given back."""
        for job in self.running.values():
            self.jobs.interrupt(job.id, _given_back(job.name, "this host stops"))

    async def _handle(self, lease: QueueLease) -> None:
        try:
            held = await self.jobs.deliveries.hold(lease.message)
            if held.verdict is not None:
                # Dealt with in an earlier delivery, but for its deletion.
                self.ended(lease)
                await self._finish(lease, held.verdict, held.code, None)
                return
            await self._work(lease)
        except JournalError as error:
            log.warning("journal.failed", reason=error.message)
            await self._end_unrecorded(lease, error)
        except AmistreamError as error:
            # The queue does not answer: the message comes again.
            log.warning("message.left", code=error.code, reason=error.message)
        except Exception as error:
            # The bug of one message must not end the others.
            log.exception("message.bug")
            await self._end_unrecorded(lease, bug_error(error))
        finally:
            self.ended(lease)

    async def _work(self, lease: QueueLease) -> None:
        label = ""
        try:
            message = read_message(lease.message.body)
            label = message.label
            check_message_request(message.request, self.settings)
            job = await self._begin(message, lease)
        except NewerMessageError as error:
            log.info("message.newer", reason=error.message)
            if self._is_last(lease):
                await self._refuse(lease, error, label)
            else:
                # It stays unknown here until this host has a newer version, so another host gets the time to take it.
                await self._give_back(lease, self._later(lease, of_visibility=1))
        except _RunsHereError:
            await self._wait_turn(lease, label)
        except AmistreamError as error:
            await self._refuse(lease, error, label)
        else:
            await self._follow(lease, job, label)

    async def _wait_turn(self, lease: QueueLease, label: str) -> None:
        """Give back a message whose job runs here: sent twice. Once the job is done, so is the message.

        After the last receive it is deleted: the other message is there, and has the result.
        """
        if not self._is_last(lease):
            await self._give_back(lease, self._later(lease))
        elif lease.name in self.beginning or any(job.name == lease.name for job in self.running.values()):
            await self._settle(lease, Verdict.DELETE, "", None)
        else:
            error = ConflictError(
                "job.running_elsewhere",
                f"cannot take the job {lease.name}: it was begun by hand on this host",
                hint="wait until it has ended, then send the message again",
                field="job",
            )
            await self._refuse(lease, error, label)

    async def _begin(self, message: Message, lease: QueueLease) -> Job:
        """The job of a message: found, resumed or new. Raises `_RunsHereError` if it runs already."""
        known = self.jobs.named(message.job)
        if message.job in self.beginning or (known is not None and (not known.state.ended or known.is_taken)):
            raise _RunsHereError
        self.beginning.add(message.job)
        try:
            return await self._begin_first(message, lease, known)
        finally:
            self.beginning.discard(message.job)

    async def _begin_first(self, message: Message, lease: QueueLease, known: Job | None) -> Job:
        """Begin a job that no other message is beginning; `known` is the ended one of its name."""
        request = message.request.model_copy(update={"label": message.label})
        if known is not None and (known.resumable or known.state is State.DONE):
            if known.request.model_copy(update={"label": message.label}) != request:
                raise ConflictError(
                    "job.key_reused",
                    f"cannot take the job {message.job}: job {known.id} has the same name and another request",
                    hint="give a new request a new name",
                    field="job",
                )
            return await self.jobs.resume(known.id, lease=lease) if known.resumable else known
        message.check_deadline(datetime.now(UTC))
        job, _ = await self.jobs.submit(request, confined=True, name=message.job, lease=lease)
        return job

    async def _follow(self, lease: QueueLease, job: Job, label: str) -> None:
        message = lease.message
        is_ours = job.lease is lease
        self.running[message.message_id] = job
        try:
            await self.jobs.deliveries.submitted(message.message_id, job.id)
            if lease.hold is not Hold.HELD:
                # It ended while the job was entered.
                self.stop_job(lease, lease.loss or self._parked(lease))
            await job.ended.wait()
        except Exception:
            # Its lease ends with its message, and without one it would run on beside the next host's.
            self.jobs.interrupt(job.id, _given_back(job.name, "its message cannot be recorded"))
            await job.ended.wait()
            raise
        finally:
            del self.running[message.message_id]
        self.ended(lease)
        view = job.view()
        if view.state is State.INTERRUPTED and view.error is None:
            # The daemon stops.
            given_back = _given_back(job.name, "this host stops")
            view = view.model_copy(update={"error": ErrorBody(**given_back.as_dict())})
        ending = Ending(
            state=view.state,
            code=view.error.code if view.error else "",
            resumable=view.resumable,
            lease_lost=self.leases.is_over(lease),
            is_parked=lease.hold is Hold.PARKED,
            is_stopping=self.is_stopping,
            is_last=self._is_last(lease),
        )
        if not is_ours and await self.jobs.deliveries.is_settled(job.id):
            # Its result was entered with another message of the same job.
            await self._settle(lease, Verdict.DELETE, "", None)
            return
        notice = result_of_job(message, view, host=lease.holder, label=label)
        fate = fate_of(ending)
        await self._resolve(lease, fate, ending.code or f"job.{view.state.value}", notice)
        if fate in {Fate.LEFT, Fate.BACK_NOW, Fate.BACK_LATER}:
            await end_if_unkept(self.jobs, job.id)

    async def _refuse(self, lease: QueueLease, error: AmistreamError, label: str) -> None:
        self.ended(lease)
        ending = Ending(
            state=State.REFUSED,
            code=error.code,
            lease_lost=self.leases.is_over(lease),
            is_last=self._is_last(lease),
        )
        level = log.info if isinstance(error, MessageError) else log.warning
        level("message.refused", code=error.code, reason=error.message)
        notice = result_of_refusal(lease.message, error, host=lease.holder, label=label)
        await self._resolve(lease, fate_of(ending), error.code, notice)

    async def _resolve(self, lease: QueueLease, fate: Fate, code: str, notice: Notice) -> None:
        match fate:
            case Fate.DONE:
                await self._settle(lease, Verdict.DELETE, "", notice)
            case Fate.DEAD:
                await self._settle(lease, Verdict.BURY, code, notice)
            case Fate.BACK_NOW:
                await self._give_back(lease, 0)
            case Fate.BACK_LATER:
                await self._give_back(lease, self._later(lease))
            case Fate.LEFT:
                log.warning("message.fenced", reason=lease.loss.message if lease.loss else "its lease is over")
                await self.jobs.deliveries.forget(lease.message.message_id)

    async def _settle(self, lease: QueueLease, verdict: Verdict, code: str, notice: Notice | None) -> None:
        """Enter the verdict with the result, then act on it."""
        sent = notice if self.outbox is not None else None
        await self.jobs.deliveries.settle(lease.message.message_id, verdict, code, sent)
        if notice is not None:
            self.counts.results[notice.outcome] += 1
        await self._finish(lease, verdict, code, sent)

    async def _finish(self, lease: QueueLease, verdict: Verdict, code: str, notice: Notice | None) -> None:
        message_id, records = lease.message.message_id, self.jobs.deliveries
        if notice is not None and self.outbox is not None:
            await self.outbox.wait_sent(notice.notice_id, min(SEND_FIRST_S, self.terms.visibility_s))
        if verdict is Verdict.BURY:
            # A message of an earlier process may be here before anything is known about the queue.
            await self.dead_letters.learned.wait()
            if self.dead_letters.policy is None and self.is_stopping:
                log.warning("message.left", code=code, reason="this host stops, and does not know the dead letters")
                return
            await self.dead_letters.look_again()
            if self._is_late(lease, verdict):
                return
            await self._bury(lease, code)
            await records.buried(message_id)
        if self._is_late(lease, verdict):
            return
        await self._delete(lease)
        await records.over(message_id)

    def _is_late(self, lease: QueueLease, verdict: Verdict) -> bool:
        """True if another host may have the message: it acts on the verdict of its own."""
        if is_over := self.leases.is_over(lease):
            log.info("message.late", verdict=verdict.value)
        return is_over

    async def _end_unrecorded(self, lease: QueueLease, error: AmistreamError) -> None:
        """Give a message back whose end cannot be recorded; after the last receive, make it a dead letter as it is."""
        if not self._is_last(lease):
            await self._give_back(lease, self._later(lease))
            return
        try:
            if not self._is_late(lease, Verdict.BURY):
                await self._bury(lease, error.code)
                await self._delete(lease)
        except AmistreamError as failure:
            log.warning("message.left", code=failure.code, reason=failure.message)

    async def _delete(self, lease: QueueLease) -> None:
        # An extension of a deleted message would look like a lost lease.
        self.leases.drop(lease)
        await self.deletions.delete(lease.message.handle)

    async def _bury(self, lease: QueueLease, code: str) -> None:
        job = self.jobs.named(lease.name)
        await self.dead_letters.bury(lease, code, job.id if job is not None else "")

    async def _give_back(self, lease: QueueLease, after_s: int) -> None:
        await self.may_give_back()
        if self.leases.is_over(lease):
            return
        try:
            await self.leases.give_back(lease, after_s)
            self.counts.given_back += 1
            await self.jobs.deliveries.forget(lease.message.message_id)
        except AmistreamError as error:
            # It comes again when its lease ends.
            log.warning("message.not_given_back", code=error.code, reason=error.message)

    def _later(self, lease: QueueLease, *, of_visibility: float = 0.1) -> int:
        """Seconds after which a message is handed out again: a share of the visibility, and more with each receive."""
        first_s = self.terms.visibility_s * of_visibility
        most_s = min(_LONGEST_BACK_S, first_s * 2 ** min(lease.attempt - 1, _MOST_DOUBLINGS))
        return max(1, round(jittered(most_s)))

    def _is_last(self, lease: QueueLease) -> bool:
        return self.dead_letters.is_last(lease)

    def _parked(self, lease: QueueLease) -> JobError:
        return JobError("lease.parked", f"cannot go on with the job {lease.name} now: it is given back")


class _RunsHereError(Exception):
    """The job runs on this host for another message."""


def _given_back(name: str, why: str) -> JobError:
    return JobError(
        "lease.given_back",
        f"cannot go on with the job {name}: {why}",
        hint="its message is given back, and the next host that receives it goes on with it or begins anew",
    )


def read_name(body: str) -> str:
    """The name of a message's job, '' if it has none."""
    try:
        return read_message(body).job
    except MessageError as error:
        return error.job


def is_held(message: HeldMessage, *, boot: str, now: float, margin_s: float) -> bool:
    """True if the lease of a process that is gone can still be confirmed."""
    return message.boot == boot and now < message.ends_at - margin_s
