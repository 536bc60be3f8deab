"""An intake over a queue in memory, whose jobs wait for the test to end them, and a sink for results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from amistream.aws.sqs import RedrivePolicy
from amistream.errors import StoreError
from amistream.events import State
from amistream.fleet.intake import Intake
from amistream.fleet.lease import Terms
from amistream.jobs.deliveries import Notice
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.settings import OnStop, Settings
from fleet.memory_queue import MemoryQueue, put_forward
from jobs.queueing import Hands, ended

URL = "http://127.0.0.1:1/123456789012/jobs"
TURNS = 8


@dataclass
class Sink:
    """Takes results, unless it is to fail. Those of the jobs in `refused` are refused for good."""

    fault: StoreError | None = None
    requests: int = 0
    refused: set[str] = field(default_factory=set)
    sent: list[dict[str, Any]] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)

    async def send(self, notices: Sequence[Notice]) -> dict[str, StoreError]:
        self.requests += 1
        if self.fault is not None:
            return {each.notice_id: self.fault for each in notices}
        failed = {}
        for each in notices:
            if json.loads(each.document)["job"] in self.refused:
                failed[each.notice_id] = StoreError("aws.InvalidMessageContents", "cannot send it: a letter is refused")
                continue
            self.documents.append(each.document)
            self.sent.append({**json.loads(each.document), "sent_as": (each.notice_id, each.outcome)})
        return failed


@dataclass
class Rig:
    """A running intake. Its clock is that of the event loop."""

    intake: Intake
    queue: MemoryQueue
    dead: MemoryQueue
    jobs: JobQueue
    hands: Hands
    journal: Journal
    sink: Sink
    running: asyncio.Task[None]
    hurry: asyncio.Event

    def send(self, job: str = "web", **changes: Any) -> str:
        """Send a message of a bundle; returns its id. `changes` are fields of the message."""
        return self.queue.put(message(job, **changes))

    async def begun(self) -> Job:
        """Wait for a job to run."""
        _, job = await self.hands.wait_begun()
        return job

    async def begin(self, job: str = "web", **changes: Any) -> Job:
        self.send(job, **changes)
        return await self.begun()

    async def settle(self) -> None:
        """Wait until no message is held here, or the end of each is recorded."""
        await self.queue.wait_until(lambda: not self.intake.messages)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass second by second; the journal's thread gets its turn in each."""
        for _ in range(round(seconds)):
            put_forward(1)
            await self.turn()
            await self.journal.deliveries.count_unsent()
            await self.turn()

    async def turn(self, times: int = TURNS) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Stop as the daemon does after a second signal, and wait for the end."""
        self.intake.stop()
        self.hurry.set()
        await self.jobs.drain(OnStop.INTERRUPT)
        await self.running

    @property
    def results(self) -> list[dict[str, Any]]:
        return self.sink.sent


def message(job: str = "web", **changes: Any) -> str:
    """The body of a message."""
    request = {"source": f"/volumes/{job}", "destinations": [f"/bundles/{job}"]}
    return json.dumps({"v": 1, "job": job, "kind": "bundle", "request": request, **changes})


@asynccontextmanager
async def running(
    state_dir: Path,
    queue: MemoryQueue | None = None,
    *,
    max_jobs: int = 2,
    queue_jobs: int = 2,
    most_receives: int | None = None,
    results: bool = True,
    kill: bool = False,
    terms: Terms | None = None,
    gather_s: float = 0.0,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """An intake for the length of a test. With `kill` it ends as a killed process does: without a word to anybody."""
    queue, dead, sink = queue or MemoryQueue(), MemoryQueue(), Sink()
    queue.policy = RedrivePolicy(cast("Any", dead), most_receives)
    given: dict[str, Any] = {"queue_sources": ("/volumes",), "queue_destinations": ("/bundles",)}
    chosen = Settings(
        state_dir=state_dir,
        queue_url=URL,
        queue_jobs=queue_jobs,
        source_roots=(Path("/volumes"),),
        **{**given, **settings},
    )

    hurry = asyncio.Event()

    async def outlet() -> Sink:
        return sink

    async with Journal(state_dir, by_itself=True) as journal:
        hands = Hands(journal, keeps=True)
        async with JobQueue(
            hands.run, hands.clean, journal, max_jobs=max_jobs, max_queued=10, default_prefix="image"
        ) as jobs:
            await jobs.recover(resume=True)
            intake = Intake(
                chosen,
                jobs,
                queue,
                holder="host-a/1",
                open_outlet=outlet if results else None,
                hurry=hurry,
                terms=terms or Terms(visibility_s=300),
                gather_s=gather_s,
                now=asyncio.get_running_loop().time,
            )
            task = asyncio.create_task(intake.run())
            rig = Rig(intake, queue, dead, jobs, hands, journal, sink, task, hurry)
            try:
                yield rig
            finally:
                hands.leaving = True
                if kill:
                    task.cancel()
                    await asyncio.wait({task})
                    await jobs.drain(OnStop.INTERRUPT)
                elif not task.done():
                    await rig.end()
    if not kill:
        await task


async def has_ended(job: Job) -> State:
    return await ended(job)
