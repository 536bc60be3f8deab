"""The socket API as one table: the source of both the HTTP routes and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from amistream.daemon import handlers
from amistream.daemon.access import Access
from amistream.daemon.models import EVENT_ID, IDEMPOTENCY_KEY, Health
from amistream.events import Event, JobList, JobView, State
from amistream.request import JobRequest

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON = "application/json"
ALWAYS = (
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)
"""Errors of every endpoint: a peer without access, a body over the limit, an unknown query parameter, a bug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value outside the body. Only a parameter `in_` the path is required."""

    name: str
    in_: Literal["path", "query", "header"]
    description: str
    pattern: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
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
    access: Access
    summary: str
    answers: dict[HTTPStatus, Answer]
    errors: tuple[HTTPStatus, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None

    @property
    def name(self) -> str:
        """The handler's name: the route's name and the OpenAPI operation id."""
        return str(getattr(self.handler, "__name__"))  # noqa: B009 - Callable promises no __name__

    @property
    def query(self) -> frozenset[str]:
        return frozenset(parameter.name for parameter in self.parameters if parameter.in_ == "query")


JOB_ID = Parameter(name="id", in_="path", description="the job's id, from the response of POST /v1/jobs")
THE_JOB = Answer(description="the job", model=JobView)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v1/jobs",
        handler=handlers.submit_job,
        access=Access.WRITE,
        summary="Submit a job",
        body=JobRequest,
        parameters=(
            Parameter(
                name="Idempotency-Key",
                in_="header",
                description="a request repeated with the same key gives the job of the first request, not a second job",
                pattern=f"^{IDEMPOTENCY_KEY}$",
            ),
        ),
        answers={
            HTTPStatus.ACCEPTED: Answer(description="queued", model=JobView, location=True),
            HTTPStatus.OK: Answer(description="the key was used before: its job", model=JobView, location=True),
        },
        errors=(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs",
        handler=handlers.list_jobs,
        access=Access.READ,
        summary="List the jobs, oldest first",
        parameters=(Parameter(name="state", in_="query", description="only jobs in this state", values=tuple(State)),),
        answers={HTTPStatus.OK: Answer(description="the jobs", model=JobList)},
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{id}",
        handler=handlers.show_job,
        access=Access.READ,
        summary="Show a job",
        parameters=(JOB_ID,),
        answers={HTTPStatus.OK: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND,),
    ),
    Endpoint(
        method="DELETE",
        path="/v1/jobs/{id}",
        handler=handlers.cancel_job,
        access=Access.WRITE,
        summary="Cancel a job; its state changes once it has stopped and cleaned up",
        parameters=(JOB_ID,),
        answers={HTTPStatus.ACCEPTED: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    Endpoint(
        method="POST",
        path="/v1/jobs/{id}/resume",
        handler=handlers.resume_job,
        access=Access.WRITE,
        summary="Resume an interrupted job",
        parameters=(JOB_ID,),
        answers={HTTPStatus.ACCEPTED: THE_JOB},
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    Endpoint(
        method="GET",
        path="/v1/jobs/{id}/events",
        handler=handlers.follow_job,
        access=Access.READ,
        summary="Follow a job: its events from the first to the last",
        parameters=(
            JOB_ID,
            Parameter(
                name="Last-Event-ID",
                in_="header",
                description="continue after this event",
                pattern=f"^{EVENT_ID}$",
            ),
        ),
        answers={
            HTTPStatus.OK: Answer(
                description="server-sent events; `data` of each is an Event",
                model=Event,
                media_type="text/event-stream",
            )
        },
        errors=(HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Endpoint(
        method="GET",
        path="/v1/health",
        handler=handlers.show_health,
        access=Access.READ,
        summary="Show the daemon's state and load",
        answers={HTTPStatus.OK: Answer(description="the daemon answers", model=Health)},
    ),
    Endpoint(
        method="GET",
        path="/v1/openapi.json",
        handler=handlers.show_document,
        access=Access.READ,
        summary="Show this document",
        answers={HTTPStatus.OK: Answer(description="an OpenAPI 3.1 document")},
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        handler=handlers.show_metrics,
        access=Access.READ,
        summary="Show the metrics for Prometheus",
        answers={HTTPStatus.OK: Answer(description="Prometheus text format", media_type="text/plain")},
    ),
)
