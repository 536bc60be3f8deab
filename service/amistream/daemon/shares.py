"""Limits on what the socket's group can take: a share of every bounded resource is kept for privileged peers.

Privileged are root and the daemon's own user; the jobs of all other peers are confined. The share of connections is in
`connections`, the limits of a single job in `jobs.confinement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from amistream.daemon.access import Peer
from amistream.errors import BusyError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue

MAX_SUBSCRIBERS = 64
"""Guess: each takes a connection and a little memory, and does not slow the jobs down."""
SHARE = 0.75
"""Part of a bounded resource that all unprivileged peers together can take. Guess."""


class Subscribers:
    """Counts the clients that follow jobs, and refuses more than `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    @contextmanager
    def subscription(self, peer: Peer) -> Iterator[None]:
        if self._count >= _share(self._most, peer):
            raise BusyError(
                "daemon.subscribers",
                f"cannot follow the job: {self._count} clients follow jobs already",
                hint="poll GET /v1/jobs/{id} instead, or try again later",
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


def check_queue_share(queue: JobQueue, max_queued: int, peer: Peer, *, except_job: Job | None = None) -> None:
    """Raise `BusyError` if the group has its share of waiting jobs, or of unfinished jobs that are kept."""
    most = _share(max_queued, peer)
    waiting = sum(job.confined for job in queue.jobs(State.QUEUED))
    if waiting >= most:
        raise BusyError(
            "daemon.full", f"cannot take the job: {waiting} jobs of the group wait already", hint="try again later"
        )
    kept = sum(job.confined and job.resumable and job is not except_job for job in queue.jobs())
    if kept >= most:
        raise BusyError(
            "daemon.full",
            f"cannot take the job: the group has {kept} unfinished jobs whose parts are kept",
            hint="finish them with `amistream resume ID`, or remove their parts with `amistream clean`",
        )


def _share(most: int, peer: Peer) -> int:
    return most if peer.privileged else max(1, int(most * SHARE))
