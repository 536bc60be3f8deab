"""A job's progress on stderr: bars on a terminal, else a plain line at intervals. Never writes to stdout.

A screen gets one event after the other and remembers only its own output.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, Self

from amistream.states import JobKind, State
from amistream.units import duration_text, rate_text, share_text, size_text

if TYPE_CHECKING:
    from amistream.events import Event, JobView, Progress

PLAIN_PERIOD_S = 5.0
"""Seconds between two plain progress lines; a change of state is shown at once."""


class Screen(AbstractContextManager["Screen"], Protocol):
    """Shows events in a `with` block; the end of the block restores the terminal."""

    def show(self, event: Event) -> None: ...


class PlainScreen(Screen):
    """One line per state and notice, and one progress line at most every five seconds."""

    def __init__(self, put: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._put = put
        self._clock = clock
        self._told = Announced()
        self._next_line_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Event) -> None:
        for line in self._told.new_notices(event.job) + self._told.new_state(event.job):
            self._put(line)
        progress = event.job.progress
        if event.type == "progress" and progress is not None and self._clock() >= self._next_line_at:
            self._next_line_at = self._clock() + PLAIN_PERIOD_S
            self._put(progress_line(progress, event.job.kind))


class Announced:
    """The announced states and notices of a job; gives new ones only, so that none is shown twice."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._notices = 0

    def new_notices(self, job: JobView) -> list[str]:
        new = job.notices[self._notices :]
        self._notices += len(new)
        return [f"note: {notice}" for notice in new]

    def new_state(self, job: JobView) -> list[str]:
        if job.state is self._state:
            return []
        self._state = job.state
        return [f"job {job.id}: {job.state.value}"]


def progress_line(progress: Progress, kind: JobKind) -> str:
    """Format the progress of a job of this kind as one line."""
    done = {JobKind.VERIFY: "checked", JobKind.MIGRATE: "copied"}.get(kind, "read")
    words = [
        share_text(progress.stored_share, 1),
        f"{size_text(progress.bytes_done)} of {size_text(progress.bytes_total)} {done}",
        *speed_words(progress, kind),
    ]
    if progress.bottleneck:
        words.append(f"limited by {progress.bottleneck}")
    return ", ".join(words)


def speed_words(progress: Progress, kind: JobKind) -> list[str]:
    """Format rate, time left, and parts or blocks."""
    words = [rate_text(progress.rate)]
    if progress.eta_s is not None:
        words.append(f"{duration_text(progress.eta_s)} left")
    match kind:
        case JobKind.BUNDLE:
            words.append(f"parts {progress.parts_stored} stored of {progress.parts_made} made")
        case JobKind.CONVERT:
            words.append(f"blocks {progress.blocks_stored} stored of {progress.blocks_made} read")
        case JobKind.VERIFY:
            words.append(f"parts {progress.parts_stored} checked of {progress.parts_made}")
        case JobKind.MIGRATE:
            words.append(f"parts {progress.parts_stored} copied of {progress.parts_made}")
    return words
