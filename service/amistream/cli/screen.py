"""A job's progress on stderr: a bar on a terminal, else a line at intervals, in words or in JSON. Writes no stdout.

A screen gets one event after the other and remembers only its own output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self

from amistream.cli.table import counted
from amistream.states import JobKind, State
from amistream.units import duration_text, rate_text, share_text, size_text

if TYPE_CHECKING:
    from amistream.cli.showing import Showing
    from amistream.events import Event, JobView, Progress

PLAIN_PERIOD_S, JSON_PERIOD_S = 5.0, 1.0
"""Seconds between two progress lines; a change of state is shown at once."""
_LIMITS = {
    "read": "reading SOURCE",
    "archive": "SHA-1 on one core",
    "compress": "compression",
    "encrypt": "AES on one core",
    "split": "SHA-1 on one core",
    "hash": "SHA-256",
    "put": "the requests to EBS",
}


class Screen(AbstractContextManager["Screen"], Protocol):
    """Shows events in a `with` block; the end of the block restores the terminal."""

    def show(self, event: Event) -> None: ...


class _Lines(Screen):
    """Writes lines; a progress line at most once in so many seconds."""

    period_s: float

    def __init__(self, put: Callable[[str], None], shown: Showing, clock: Callable[[], float] = time.monotonic) -> None:
        self._put = put
        self._shown = shown
        self._clock = clock
        self._announced = Announced(earlier=shown.earlier_notes)
        self._next_line_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _is_due(self) -> bool:
        if self._clock() < self._next_line_at:
            return False
        self._next_line_at = self._clock() + self.period_s
        return True


class PlainScreen(_Lines):
    """One line per state and notice, and one progress line at most every five seconds."""

    period_s = PLAIN_PERIOD_S

    def show(self, event: Event) -> None:
        job = event.job
        for notice in self._announced.new_notices(job):
            if self._shown.notes:
                self._put(f"note: {notice}")
        if not self._shown.progress:
            return
        if self._announced.is_new_state(job):
            self._put(f"job {job.id}: {job.state.value}")
        if event.type == "progress" and job.progress is not None and self._is_due():
            self._put(progress_line(job.progress, job.kind))


class JsonScreen(_Lines):
    """One JSON object per line: each notice and state, the progress at most once a second, and the end."""

    period_s = JSON_PERIOD_S

    def show(self, event: Event) -> None:
        job = event.job
        for notice in self._announced.new_notices(job):
            if self._shown.notes:
                self._write(job, "note", message=notice)
        if not self._shown.progress:
            return
        is_new = self._announced.is_new_state(job)
        if job.state.ended:
            if is_new:
                self._write_end(job)
        elif is_new or (event.type == "progress" and self._is_due()):
            progress = job.progress.model_dump(mode="json", exclude={"stages", "compression"}) if job.progress else {}
            self._write(job, "progress", state=job.state.value, **progress)

    def _write_end(self, job: JobView) -> None:
        if job.state is State.DONE:
            self._write(job, "result", state=job.state.value)
        else:
            error = job.error.model_dump(mode="json") if job.error is not None else None
            self._write(job, "error", state=job.state.value, error=error)

    def _write(self, job: JobView, kind: str, **facts: Any) -> None:
        self._put(json.dumps({"type": kind, "job": job.id, **facts}))


class Announced:
    """The announced states and notices of a job; gives new ones only, so that none is shown twice.

    Without `earlier` the notices of the first event count as announced: they are those of an earlier run.
    """

    def __init__(self, *, earlier: bool = True) -> None:
        self._state: State | None = None
        self._notices: int | None = 0 if earlier else None

    def new_notices(self, job: JobView) -> list[str]:
        if self._notices is None:
            self._notices = len(job.notices)
        new = job.notices[self._notices :]
        self._notices += len(new)
        return list(new)

    def is_new_state(self, job: JobView) -> bool:
        is_new = job.state is not self._state
        self._state = job.state
        return is_new


def progress_line(progress: Progress, kind: JobKind) -> str:
    """Format the progress of a job of this kind as one line."""
    return ", ".join([share_text(progress.stored_share, 1), *left_words(progress), *work_words(progress, kind)])


def left_words(progress: Progress) -> list[str]:
    """Format the time left, if it is known."""
    return [f"{duration_text(progress.eta_s)} left"] if progress.eta_s is not None else []


def work_words(progress: Progress, kind: JobKind) -> list[str]:
    """Format bytes, rate, parts or blocks, and what limits."""
    done = {JobKind.VERIFY: "checked", JobKind.MIGRATE: "copied"}.get(kind, "read")
    words = [
        f"{size_text(progress.bytes_done)} of {size_text(progress.bytes_total)} {done}",
        rate_text(progress.rate),
    ]
    match kind:
        case JobKind.BUNDLE:
            words.append(f"{counted(progress.parts_stored, 'part')} stored")
        case JobKind.CONVERT:
            words.append(f"{counted(progress.blocks_stored, 'block')} stored")
        case JobKind.VERIFY:
            words.append(f"{progress.parts_stored} of {progress.parts_made} parts checked")
        case JobKind.MIGRATE:
            words.append(f"{progress.parts_stored} of {progress.parts_made} parts copied")
    return [*words, *filter(None, [limit_text(progress.bottleneck)])]


def limit_text(stage: str | None) -> str:
    """Name the work of a stage that limits the speed."""
    return f"limited by {_LIMITS.get(stage, stage)}" if stage else ""
