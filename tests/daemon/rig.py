"""The real daemon application on a real Unix socket, in front of scripted jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web
from yarl import URL

from amistream.checks.findings import Finding
from amistream.daemon.access import AccessPolicy
from amistream.daemon.app import make_app, serving
from amistream.daemon.handlers import Examine
from amistream.daemon.listener import listening
from amistream.daemon.metrics import Metrics
from amistream.events import Progress, State
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.request import CheckRequest
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import OnStop
from jobs.queueing import RESULT

PATIENCE_S = 120.0


@dataclass
class Script:
    """Replaces the engine: a job begins, then waits until the test ends it."""

    begun: asyncio.Queue[Job] = field(default_factory=asyncio.Queue)
    may_end: dict[str, asyncio.Event] = field(default_factory=dict)

    async def run(self, job: Job) -> None:
        leave = self.may_end[job.id] = asyncio.Event()
        job.move(State.CHECKING)
        self.begun.put_nowait(job)
        try:
            await leave.wait()
        except asyncio.CancelledError:
            if job.interrupt_requested:
                job.end(End(State.INTERRUPTED, resumable=True))
            else:
                job.move(State.CANCELLED)
            raise
        if job.state.ended:  # the test has ended the job itself
            return
        job.move(State.BUNDLING)
        job.move(State.COMMITTING)
        job.end(End(State.DONE, result=RESULT))

    async def clean(self, job: Job) -> None:
        """Remove nothing: scripted jobs store nothing."""
        job.move(State.CANCELLED)

    async def wait_begun(self) -> Job:
        async with asyncio.timeout(PATIENCE_S):
            return await self.begun.get()

    async def end(self, job: Job) -> None:
        self.may_end[job.id].set()
        async with asyncio.timeout(PATIENCE_S):
            await job.ended.wait()


@dataclass
class Answer:
    """A complete response."""

    status: int
    headers: Any
    body: Any

    @property
    def error(self) -> dict[str, str]:
        """Check the shape of the error object and return it."""
        assert set(self.body) == {"error"}
        assert set(self.body["error"]) == {"code", "message", "hint", "field", "request_id"}
        error: dict[str, str] = self.body["error"]
        return error


@dataclass
class Daemon:
    """A running application and a client on its socket."""

    path: Path
    queue: JobQueue
    script: Script
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request; `path` is sent as written."""
        async with self.session.request(method, URL(f"http://localhost{path}", encoded=True), **options) as response:
            text = await response.text()
            body = json.loads(text) if response.content_type == "application/json" else text
            return Answer(response.status, response.headers, body)

    async def submit(self, name: str = "a", **options: Any) -> Answer:
        return await self.ask("POST", "/v1/jobs", json=request_for(name), **options)

    async def submit_and_begin(self, name: str = "a") -> Job:
        """Submit a job and wait until it runs."""
        answer = await self.submit(name)
        assert answer.status == 202
        job = await self.script.wait_begun()
        assert job.id == answer.body["id"]
        return job


StartDaemon: TypeAlias = Callable[..., AbstractAsyncContextManager[Daemon]]


async def find_nothing(request: CheckRequest | ConvertCheckRequest, roots: Roots | None) -> list[Finding]:
    """Check nothing."""
    del request, roots
    return []


def request_for(name: str) -> dict[str, Any]:
    return {"source": f"/volumes/{name}", "destinations": [f"/bundles/{name}"]}


def progress(done: int) -> Progress:
    return Progress(
        bytes_total=1000,
        bytes_done=done,
        stored_share=done / 1000,
        parts_made=1,
        parts_stored=1,
        bytes_stored=done // 2,
        elapsed_s=1.0,
        rate=float(done),
        eta_s=None,
        bottleneck=None,
        stages=(),
    )


@asynccontextmanager
async def running_app(
    directory: Path,
    *,
    path: Path | None = None,
    max_jobs: int = 2,
    max_queued: int = 10,
    policy: AccessPolicy | None = None,
    extra: Callable[[web.Application], object] = lambda _: None,
    doors: dict[str, Any] | None = None,
    examine: Examine = find_nothing,
    **limits: Any,
) -> AsyncIterator[Daemon]:
    """Run the application, with its journal in `directory`, until the block ends."""
    path = path or directory / "amistream.sock"
    script, metrics = Script(), Metrics()
    with listening(path, None) as listener:
        async with (
            Journal(directory / "state", by_itself=True) as journal,
            JobQueue(
                metrics.watched(script.run),
                script.clean,
                journal,
                max_jobs=max_jobs,
                max_queued=max_queued,
                default_prefix="image",
            ) as queue,
        ):
            app = make_app(queue, metrics, policy or AccessPolicy(), examine, **limits)
            extra(app)
            session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))
            async with serving(app, listener, **(doors or {})), session:
                try:
                    yield Daemon(path, queue, script, session)
                finally:
                    await queue.drain(OnStop.CANCEL)
