"""One job's record: its state, the events for its subscribers, and its end. It does no work itself.

Its attributes are written here only; others use the verbs: `move`, `note`, `report`, `ask_to_stop`, `taking`, `end`.

State and notice events are kept and reach every subscriber in order; of progress only the newest is kept, so that a
slow subscriber costs nothing and never delays the job. A job that ended long ago is kept as text, with its end only.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from amistream.errors import AmistreamError
from amistream.events import TRANSITIONS, ErrorBody, Event, JobKind, JobResult, JobView, Progress, State
from amistream.jobs.lease import Lease
from amistream.jobs.records import JournalEntry, NextStep
from amistream.request import JobRequest
from amistream.roots import Roots
from amistream.settings import Settings


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run: the state and everything that is shown with it."""

    state: State
    result: JobResult | None = None
    error: AmistreamError | None = None
    resumable: bool = False
    looks_again_at: datetime | None = None
    """The time from which a removal can be sure that all is gone."""
    kept: int | None = None
    """Number of the things that are kept for a later run; None: as many as before."""
    at: datetime = field(default_factory=_now)

    @property
    def body(self) -> ErrorBody | None:
        return ErrorBody(**self.error.as_dict()) if self.error else None


class Job:
    """Owned by one event loop.

    `cancel_requested`: somebody asked this run to stop. `interrupt_requested`: and to keep what is stored.
    `stop_cause` is the reason why, if it is to be shown. `hurry_requested`: and to leave the rest of a removal to a
    later process.
    `ran_before`: an earlier run may have left objects behind, even if this one never begins.
    """

    def __init__(
        self,
        request: JobRequest,
        *,
        confined: bool = False,
        user: int | None = None,
        name: str = "",
        lease: Lease | None = None,
    ) -> None:
        """`confined`: the job may use paths within the configured roots only. `user` submitted it, if that is known.

        `name` identifies a job on all hosts, '' for one of this host alone. `lease` is the right to run it now, where a
        queue of several hosts gives that.
        """
        self.request = request
        self.confined = confined
        self.user = user
        self.name = name
        self.lease = lease
        self.resumable = False
        self.looks_again_at: datetime | None = None
        self.is_taken = False
        self.kept = 0
        self.interrupt_requested = self.hurry_requested = False
        self.stop_cause: AmistreamError | None = None
        self.ran_before = False
        self.created_at = _now()
        self.id = f"{self.created_at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.state = State.QUEUED
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.progress: Progress | None = None
        self.result: JobResult | None = None
        self.error: ErrorBody | None = None
        self.notices: tuple[str, ...] = ()
        self.cancel_requested = False
        self.ended = asyncio.Event()
        self._shelved = b""
        self._serial = 0
        self._events: list[Event] = []
        self._newest_progress: Event | None = None
        self._changed = asyncio.Event()
        self._listener: Callable[[Event], None] = lambda _: None
        self._add_event("state")

    def roots(self, settings: Settings) -> Roots | None:
        """The roots within which the job must stay, for the member who submitted it; None if it is not confined."""
        if not self.confined:
            return None
        return Roots(settings.source_roots, readers=settings.socket_group, user=self.user)

    @classmethod
    def remembered(cls, entry: JournalEntry) -> Job:
        """An earlier process's job as the journal has it; a job that it could not end is interrupted."""
        view = entry.view
        job = cls(entry.request, confined=entry.confined, user=entry.user, name=entry.name)
        job.id, job.created_at, job.started_at, job.ended_at = view.id, view.created_at, view.started_at, view.ended_at
        job.progress, job.result, job.error, job.notices = view.progress, view.result, view.error, view.notices
        job.state = view.state if view.state.ended else State.INTERRUPTED
        unfinished = job.state is State.INTERRUPTED and entry.next_step is not NextStep.OVER
        job.resumable = view.resumable or unfinished
        job.looks_again_at = view.looks_again_at
        job._restart_events()
        job.kept = entry.kept
        job.ended.set()
        return job

    def again(self, lease: Lease | None = None) -> Job:
        """The same job, queued for another run."""
        job = Job(self.request, confined=self.confined, user=self.user, name=self.name, lease=lease)
        job.id, job.created_at, job.notices = self.id, self.created_at, self.notices
        job.kept = self.kept
        job.ran_before = True
        job._restart_events()
        return job

    def text(self) -> bytes:
        """The view as JSON."""
        return self._shelved or self.view().model_dump_json().encode()

    def view(self) -> JobView:
        if self._shelved:
            return JobView.model_validate_json(self._shelved)
        return JobView(
            id=self.id,
            kind=self.request.kind,
            state=self.state,
            source=self.request.source,
            destinations=self.request.destinations,
            label=self.request.label,
            user=self.user,
            name=self.name,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            progress=self.progress,
            notices=self.notices,
            result=self.result,
            error=self.error,
            resumable=self.resumable,
            looks_again_at=self.looks_again_at,
            **self._kept_by_kind(self.kept),
        )

    def view_at(self, end: End) -> JobView:
        """The view that the job will have after `end`, for the journal, which has it before any subscriber."""
        changes = {"state": end.state, "result": end.result, "error": end.body, "ended_at": self._time_of(end)}
        kept = self._kept_by_kind(self.kept if end.kept is None else end.kept)
        left = {"resumable": end.resumable, "looks_again_at": end.looks_again_at}
        return self.view().model_copy(update=changes | left | kept)

    def move(self, state: State) -> None:
        """Enter `state`; a transition that is not in the table is a bug and raises ValueError."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no way from {self.state} to {state}")
        self.state = state
        if self.started_at is None and state is not State.CANCELLED:
            self.started_at = _now()
        if state.ended:
            self.ended_at = self.ended_at or _now()
        self._add_event("state")
        if state.ended:
            self.ended.set()

    def end(self, end: End) -> None:
        """Announce the end of the run. Raises ValueError as `move` does."""
        self.result, self.error, self.resumable = end.result, end.body, end.resumable
        self.ended_at = self._time_of(end)
        self.looks_again_at = end.looks_again_at
        if end.kept is not None:
            self.kept = end.kept
        self.move(end.state)

    @property
    def is_members(self) -> bool:
        """A member of the socket's group submitted it. A job with a name came from the queue: it is nobody's here."""
        return self.confined and not self.name

    async def confirm(self) -> None:
        """Confirm that this host has the job still: before each commit point. Raises `FencedError`."""
        if self.lease is not None:
            await self.lease.confirm()

    def check_lease(self) -> None:
        """Raise `FencedError` if the lease is over by the clock here: before each request that changes something."""
        if self.lease is not None:
            self.lease.check()

    def ask_to_stop(self, *, keep: bool, cause: AmistreamError | None = None) -> bool:
        """Record that the run is to stop, with `keep` as interrupted; false when it was asked to already.

        A cancelled run that is interrupted too stops its removal.
        """
        if self.hurry_requested or (self.cancel_requested and not keep):
            return False
        self.stop_cause = cause
        self.interrupt_requested = keep and not self.cancel_requested
        self.cancel_requested, self.hurry_requested = True, keep
        return True

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Keep a resumable job from a second request, and its destination from another job, while it is taken up."""
        self.resumable, self.is_taken = False, True
        try:
            yield
        except BaseException:
            self.resumable = True
            raise
        finally:
            self.is_taken = False

    def note(self, text: str) -> None:
        """Add a notice, unless an earlier run has added the same."""
        if text in self.notices:
            return
        self.notices = (*self.notices, text)
        self._add_event("notice")

    def report(self, progress: Progress) -> None:
        self.progress = progress
        self._newest_progress = self._event("progress")
        self._listener(self._newest_progress)
        self._wake()

    @contextmanager
    def heard_by(self, listener: Callable[[Event], None]) -> Iterator[None]:
        """Call `listener` with each event while the block runs."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = lambda _: None

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events numbered above `after`, from the past on, until the job has ended.

        Of a job that is shelved, even while its subscriber still reads, only the last event. If `after` is above
        the newest number, the clock was set back before this process began, and all events are new.
        """
        if after > self._serial:
            after = 0
        while True:
            changed = self._changed
            ended = self.state.ended
            while event := next((event for event in self._events if event.id > after), None):
                after = event.id
                yield event
            if self._shelved and self._serial > after:
                after = self._serial
                yield Event(id=after, type="state", job=self.view())
            if ended:
                return
            newest = self._newest_progress
            if newest is not None and newest.id > after:
                after = newest.id
                yield newest
            elif changed is self._changed:
                await changed.wait()

    def shelve(self) -> None:
        """Keep an ended job as the text of its view, which takes a tenth of the memory of its objects.

        Its result, error and notices are in its view only from then on.
        """
        if self._shelved:
            return
        self._shelved = self.text()
        self.progress = self.result = self.error = self._newest_progress = None
        self.notices = ()
        self._events.clear()

    def _time_of(self, end: End) -> datetime:
        """The time of the end: not before the start, even if the clock was set back meanwhile."""
        return max(end.at, self.started_at or self.created_at)

    def _kept_by_kind(self, kept: int) -> dict[str, int]:
        return {"kept_blocks" if self.request.kind is JobKind.CONVERT else "kept_parts": kept}

    def _restart_events(self) -> None:
        """Number events from the clock on, so that a subscriber of an earlier run continues behind its last event."""
        self._serial = max(self._serial, time.time_ns() // 1_000_000)
        self._events.clear()
        self._add_event("state")

    def _event(self, kind: Literal["state", "progress", "notice"]) -> Event:
        self._serial += 1
        return Event(id=self._serial, type=kind, job=self.view())

    def _add_event(self, kind: Literal["state", "notice"]) -> None:
        event = self._event(kind)
        self._events.append(event)
        self._listener(event)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
