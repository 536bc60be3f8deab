"""Knows the daemon's jobs while a page is open, and gives each page the changes.

The daemon has a stream of events for one job, and a list of all. Jobs that run are followed; the list is asked for when
the numbers of running and waiting jobs change, when a job has ended, and a few times a minute, since it is long. Pages
get the newest state of what has changed, a few times a second at most, so a slow one misses steps and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from amistream.cli.client import Client
from amistream.errors import AmistreamError, BusyError, DaemonUnreachableError
from amistream.events import State
from amistream.flow.gather import task_group
from amistream.web.rows import Row, is_active, row_of

LOOK_EVERY_S = 2.0
LIST_EVERY_S = 15.0
"""Time after which the list is asked for although nothing hints at a change: a job may begin and end between looks."""
PACE_S = 0.4
"""Pause between two messages to a page."""
LINGER_S = 60.0
"""Time for which the jobs are followed without a page, so that one that is loaded again has its charts at once."""
MOST_FOLLOWED = 16
"""Jobs that are followed at a time; more are looked at like those that wait. Guess: the daemon lets 64 clients
follow jobs.
"""
MOST_READERS = 16
RATE_EVERY_S = 1.0
RATES_KEPT = 600


@dataclass(eq=False)
class _Reader:
    """One open page: the changes that it has not got yet."""

    everything: bool = True
    changed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Feed:
    """`run` looks at the daemon; `read` gives a page its messages."""

    def __init__(self, socket: Path, *, look_every_s: float = LOOK_EVERY_S, pace_s: float = PACE_S) -> None:
        self._socket = socket
        self._look_every_s, self._pace_s = look_every_s, pace_s
        self._readers: set[_Reader] = set()
        self._reader_came, self._look_now = asyncio.Event(), asyncio.Event()
        self._forget()

    def _forget(self) -> None:
        self._jobs: dict[str, Row] = {}
        self._rates: dict[str, deque[tuple[float, float]]] = {}
        self._health: Mapping[str, Any] | None = None
        self._trouble: Mapping[str, str] | None = None
        self._followed: set[str] = set()
        self._listed_at: float | None = None
        self._list_is_old = True

    @property
    def readers(self) -> int:
        return len(self._readers)

    def look(self) -> None:
        """Look at the daemon now."""
        self._list_is_old = True
        self._look_now.set()

    async def read(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield messages for a page: one with all jobs, then those that changed. Raises `BusyError`."""
        if self.readers >= MOST_READERS:
            raise BusyError("web.pages", f"cannot show the page: {self.readers} are open already", hint="close one")
        reader = _Reader()
        self._readers.add(reader)
        self._reader_came.set()
        if self._trouble is not None or self._listed_at is not None:
            reader.wake.set()
        try:
            while True:
                await reader.wake.wait()
                reader.wake.clear()
                yield self._message(reader)
                await asyncio.sleep(self._pace_s)
        finally:
            self._readers.discard(reader)

    async def run(self) -> None:
        """Look at the daemon while pages are open, and for a while after that."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._reader_came.wait()
            self._reader_came.clear()
            async with Client(self._socket, retry_delays_s=()) as client, task_group() as group:
                following: set[asyncio.Task[None]] = set()
                left_at = clock()
                while self._readers or clock() - left_at < LINGER_S:
                    left_at = clock() if self._readers else left_at
                    for job_id in await self._look(client):
                        task = group.create_task(self._follow(client, job_id), name=f"follow {job_id}")
                        following.add(task)
                        task.add_done_callback(following.discard)
                    await self._wait_for_next_look()
                for task in following:
                    task.cancel()
            self._forget()

    async def _wait_for_next_look(self) -> None:
        try:
            async with asyncio.timeout(self._look_every_s):
                await self._look_now.wait()
        except TimeoutError:
            pass
        self._look_now.clear()

    async def _look(self, client: Client) -> list[str]:
        """Ask for the daemon's health, and for the list if it may have changed. Return the jobs to be followed."""
        now = asyncio.get_running_loop().time()
        try:
            health = from_json(await client.document("/v1/health"))
            same = self._health is not None and all(
                self._health.get(name) == health.get(name) for name in ("jobs_running", "jobs_queued", "version")
            )
            if self._list_is_old or not same or self._listed_at is None or now - self._listed_at >= LIST_EVERY_S:
                self._list_is_old = False
                self._take_list(from_json(await client.document("/v1/jobs"))["jobs"])
                self._listed_at = now
            self._health, self._trouble = health, None
        except AmistreamError as error:
            self._trouble, self._list_is_old = error.as_dict(), True
            return self._tell_all()
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._trouble = DaemonUnreachableError(
                "daemon.not_understood",
                f"cannot understand the daemon's answer: {error}",
                hint="is it of this version?",
            ).as_dict()
            return self._tell_all()
        running = [id_ for id_, job in self._jobs.items() if is_active(job) and job.get("state") != State.QUEUED]
        wanted = [id_ for id_ in running if id_ not in self._followed]
        free = MOST_FOLLOWED - len(self._followed)
        # Those that cannot be followed are looked at instead.
        self._list_is_old |= len(wanted) > free
        self._followed.update(wanted[:free])
        self._tell_all()
        return wanted[:free]

    def _tell_all(self) -> list[str]:
        for reader in self._readers:
            reader.wake.set()
        return []

    async def _follow(self, client: Client, job_id: str) -> None:
        try:
            async for event in client.events(job_id):
                job = event.job.model_dump(mode="json")
                if not self._is_past(event.type, job):
                    self._take(job)
            self.look()
        except AmistreamError:
            # The next look shows why, or the job is looked at instead.
            self._list_is_old = True
        finally:
            self._followed.discard(job_id)

    def _take_list(self, jobs: list[Row]) -> None:
        gone = self._jobs.keys() - {job["id"] for job in jobs}
        for job_id in gone:
            del self._jobs[job_id]
            self._rates.pop(job_id, None)
        for job in jobs:
            # An event may be newer than the list.
            if job["id"] not in self._followed:
                self._take(job)
        for reader in self._readers:
            reader.gone |= gone
            reader.changed -= gone

    def _take(self, job: Row) -> None:
        job_id, row = job["id"], row_of(job)
        if self._jobs.get(job_id) == row:
            return
        self._jobs[job_id] = row
        self._take_rate(job)
        for reader in self._readers:
            reader.changed.add(job_id)
            reader.wake.set()

    def _is_past(self, event_type: str, job: Row) -> bool:
        """A stream begins with the states and notices of the past: older than what the list or a progress has shown."""
        known = self._jobs.get(job["id"])
        if event_type == "progress" or known is None or not (is_active(known) and is_active(job)):
            return False
        if job["started_at"] is None:
            return known["started_at"] is not None
        seen_s, told_s = ((each.get("progress") or {}).get("elapsed_s", -1.0) for each in (known, job))
        return bool(told_s < seen_s)

    def _take_rate(self, job: Row) -> None:
        progress = job.get("progress")
        if not is_active(job) or not progress:
            self._rates.pop(job["id"], None)
            return
        rates = self._rates.setdefault(job["id"], deque(maxlen=RATES_KEPT))
        elapsed_s = float(progress["elapsed_s"])
        if rates and elapsed_s < rates[-1][0]:  # another run of the job
            rates.clear()
        if not rates or elapsed_s - rates[-1][0] >= RATE_EVERY_S:
            rates.append((elapsed_s, float(progress["rate"])))

    def _message(self, reader: _Reader) -> dict[str, Any]:
        message: dict[str, Any] = {"daemon": self._health, "trouble": self._trouble}
        if reader.everything and self._listed_at is not None:
            message |= {
                "everything": True,
                "jobs": list(self._jobs.values()),
                "rates": {job_id: list(rates) for job_id, rates in self._rates.items()},
            }
            reader.everything = False
        elif not reader.everything:
            message |= {"jobs": [self._jobs[id_] for id_ in reader.changed if id_ in self._jobs]}
            message |= {"gone": list(reader.gone)}
        reader.changed, reader.gone = set(), set()
        return message
