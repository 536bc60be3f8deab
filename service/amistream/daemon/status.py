"""The daemon's line in `systemctl status`: what runs, how far it is, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from amistream.daemon.notify import notify
from amistream.flow.gather import task_group
from amistream.jobs.job import Job
from amistream.states import State
from amistream.units import share_text

if TYPE_CHECKING:
    from amistream.fleet.intake import Intake
    from amistream.jobs.queue import JobQueue

PERIOD_S = 5.0
"""Seconds between two looks at the jobs; a line that has not changed is not sent. Guess."""
_MOST_NAMES = 4
_LONGEST_NAME = 40


class Status:
    """Sends the line when it is another than before. `about` is its beginning."""

    def __init__(self, about: str, queue: JobQueue) -> None:
        self.intake: Intake | None = None
        self._about = about
        self._queue = queue
        self._sent = ""
        self._is_stopping = False

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Keep the line true while the block runs."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(PERIOD_S)
                self.send()

        async with task_group() as group:
            keeping = group.create_task(keep(), name="status")
            try:
                yield
            finally:
                keeping.cancel()

    def stop(self) -> None:
        """Show from now on that the daemon waits for its jobs to end."""
        self._is_stopping = True
        self.send("STOPPING=1")

    def send(self, *also: str) -> None:
        """Send the line if it has changed, or anything else is to be sent with it."""
        # A line break would begin another assignment.
        text = " ".join(self._text().split())
        if also or text != self._sent:
            self._sent = text
            notify(*also, f"STATUS={text}")

    def _text(self) -> str:
        about = "waiting for the jobs to end" if self._is_stopping else self._about
        return "; ".join([about, *jobs_text(self._queue.jobs()), *self._queue_text()])

    def _queue_text(self) -> list[str]:
        if self.intake is None:
            return []
        health = self.intake.health()
        jobs = f"{health.jobs} {'job' if health.jobs == 1 else 'jobs'} of the queue"
        drained = ", no more are taken" * (health.status == "stopping")
        return [f"{jobs}{drained}", *(error.message for error in health.errors)]


def jobs_text(jobs: Sequence[Job]) -> list[str]:
    """The running and the waiting jobs, such as `2 running: web-1 43 %, web-2 checking` and `1 queued`."""
    active = [job for job in jobs if not job.state.ended]
    running = [job for job in active if job.state is not State.QUEUED]
    names = [f"{_name(job)} {_how_far(job)}" for job in running[:_MOST_NAMES]] + ["..."] * (len(running) > _MOST_NAMES)
    queued = len(active) - len(running)
    return [f"{len(running)} running: {', '.join(names)}"] * bool(running) + [f"{queued} queued"] * bool(queued)


def _how_far(job: Job) -> str:
    return job.state.value if job.progress is None else share_text(job.progress.stored_share, 1)


def _name(job: Job) -> str:
    """The word by which a person knows the job: its label or name, or the end of its destination or source."""
    request = job.request
    place = (*request.destinations, request.source)[0].rstrip("/")
    return (request.label or job.name or getattr(request, "ami_name", None) or place.rpartition("/")[2])[:_LONGEST_NAME]
