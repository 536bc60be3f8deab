"""A queue whose jobs wait for the test to end them, for the tests of `jobs.queue`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amistream.events import BundleResult, JobView, State
from amistream.flow.cancel import finish_despite_cancel
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import NextStep
from amistream.request import BundleRequest, parse_bundle_request
from amistream.settings import OnStop

PATIENCE_S = 120.0
RESULT = BundleResult(
    manifest="/bundles/a/image.manifest.xml",
    image_id=None,
    image_name=None,
    region=None,
    image_size=1000,
    bundled_size=400,
    parts=1,
    digest="00" * 20,
    elapsed_s=1.0,
    cpu_s=1.0,
    stages=(),
)


def request(name: str, **changes: Any) -> BundleRequest:
    return parse_bundle_request({"source": f"/volumes/{name}", "destinations": [f"/bundles/{name}"], **changes})


@dataclass
class Hands:
    """Stand in for the engine and write the journal as it does; a job waits until the test ends it."""

    journal: Journal
    begun: asyncio.Queue[tuple[str, Job]] = field(default_factory=asyncio.Queue)
    calls: list[tuple[str, str]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    orders: dict[str, asyncio.Future[State]] = field(default_factory=dict)
    leaving: bool = False
    """The test is over: removals end by themselves."""
    keeps: bool = False
    """Jobs have made something when they end and are kept."""

    async def run(self, job: Job) -> None:
        job.move(State.CHECKING)
        await self._work("run", job)

    async def clean(self, job: Job) -> None:
        await self._work("clean", job)

    async def _work(self, what: str, job: Job) -> None:
        assert job.id not in self.running, "two runs of one job at a time"
        self.running.add(job.id)
        self.calls.append((what, job.id))
        self.orders[job.id] = asyncio.get_running_loop().create_future()
        self.begun.put_nowait((what, job))
        if self.leaving and what == "clean":
            self.orders[job.id].set_result(State.CANCELLED)
        try:
            state = await self.orders[job.id]
        except asyncio.CancelledError:
            await finish_despite_cancel(
                self._end(job, State.INTERRUPTED if job.interrupt_requested else State.CANCELLED)
            )
            raise
        else:
            await self._end(job, state)
        finally:
            self.running.discard(job.id)

    async def _end(self, job: Job, state: State) -> None:
        job.resumable = state in {State.FAILED, State.INTERRUPTED}
        view = job.view().model_copy(update={"state": state})
        await (self.journal.update(view) if job.resumable else self.journal.end(view))
        if job.resumable and self.keeps:
            await self.journal.set_next_step(job.id, NextStep.KEPT)
        if state is State.DONE:
            job.move(State.BUNDLING)
            job.move(State.COMMITTING)
        job.move(state)

    async def wait_begun(self) -> tuple[str, Job]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.begun.get()

    async def end(self, job: Job, state: State = State.DONE) -> None:
        """Let a job that began end so: FAILED keeps what it stored."""
        self.orders[job.id].set_result(state)
        await ended(job)


@dataclass
class Scene:
    """A queue over a journal, and the stand-in for its engine."""

    queue: JobQueue
    hands: Hands
    journal: Journal

    async def submit(self, name: str = "a", **options: Any) -> Job:
        return (await self.queue.submit(request(name), **options))[0]

    async def begin(self, name: str = "a") -> Job:
        """Submit a job and wait until it runs."""
        job = await self.submit(name)
        assert await self.hands.wait_begun() == ("run", job)
        return job

    async def keep(self, name: str = "a") -> Job:
        """A job that failed and kept what it stored."""
        job = await self.begin(name)
        await self.hands.end(job, State.FAILED)
        return job

    async def next_step(self, job: Job) -> NextStep:
        entry = await self.journal.find(job.id)
        assert entry is not None
        return entry.next_step


async def ended(job: Job) -> State:
    async with asyncio.timeout(PATIENCE_S):
        await job.ended.wait()
    return job.state


@asynccontextmanager
async def running(
    state_dir: Path,
    *,
    max_jobs: int = 2,
    max_queued: int = 10,
    make_journal: Callable[..., Journal] = Journal,
    drain: OnStop | None = OnStop.CANCEL,
) -> AsyncIterator[Scene]:
    """A queue as the daemon has it; at the end it is drained, unless the test has done so."""
    async with make_journal(state_dir, by_itself=True) as journal:
        hands = Hands(journal)
        try:
            async with JobQueue(
                hands.run, hands.clean, journal, max_jobs=max_jobs, max_queued=max_queued, default_prefix="image"
            ) as queue:
                yield Scene(queue, hands, journal)
                hands.leaving = True
                if drain is not None:
                    await queue.drain(drain)
        finally:
            assert not hands.running


async def left_behind(state_dir: Path, next_step: NextStep, *, by_itself: bool = True, **view: Any) -> JobView:
    """Enter a job in the state in which a dead process left it."""
    async with Journal(state_dir, by_itself=by_itself) as journal:
        asked = request("a")
        made = Job(asked).view().model_copy(update=view)
        await journal.add(made, asked, confined=False, idempotency_key="")
        await journal.set_next_step(made.id, next_step)
        if next_step is NextStep.OVER:
            await journal.end(made)
    return made
