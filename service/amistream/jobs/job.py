"""One job's record: its state, what it tells subscribers, and what it ended with. It does no work itself.

State and notice events are kept and reach every subscriber in order; of progress only the newest is kept, so that a
slow subscriber costs nothing and never holds the job up. A job that ended long ago is kept as text, with its end only.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Literal

from amistream.errors import AmistreamError
from amistream.events import TRANSITIONS, ErrorBody, Event, JobResult, JobView, Progress, State
from amistream.request import JobRequest


def _now() -> datetime:
    return datetime.now(UTC)


class Job:
    """Owned by one event loop.

    `cancel_requested` tells a wanted cancel from one that comes from outside; `interrupt_requested` one that is to keep
    what was stored. A job that `lived_before` may have left things, although it has not begun in this life.
    """

    def __init__(self, request: JobRequest, *, confined: bool = False) -> None:
        """`confined`: whoever asked for it may name paths within the configured roots only."""
        self.request = request
        self.confined = confined
        self.resumable = False
        self.kept_parts = 0
        self.interrupt_requested = False
        self.lived_before = False
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
        self._kept: list[Event] = []
        self._newest_progress: Event | None = None
        self._changed = asyncio.Event()
        self._keep("state")

    @classmethod
    def remembered(cls, request: JobRequest, view: JobView, *, confined: bool) -> Job:
        """An earlier process's job as it left it; one that it could not end is interrupted."""
        job = cls(request, confined=confined)
        job.id, job.created_at, job.started_at, job.ended_at = view.id, view.created_at, view.started_at, view.ended_at
        job.progress, job.result, job.error, job.notices = view.progress, view.result, view.error, view.notices
        job.state = view.state if view.state.ended else State.INTERRUPTED
        job.resumable = view.resumable or job.state is State.INTERRUPTED
        job._begin_anew()
        job.ended.set()
        return job

    def again(self) -> Job:
        """The same job, queued anew."""
        job = Job(self.request, confined=self.confined)
        job.id, job.created_at, job.notices = self.id, self.created_at, self.notices
        job.kept_parts = self.kept_parts
        job.lived_before = True
        job._begin_anew()
        return job

    def text(self) -> bytes:
        """The view as JSON."""
        return self._shelved or self.view().model_dump_json().encode()

    def view(self) -> JobView:
        if self._shelved:
            return JobView.model_validate_json(self._shelved)
        return JobView(
            id=self.id,
            state=self.state,
            source=self.request.source,
            destinations=self.request.destinations,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            progress=self.progress,
            notices=self.notices,
            result=self.result,
            error=self.error,
            resumable=self.resumable,
            kept_parts=self.kept_parts,
        )

    def move(self, state: State) -> None:
        """Enter `state`; a transition that the table does not hold is a bug and raises ValueError."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"no way from {self.state} to {state}")
        self.state = state
        if self.started_at is None and state is not State.CANCELLED:
            self.started_at = _now()
        if state.ended:
            self.ended_at = _now()
        self._keep("state")
        if state.ended:
            self.ended.set()

    def finish(self, result: JobResult) -> None:
        self.result = result
        self.move(State.DONE)

    def fail(self, error: AmistreamError, state: State = State.FAILED, *, resumable: bool = False) -> None:
        self.error = ErrorBody(**error.as_dict())
        self.resumable = resumable
        self.move(state)

    def interrupt(self) -> None:
        """End it unfinished, with what it stored kept."""
        self.resumable = True
        self.move(State.INTERRUPTED)

    def note(self, text: str) -> None:
        """Tell something once: a job that is taken up again and again would tell it each time."""
        if text in self.notices:
            return
        self.notices = (*self.notices, text)
        self._keep("notice")

    def report(self, progress: Progress) -> None:
        self.progress = progress
        self._newest_progress = self._event("progress")
        self._wake()

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events numbered above `after`, from the past on, until the job has ended.

        Of a job that is shelved, also of one that is shelved before its subscriber has read to its end, the last alone.
        """
        while True:
            changed = self._changed
            ended = self.state.ended
            while event := next((event for event in self._kept if event.id > after), None):
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
        """Keep an ended job as the text of its view, which takes a tenth of the room of its objects.

        What it ended with is in its view alone from then on.
        """
        if self._shelved:
            return
        self._shelved = self.text()
        self.progress = self.result = self.error = self._newest_progress = None
        self.notices = ()
        self._kept.clear()

    def _begin_anew(self) -> None:
        """Number events from the clock on, so that whoever followed an earlier life goes on behind what it saw."""
        self._serial = max(self._serial, time.time_ns() // 1_000_000)
        self._kept.clear()
        self._keep("state")

    def _event(self, kind: Literal["state", "progress", "notice"]) -> Event:
        self._serial += 1
        return Event(id=self._serial, type=kind, job=self.view())

    def _keep(self, kind: Literal["state", "notice"]) -> None:
        self._kept.append(self._event(kind))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
