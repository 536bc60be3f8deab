"""A daemon that does what a test says: the socket API in front of real `Job` records, and nothing behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from amistream.errors import AmistreamError
from amistream.events import BundleResult, Progress, StageProgress, State
from amistream.jobs.job import End, Job
from amistream.request import parse_request
from amistream.states import ids_like
from amistream.values import MIB

STAGES = (
    StageProgress(name="read", bytes_in=300 * MIB, bytes_out=300 * MIB, busy_s=0.5, waiting_s=0.0),
    StageProgress(name="compress", bytes_in=300 * MIB, bytes_out=100 * MIB, busy_s=3.0, waiting_s=1.0, busy_share=0.75),
    StageProgress(name="upload", bytes_in=100 * MIB, bytes_out=100 * MIB, busy_s=1.0, waiting_s=0.25),
)
PROGRESS = Progress(
    bytes_total=400 * MIB,
    bytes_done=320 * MIB,
    stored_share=0.75,
    parts_made=10,
    parts_stored=9,
    bytes_stored=90 * MIB,
    elapsed_s=2.0,
    rate=150e6,
    eta_s=0.7,
    bottleneck="compress",
    stages=STAGES,
)
RESULT = BundleResult(
    manifest="s3://bucket/web/image.manifest.xml",
    image_id="ami-0123456789abcdef0",
    image_name="web-1",
    region="eu-west-1",
    image_size=400 * MIB,
    bundled_size=120 * MIB,
    parts=12,
    digest="ab" * 20,
    elapsed_s=2.5,
    cpu_s=4.5,
    stages=STAGES,
)


def make_job() -> Job:
    return Job(parse_request({"source": "/dev/xvda", "destinations": ["s3://bucket/web"]}))


def begin(job: Job) -> None:
    job.move(State.CHECKING)
    job.move(State.BUNDLING)
    job.report(PROGRESS)


def finish(job: Job) -> None:
    """Go from bundling to the good end."""
    job.move(State.COMMITTING)
    job.move(State.REGISTERING)
    job.end(End(State.DONE, result=RESULT))


def succeed(job: Job) -> None:
    begin(job)
    finish(job)


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedDaemon:
    """Its answers can be changed before and while the command runs; `seen` holds the requests."""

    socket: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    on_submit: Callable[[Job], None] = succeed
    on_cancel: Callable[[Job], None] = lambda job: job.move(State.CANCELLED)
    refuse: AmistreamError | None = None
    lost_replies: int = 0
    """So many requests are carried out, but their connection breaks before the reply."""
    dropped_streams: int = 0
    """So many event streams break, in the middle of their second event."""
    forget_after_drop: bool = False
    health: bytes = b""
    findings: bytes | None = None
    """The answer of `doctor`; None: it is a daemon that has no such endpoint."""
    garbage: bytes | None = None
    garbage_status: int = 200
    submitted: dict[str, str] = field(default_factory=dict)
    following: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once somebody follows a job."""

    def add(self) -> Job:
        job = make_job()
        self.jobs[job.id] = job
        return job

    def requests(self, method: str) -> list[Seen]:
        return [each for each in self.seen if each.method == method]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[ScriptedDaemon]:
        app = web.Application(middlewares=[self._answer])
        app.router.add_get("/v1/health", self._health)
        app.router.add_post("/v1/doctor", self._doctor)
        app.router.add_post("/v1/jobs", self._submit)
        app.router.add_get("/v1/jobs", self._list)
        app.router.add_get("/v1/jobs/{id}", self._show)
        app.router.add_delete("/v1/jobs/{id}", self._cancel)
        app.router.add_post("/v1/jobs/{id}/resume", self._resume)
        app.router.add_get("/v1/jobs/{id}/events", self._events)
        # Streams that a test left open are cut at once; a timeout of 0 would mean to wait for them.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        await web.UnixSite(runner, self.socket).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        body = await request.text()
        self.seen.append(
            Seen(request.method, request.path_qs, dict(request.headers), json.loads(body) if body else None)
        )
        if self.refuse is not None:
            return web.json_response({"error": self.refuse.as_dict()}, status=self.refuse.http_status)
        if self.garbage is not None:
            return web.Response(body=self.garbage, status=self.garbage_status)
        response: web.StreamResponse = await handler(request)
        if self.lost_replies:
            self.lost_replies -= 1
            _break(request)
        return response

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self.health)

    async def _doctor(self, _: web.Request) -> web.StreamResponse:
        if self.findings is None:
            return _unknown("request.unknown_path")
        return web.Response(body=self.findings)

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        key = request.headers["Idempotency-Key"]
        if key not in self.submitted:
            job = Job(parse_request(await request.json()))
            self.jobs[job.id] = job
            self.submitted[key] = job.id
            self.on_submit(job)
        return _view(self.jobs[self.submitted[key]], 202)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        wanted, limit = request.query.getall("state", []), int(request.query.get("limit", "1000"))
        jobs = [job.view().model_dump(mode="json") for job in self.jobs.values() if not wanted or job.state in wanted]
        return web.json_response({"jobs": jobs[-limit:]})

    async def _show(self, request: web.Request) -> web.StreamResponse:
        found = ids_like(request.match_info["id"], self.jobs)
        return _view(self.jobs[found[0]], 200) if len(found) == 1 else _unknown("job.unknown")

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs[request.match_info["id"]]
        self.on_cancel(job)
        return _view(job, 202)

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        return _view(self.jobs[request.match_info["id"]], 202)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return _unknown("job.unknown")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.following.set()
        sent = 0
        async for event in job.events(int(request.headers.get("Last-Event-ID", "0"))):
            frame = f": here\nid: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
            sent += 1
            if self.dropped_streams and sent == 2:
                self.dropped_streams -= 1
                if self.forget_after_drop:
                    self.jobs.clear()
                await response.write(frame[: len(frame) // 2])
                _break(request)
                await asyncio.Event().wait()
            await response.write(frame)
        return response


def _unknown(code: str) -> web.Response:
    error = {"code": code, "message": "cannot find it", "hint": "", "field": ""}
    return web.json_response({"error": error}, status=404)


def _view(job: Job, status: int) -> web.Response:
    return web.Response(status=status, text=job.view().model_dump_json(), content_type="application/json")


def _break(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.close()
