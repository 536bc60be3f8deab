"""Handlers of the endpoints: translate an HTTP request into a call on the job queue, and the result into a response.

Handlers raise `AmistreamError`; `app` turns it into the error body. `routes` maps paths to handlers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel
from pydantic_core import from_json

from amistream import __version__
from amistream.checks.findings import Finding, Findings
from amistream.daemon.access import Peer, check_queue_share
from amistream.daemon.metrics import Metrics
from amistream.errors import AccessDeniedError, AmistreamError, BusyError, ConflictError, UsageError
from amistream.events import ErrorBody, ErrorResponse, Health, JobLines
from amistream.jobs.confinement import check_request
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.request import CheckRequest, JobRequest, VolumeRequest, parse_check_request, parse_request
from amistream.request.convert import ConvertCheckRequest
from amistream.roots import Roots
from amistream.settings import Settings
from amistream.states import UNFINISHED, State
from amistream.values import STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.fleet.intake import Intake

IDEMPOTENCY_KEY = "[!-~]{1,255}"
EVENT_ID = "[0-9]{1,15}"
LIMIT = "[1-9][0-9]{0,5}"
LISTED_STATES = (*State, UNFINISHED)
"""The states by which jobs can be listed."""
BODY_TIMEOUT_S = 10.0
"""Time for a body of 64 KiB to arrive from this machine. Guess."""
KEEP_ALIVE_S = 15.0
"""Half of the 30 s after which common proxies and clients close a silent stream."""


MAX_EXAMINATIONS = 4
"""Guess: each opens a volume and asks AWS a dozen questions."""
Examine = Callable[[CheckRequest | ConvertCheckRequest, Roots | None], Awaitable[list[Finding]]]
"""Runs the checks of a request, of a confined one within the roots."""


class MalformedError(UsageError):
    """The body is not JSON. Caller's fault."""

    http_status = HTTPStatus.BAD_REQUEST


class SlowBodyError(UsageError):
    """The body did not arrive in time. Caller's fault."""

    http_status = HTTPStatus.REQUEST_TIMEOUT


@dataclass(kw_only=True)
class Context:
    """State shared by all handlers. `document`: the OpenAPI document as bytes."""

    queue: JobQueue
    metrics: Metrics
    settings: Settings
    examine: Examine
    document: bytes
    max_subscribers: int
    intake: Intake | None = None
    keep_alive_s: float = KEEP_ALIVE_S
    body_timeout_s: float = BODY_TIMEOUT_S
    followers: int = 0
    examinations: int = 0
    started: float = field(default_factory=time.monotonic)


CONTEXT = web.AppKey("context", Context)
PEER = web.RequestKey("peer", Peer)
"""The caller; set by the guard in `app` once the request is allowed."""


def error_response(error: AmistreamError, status: HTTPStatus | None = None) -> web.Response:
    body = ErrorResponse(error=ErrorBody(**error.as_dict()))
    return _respond(body, status or error.http_status)


async def submit_job(request: web.Request) -> web.StreamResponse:
    context, peer = request.app[CONTEXT], request[PEER]
    key = _header(request, "Idempotency-Key", IDEMPOTENCY_KEY, "1 to 255 visible ASCII characters")
    job_request = parse_request(await _object(request))
    _refuse_stream(job_request)
    if not peer.privileged:
        check_request(job_request, context.settings)
        check_queue_share(context.queue, context.settings.max_queued, peer)
        # Two users may choose the same key: the user id and a space, which no client's key contains, keep them apart.
        key = key and f"{peer.uid} {key}"
    job, new = await context.queue.submit(job_request, idempotency_key=key, confined=not peer.privileged, user=peer.uid)
    path = request.app.router[show_job.__name__].url_for(id=job.id)
    return _respond(context.queue.view(job), HTTPStatus.ACCEPTED if new else HTTPStatus.OK, location=str(path))


async def run_doctor(request: web.Request) -> web.StreamResponse:
    """Run a job's checks as the job would, with the rights of the peer."""
    context, peer = request.app[CONTEXT], request[PEER]
    asked = parse_check_request(await _object(request))
    _refuse_stream(asked)
    roots = None
    if not peer.privileged:
        check_request(asked, context.settings)
        settings = context.settings
        roots = Roots(settings.source_roots, readers=settings.socket_group, user=peer.uid)
    if context.examinations >= peer.share(MAX_EXAMINATIONS):
        raise BusyError(
            "daemon.busy",
            f"cannot run the checks: {context.examinations} clients have checks run already",
            hint="try again later",
        )
    context.examinations += 1
    try:
        return _respond(Findings(findings=tuple(await context.examine(asked, roots))))
    finally:
        context.examinations -= 1


async def list_jobs(request: web.Request) -> web.StreamResponse:
    states = request.query.getall("state", [])
    for name in states:
        if name not in LISTED_STATES:
            raise UsageError(
                "request.invalid",
                f"cannot list the jobs: {name!r} is not a state",
                hint=f"states are {', '.join(LISTED_STATES)}",
                field="state",
            )
    limit = request.query.get("limit")
    if limit is not None and not re.fullmatch(LIMIT, limit):
        raise UsageError(
            "request.invalid", "cannot list the jobs: limit must be a whole number from 1 to 999999", field="limit"
        )
    queue = _queue(request)
    found = queue.chosen(states, request.query.get("label"), None if limit is None else int(limit))
    # A `JobList` from stored text: to build and dump a thousand models would block the loop for 40 ms.
    texts = (queue.view(job).model_dump_json().encode() if job.state is State.QUEUED else job.text() for job in found)
    return _json(b'{"jobs":[%b]}' % b",".join(texts))


async def show_job(request: web.Request) -> web.StreamResponse:
    """Show the job of an id, of its first letters, or `last`: the newest job of the caller."""
    queue = _queue(request)
    return _respond(queue.view(queue.find(request.match_info["id"], request[PEER].uid)))


async def cancel_job(request: web.Request) -> web.StreamResponse:
    job = await _queue(request).cancel(_own_job(request, "cancel").id, user=request[PEER].uid)
    return _respond(job.view(), HTTPStatus.ACCEPTED)


async def resume_job(request: web.Request) -> web.StreamResponse:
    job = _own_job(request, "resume")
    if job.request.source == STANDARD_INPUT:
        raise ConflictError(
            "source.stream",
            f"cannot resume job {job.id}: the daemon does not get its data",
            hint=f"send the data again from the beginning: zcat disk.img.gz | amistream resume {job.id} --in-process",
        )
    context, peer = request.app[CONTEXT], request[PEER]
    if not peer.privileged:
        check_queue_share(context.queue, context.settings.max_queued, peer, except_job=job)
    return _respond((await context.queue.resume(job.id, user=peer.uid)).view(), HTTPStatus.ACCEPTED)


async def show_lines(request: web.Request) -> web.StreamResponse:
    queue = _queue(request)
    job = queue.find(request.match_info["id"], request[PEER].uid)
    return _respond(JobLines(id=job.id, lines=tuple(await queue.lines(job.id))))


async def follow_job(request: web.Request) -> web.StreamResponse:
    """Stream a job's events up to the last one. The handler is cancelled when the client disconnects."""
    context = request.app[CONTEXT]
    job = _job(request)
    after = int(_header(request, "Last-Event-ID", EVENT_ID, "the id of an event") or "0")
    if context.followers >= request[PEER].share(context.max_subscribers):
        raise BusyError(
            "daemon.subscribers",
            f"cannot follow the job: {context.followers} clients follow jobs already",
            hint="poll GET /v1/jobs/{id} instead, or try again later",
        )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    context.followers += 1
    try:
        await response.prepare(request)
        await _stream(response, job, after, context.keep_alive_s)
    except* ConnectionResetError:  # the client disconnected during a write: no error
        pass
    finally:
        context.followers -= 1
    return response


async def show_health(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    active = [job for job in context.queue.jobs() if not job.state.ended]
    queued = sum(job.state is State.QUEUED for job in active)
    return _respond(
        Health(
            status="stopping" if context.queue.stopping else "ok",
            version=__version__,
            jobs_running=len(active) - queued,
            jobs_queued=queued,
            uptime_s=round(time.monotonic() - context.started, 3),
            notices=context.queue.notices,
            queue=context.intake.health() if context.intake is not None else None,
        )
    )


async def drain_queue(request: web.Request) -> web.StreamResponse:
    """Take no more jobs from the queue, until the next start."""
    context, peer = request.app[CONTEXT], request[PEER]
    if not peer.privileged:
        raise AccessDeniedError(
            "access.drain",
            f"cannot drain the daemon: user {peer.uid} is neither root nor the daemon's user",
            hint="use sudo",
        )
    if context.intake is None:
        raise ConflictError(
            "queue.none",
            "cannot drain the daemon: it takes no jobs from a queue",
            hint="`amistream jobs` shows its jobs; `systemctl stop amistream` ends it",
        )
    context.intake.stop()
    return _respond(context.intake.health(), HTTPStatus.ACCEPTED)


async def show_document(request: web.Request) -> web.StreamResponse:
    return web.Response(body=request.app[CONTEXT].document, content_type="application/json")


async def show_metrics(request: web.Request) -> web.StreamResponse:
    context = request.app[CONTEXT]
    return web.Response(
        body=context.metrics.text(context.queue, context.intake), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
    )


async def _stream(response: web.StreamResponse, job: Job, after: int, keep_alive_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(_keep_alive(response, keep_alive_s))
        async for event in job.events(after):
            frame = f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"
            await response.write(frame.encode())
        keeper.cancel()


async def _keep_alive(response: web.StreamResponse, pause_s: float) -> None:
    while True:
        await asyncio.sleep(pause_s)
        await response.write(b": keep-alive\n\n")


def _header(request: web.Request, name: str, pattern: str, form: str) -> str:
    value = request.headers.get(name)
    if value is not None and not re.fullmatch(pattern, value):
        raise UsageError("request.invalid", f"cannot take the header {name}: it must be {form}", field=name)
    return value or ""


async def _object(request: web.Request) -> dict[str, Any]:
    """Read the body, which must be a JSON object."""
    timeout_s = request.app[CONTEXT].body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            body = await request.read()
    except TimeoutError:
        raise SlowBodyError(
            "request.too_slow", f"cannot read the request: its body did not arrive within {timeout_s:g} s"
        ) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise MalformedError(
            "request.encoding",
            "cannot read the request: its body is not what Content-Encoding or Transfer-Encoding says",
            hint="send the JSON as it is, with a Content-Length",
        ) from None
    try:
        # Unlike the json module it also refuses a lone surrogate (\ud800), which no response could encode.
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


def _refuse_stream(request: VolumeRequest | JobRequest) -> None:
    if request.source == STANDARD_INPUT:
        raise UsageError(
            "source.stream",
            "cannot read standard input: the daemon cannot read that of your command",
            hint="add --in-process, so that the command runs the job itself",
            field="source",
        )


def _own_job(request: web.Request, verb: str) -> Job:
    """Find the job in the path. Unprivileged peers may change only jobs that their group submitted."""
    job, peer = _job(request), request[PEER]
    if not peer.privileged and not job.is_members:
        came = "it came from the queue" if job.name else "root or the daemon's user submitted it"
        raise AccessDeniedError(
            "access.not_yours",
            f"cannot {verb} job {job.id}: {came}, and user {peer.uid} is neither root nor the daemon's user",
            hint=f"ask the administrator; `amistream watch {job.id}` follows it",
        )
    return job


def _queue(request: web.Request) -> JobQueue:
    return request.app[CONTEXT].queue


def _job(request: web.Request) -> Job:
    return _queue(request).get(request.match_info["id"])


def _respond(body: BaseModel, status: HTTPStatus = HTTPStatus.OK, *, location: str = "") -> web.Response:
    return _json(body.model_dump_json().encode(), status, location=location)


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK, *, location: str = "") -> web.Response:
    return web.Response(
        status=status,
        body=body,
        content_type="application/json",
        headers={"Location": location} if location else {},
    )
