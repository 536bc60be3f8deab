"""The socket API as one table: the source of both the HTTP routes and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from amistream.checks.findings import Findings
from amistream.daemon import handlers
from amistream.daemon.access import Access
from amistream.events import Event, Health, JobKind, JobLines, JobList, JobView, QueueHealth
from amistream.request import CheckRequest, model_of
from amistream.request.convert import ConvertCheckRequest

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.EXPECTATION_FAILED,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)
"""Errors of every endpoint: no HTTP or unknown encoding, a peer without access, a body over the limit, an unknown query
parameter, an Expect that is not 100-continue, a bug.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value outside the body. Only a parameter `in_` the path is required."""

    name: str
    in_: Literal["path", "query", "header"]
    description: str
    pattern: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A success status. `model`: the type of the body, or of each `data` field of an event stream."""

    description: str
    model: type[BaseModel] | None = None
    media_type: str = JSON
    location: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint. `errors`: its error statuses beyond `ALWAYS`."""

    method: str
    path: str
    handler: Handler
    summary: str
    answers: dict[HTTPStatus, Answer]
    errors: tuple[HTTPStatus, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    bodies: tuple[type[BaseModel], ...] = ()
    """The models of the body, one for each kind of job."""

    @property
    def name(self) -> str:
        """The handler's name: the route's name and the OpenAPI operation id."""
        return str(getattr(self.handler, "__name__"))  # noqa: B009 - Callable promises no __name__

    @property
    def access(self) -> Access:
        return Access.READ if self.method == "GET" else Access.WRITE

    @property
    def query(self) -> frozenset[str]:
        return frozenset(parameter.name for parameter in self.parameters if parameter.in_ == "query")


JOB_ID = Parameter(name="id", in_="path", description="the job's id, from the response of POST /v1/jobs")
ANY_ID = replace(
    JOB_ID, description="the id, its first letters, or the first of its last six; `last`: the caller's newest"
)
THE_JOB = Answer("the job", JobView)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v1/jobs",
        handler=handlers.submit_job,
        summary="Submit a job; `kind` is `bundle`, the default, `convert`, `verify` or `migrate`",
        bodies=tuple(map(model_of, JobKind)),
        parameters=(
            Parameter(
                name="Idempotency-Key",
                in_="header",
                description="a request repeated with the same key gives the job of the first request, not a second job",
                pattern=f"^{handlers.IDEMPOTENCY_KEY}$",
            ),
        ),
        answers={
            HTTPStatus.ACCEPTED: Answer("queued", JobView, location=True),
            HTTPStatus.OK: Answer("the key was used before: its job", JobView, location=True),
        },
        errors=(
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs",
        handler=handlers.list_jobs,
        summary="List the jobs, oldest first",
        parameters=(
            Parameter(
                name="state",
                in_="query",
                description="only jobs in this state; may be repeated; `unfinished`: every job that can be resumed or "
                "cleaned",
                values=handlers.LISTED_STATES,
            ),
            Parameter(name="label", in_="query", description="only jobs with this label"),
            Parameter(
                name="limit",
                in_="query",
                description="only so many jobs, the newest; at most 999999",
                pattern=f"^{handlers.LIMIT}$",
            ),
        ),
        answers={HTTPStatus.OK: Answer("the jobs", JobList)},
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{id}",
        handler=handlers.show_job,
        summary="Show a job",
        parameters=(ANY_ID,),
        answers={HTTPStatus.OK: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        method="DELETE",
        path="/v1/jobs/{id}",
        handler=handlers.cancel_job,
        summary="Cancel a job, also one that ended `resumable`; its state changes once it has stopped and cleaned up",
        parameters=(JOB_ID,),
        answers={HTTPStatus.ACCEPTED: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    Endpoint(
        method="POST",
        path="/v1/jobs/{id}/resume",
        handler=handlers.resume_job,
        summary="Resume a `resumable` job; a verification begins again. 409: nothing of it is kept",
        parameters=(JOB_ID,),
        answers={HTTPStatus.ACCEPTED: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{id}/events",
        handler=handlers.follow_job,
        summary="Follow a job until its end: its events from the first to the last",
        parameters=(
            JOB_ID,
            Parameter(
                name="Last-Event-ID",
                in_="header",
                description="continue after this event",
                pattern=f"^{handlers.EVENT_ID}$",
            ),
        ),
        answers={
            HTTPStatus.OK: Answer(
                "server-sent events; `data` of each is an Event", Event, media_type="text/event-stream"
            )
        },
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{id}/log",
        handler=handlers.show_lines,
        summary="Show what the daemon logged about a job: the newest lines, at most 500",
        parameters=(ANY_ID,),
        answers={HTTPStatus.OK: Answer("the lines", JobLines)},
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        method="POST",
        path="/v1/doctor",
        handler=handlers.run_doctor,
        summary="Run a job's checks with the caller's rights, without starting the job. No field is required but "
        "`kind`, and that only for a conversion",
        bodies=(CheckRequest, ConvertCheckRequest),
        answers={HTTPStatus.OK: Answer("the findings; a failed check is no error", Findings)},
        errors=(HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Endpoint(
        method="POST",
        path="/v1/queue/drain",
        handler=handlers.drain_queue,
        summary="Take no more jobs from the queue until the next start, and give back those that do not end within "
        "queue_drain_s",
        answers={HTTPStatus.ACCEPTED: Answer("the queue", QueueHealth)},
        errors=(HTTPStatus.CONFLICT,),
    ),
    Endpoint(
        method="GET",
        path="/v1/health",
        handler=handlers.show_health,
        summary="Show the daemon's state and load",
        answers={HTTPStatus.OK: Answer("the daemon answers", Health)},
    ),
    Endpoint(
        method="GET",
        path="/v1/openapi.json",
        handler=handlers.show_document,
        summary="Show this document",
        answers={HTTPStatus.OK: Answer("an OpenAPI 3.1 document")},
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=handlers.show_metrics,
        summary="Show the metrics for Prometheus",
        answers={HTTPStatus.OK: Answer("Prometheus text format", media_type="text/plain")},
    ),
)
