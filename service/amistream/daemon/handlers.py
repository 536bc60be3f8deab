"""What each endpoint does: translate a request to a call on the job queue, and its answer to HTTP.

Handlers raise `AmistreamError`; `app` turns it into the error body. Which path leads where is `routes`'s to say.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from amistream import __version__
from amistream.daemon.access import Peer
from amistream.daemon.metrics import Metrics
from amistream.errors import AccessDeniedError, AmistreamError, BusyError, ConflictError, UsageError
from amistream.events import ErrorBody, Event, State
from amistream.jobs.confinement import check_request
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.request import parse_request
from amistream.settings import Settings
from amistream.values import STANDARD_INPUT

MAX_SUBSCRIBERS = 64
"""Guess: each holds a connection and a little memory; the jobs themselves do not feel them."""
SHARE = 0.75
"""How much of what is bounded other peers than root and the daemon's own user can take together. Guess."""
BODY_TIMEOUT_S = 10.0
"""How long a body of 64 KiB may take to come from this very machine. Guess."""
KEEP_ALIVE_S = 15.0
"""Half of the 30 s after which common proxies and clients take a silent stream for dead."""
IDEMPOTENCY_KEY = "[!-~]{1,255}"
EVENT_ID = "[0-9]{1,15}"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Health(_Model):
    """Whether the daemon takes jobs, and how busy it is."""

    status: Literal["ok", "stopping"] = Field(description="stopping: running jobs go on, new ones are refused")
    version: str
    jobs_running: int
    jobs_queued: int
    uptime_s: float


class ErrorResponse(_Model):
    """The body of every answer that is an error."""

    error: ErrorBody


class MalformedError(UsageError):
    """The body is not JSON at all. Caller's fault."""

    http_status = HTTPStatus.BAD_REQUEST


class SlowBodyError(UsageError):
    """The body did not come. Caller's fault."""

    http_status = HTTPStatus.REQUEST_TIMEOUT


@dataclass(kw_only=True)
class Context:
    """What the handlers share. `document` is the OpenAPI document, ready to send."""

    queue: JobQueue
    metrics: Metrics
    settings: Settings
    document: bytes
    max_subscribers: int = MAX_SUBSCRIBERS
    keep_alive_s: float = KEEP_ALIVE_S
    body_timeout_s: float = BODY_TIMEOUT_S
    subscribers: int = 0
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def subscription(self, peer: Peer) -> Iterator[None]:
        if self.subscribers >= _share(self.max_subscribers, peer):
            raise BusyError(
                "daemon.subscribers",
                f"cannot follow the job: {self.subscribers} clients follow jobs already",
                hint="ask GET /v1/jobs/{id} from time to time, or try again later",
            )
        self.subscribers += 1
        try:
            yield
        finally:
            self.subscribers -= 1


CONTEXT = web.AppKey("context", Context)
PEER = web.RequestKey("peer", Peer)
"""Who asks; there once the guard in `app` has let the request pass."""


def error_response(error: AmistreamError, status: HTTPStatus | None = None) -> web.Response:
    body = ErrorResponse(error=ErrorBody(**error.as_dict()))
    return _answer(body, status or error.http_status)


async def submit_job(request: web.Request) -> web.StreamResponse:
    context, peer = request.app[CONTEXT], request[PEER]
    key = _header(request, "Idempotency-Key", IDEMPOTENCY_KEY, "1 to 255 visible ASCII characters")
    asked = parse_request(await _object(request))
    if asked.source == STANDARD_INPUT:
        raise UsageError(
            "source.stream",
            "cannot bundle standard input: the daemon has none of yours",
            hint="use `amistream bundle - --in-process`",
            field="source",
        )
    if not peer.privileged:
        check_request(asked, context.settings)
        _check_share(context, peer)
        # Another's key must not give away, or take, that one's job. No key of a client's has a space.
        key = key and f"{peer.uid} {key}"
    job, new = await context.queue.submit(asked, idempotency_key=key, confined=not peer.privileged)
    place = request.app.router[show_job.__name__].url_for(id=job.id)
    return _answer(job.view(), HTTPStatus.ACCEPTED if new else HTTPStatus.OK, location=str(place))


async def list_jobs(request: web.Request) -> web.StreamResponse:
    wanted = request.query.get("state")
    try:
        state = None if wanted is None else State(wanted)
    except ValueError:
        raise UsageError(
            "request.invalid",
            f"cannot list the jobs: {wanted!r} is not a state",
            hint=f"states are {', '.join(State)}",
            field="state",
        ) from None
    # A `JobList`, of which most is kept as text: reading and writing a thousand jobs would hold the loop up for 40 ms.
    return _json(b'{"jobs":[%b]}' % b",".join(job.text() for job in _queue(request).jobs(state)))


async def show_job(request: web.Request) -> web.StreamResponse:
    return _answer(_job(request).view())


async def cancel_job(request: web.Request) -> web.StreamResponse:
    return _answer((await _queue(request).cancel(_own_job(request, "cancel").id)).view(), HTTPStatus.ACCEPTED)


async def resume_job(request: web.Request) -> web.StreamResponse:
    job = _own_job(request, "resume")
    if job.request.source == STANDARD_INPUT:
        raise ConflictError(
            "source.stream",
            f"cannot resume job {job.id}: the daemon is not sent its volume",
            hint=f"send it again from its beginning: zcat disk.img.gz | amistream resume {job.id} --in-process",
        )
    if not request[PEER].privileged:
        _check_share(request.app[CONTEXT], request[PEER], but=job)
    return _answer((await _queue(request).resume(job.id)).view(), HTTPStatus.ACCEPTED)


async def follow_job(request: web.Request) -> web.StreamResponse:
    """Stream a job's events until its last one. The handler is cancelled when the client goes."""
    context = request.app[CONTEXT]
    job = _job(request)
    after = int(_header(request, "Last-Event-ID", EVENT_ID, "the id of an event") or "0")
    with context.subscription(request[PEER]):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            await _stream(response, job, after, context.keep_alive_s)
        except* ConnectionResetError:  # a client that leaves while it is written to is no error
            pass
    return response


async def show_health(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    living = [job for job in context.queue.jobs() if not job.state.ended]
    queued = sum(job.state is State.QUEUED for job in living)
    return _answer(
        Health(
            status="stopping" if context.queue.stopping else "ok",
            version=__version__,
            jobs_running=len(living) - queued,
            jobs_queued=queued,
            uptime_s=round(time.monotonic() - context.started, 3),
        )
    )


async def show_document(request: web.Request) -> web.StreamResponse:
    return web.Response(body=request.app[CONTEXT].document, content_type="application/json")


async def show_metrics(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    return web.Response(body=context.metrics.text(context.queue), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


async def _stream(response: web.StreamResponse, job: Job, after: int, keep_alive_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(_keep_alive(response, keep_alive_s))
        async for event in job.events(after):
            await response.write(_frame(event))
        keeper.cancel()


async def _keep_alive(response: web.StreamResponse, pause_s: float) -> None:
    while True:
        await asyncio.sleep(pause_s)
        await response.write(b": keep-alive\n\n")


def _frame(event: Event) -> bytes:
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def _header(request: web.Request, name: str, pattern: str, takes: str) -> str:
    value = request.headers.get(name)
    if value is not None and not re.fullmatch(pattern, value):
        raise UsageError("request.invalid", f"cannot take the header {name}: it must be {takes}", field=name)
    return value or ""


async def _object(request: web.Request) -> dict[str, Any]:
    """The JSON object that is the body."""
    timeout_s = request.app[CONTEXT].body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            body = await request.read()
    except TimeoutError:
        raise SlowBodyError(
            "request.too_slow", f"cannot read the request: its body did not come within {timeout_s:g} s"
        ) from None
    try:
        # Unlike the json module it also refuses halves of a character (a lone \ud800), which no answer could repeat.
        values = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise MalformedError(
            "request.not_json", "cannot read the request: its body is not JSON", hint="send a JSON object"
        ) from None
    if not isinstance(values, dict):
        raise UsageError(
            "request.not_object", "cannot take the request: its body is not a JSON object", hint="send {...}"
        )
    return values


def _share(most: int, peer: Peer) -> int:
    """How much of a bounded thing this peer may find taken and still get one."""
    return most if peer.privileged else max(1, int(most * SHARE))


def _check_share(context: Context, peer: Peer, *, but: Job | None = None) -> None:
    """Keep room in the queue for root and the daemon's own user, and what is kept of unfinished jobs within bounds."""
    most = _share(context.settings.max_queued, peer)
    waiting = sum(job.confined for job in context.queue.jobs(State.QUEUED))
    if waiting >= most:
        raise BusyError(
            "daemon.full", f"cannot take the job: {waiting} jobs of the group wait already", hint="try again later"
        )
    kept = sum(job.confined and job.resumable and job is not but for job in context.queue.jobs())
    if kept >= most:
        raise BusyError(
            "daemon.full",
            f"cannot take the job: {kept} jobs of the group ended unfinished and are kept",
            hint="finish them with `amistream resume ID`, or remove what they stored: amistream clean",
        )


def _own_job(request: web.Request, verb: str) -> Job:
    """The job that is named, if this peer may do something to it: its group's only, unless it is privileged."""
    job, peer = _job(request), request[PEER]
    if not peer.privileged and not job.confined:
        raise AccessDeniedError(
            "access.not_yours",
            f"cannot {verb} job {job.id}: root or the daemon's own user submitted it, and user {peer.uid} is neither",
            hint=f"ask the administrator; `amistream watch {job.id}` follows it",
        )
    return job


def _queue(request: web.Request) -> JobQueue:
    return request.app[CONTEXT].queue


def _job(request: web.Request) -> Job:
    return _queue(request).get(request.match_info["id"])


def _answer(body: BaseModel, status: HTTPStatus = HTTPStatus.OK, *, location: str = "") -> web.Response:
    return _json(body.model_dump_json().encode(), status, location=location)


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK, *, location: str = "") -> web.Response:
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={"Location": location} if location else {},
    )
