"""Tells the log about a run of a job: its start, each state, each notice, and its progress once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from amistream.events import Event, Progress, State

EVERY_S = 60.0
"""Time between two lines about the progress."""

log = structlog.get_logger()


class Narrator:
    """Called with each event of one run; lines are about the job that is bound in the context."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_at = clock() + EVERY_S

    def __call__(self, event: Event) -> None:
        job = event.job
        match event.type:
            case "state" if job.state is State.CHECKING:
                log.info("job.started", kind=job.kind.value, source=job.source)
            case "state" if not job.state.ended:
                log.info("job.state", state=job.state.value)
            case "notice":
                log.info("job.notice", notice=job.notices[-1])
            case "progress" if job.progress is not None and self._clock() >= self._next_at:
                self._next_at = self._clock() + EVERY_S
                log.info("job.progress", **_in_short(job.progress))


def _in_short(progress: Progress) -> dict[str, Any]:
    return {
        "share": round(progress.stored_share, 3),
        "bytes_total": progress.bytes_total,
        "bytes_stored": progress.bytes_stored,
        "rate": round(progress.rate),
        "eta_s": None if progress.eta_s is None else round(progress.eta_s),
        "limited_by": progress.bottleneck,
    }
