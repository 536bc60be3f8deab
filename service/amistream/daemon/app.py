"""The HTTP application: the table of endpoints, behind one guard, with one shape of error.

Holds the limits of a request: its caller, its body's size, the time that a connection may be idle, the form of an
error. The number of connections is limited in `connections`; the endpoints are in `handlers`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import structlog
from aiohttp import web

from amistream.daemon.access import MAX_SUBSCRIBERS, Access, AccessPolicy, identify
from amistream.daemon.connections import MAX_CONNECTIONS, RESERVED, Doorkeeper
from amistream.daemon.handlers import (
    BODY_TIMEOUT_S,
    CONTEXT,
    KEEP_ALIVE_S,
    PEER,
    Context,
    Examine,
    error_response,
)
from amistream.daemon.listener import BACKLOG
from amistream.daemon.metrics import Metrics
from amistream.daemon.openapi import make_document
from amistream.daemon.routes import ENDPOINTS, Handler
from amistream.errors import AccessDeniedError, AmistreamError, NotFoundError, UsageError, shortage_of
from amistream.jobs.queue import JobQueue
from amistream.settings import Settings
from amistream.values import KIB

if TYPE_CHECKING:
    from amistream.fleet.intake import Intake

MAX_BODY = 64 * KIB
LAST_ANSWERS_S = 5.0
"""Time for clients to read the rest of their responses once every job has ended. Guess."""
IDLE_S = 60.0
"""Time that a connection may stay open without a complete request. Guess."""
POLICY = web.AppKey("policy", AccessPolicy)
BY_NAME = {endpoint.name: endpoint for endpoint in ENDPOINTS}

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def make_app(
    queue: JobQueue,
    metrics: Metrics,
    policy: AccessPolicy,
    examine: Examine,
    *,
    settings: Settings | None = None,
    intake: Intake | None = None,
    max_subscribers: int = MAX_SUBSCRIBERS,
    keep_alive_s: float = KEEP_ALIVE_S,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> web.Application:
    """Make the application. `examine` runs `doctor`; `settings`: the limits of confined jobs, None for the defaults.

    `intake` takes jobs from a queue, if there is one.
    """
    app = web.Application(middlewares=[_log, _answer_errors, _guard], client_max_size=MAX_BODY)
    app[POLICY] = policy
    app[CONTEXT] = Context(
        queue=queue,
        metrics=metrics,
        examine=examine,
        settings=settings or Settings(),
        intake=intake,
        document=json.dumps(make_document(ENDPOINTS), indent=2).encode(),
        max_subscribers=max_subscribers,
        keep_alive_s=keep_alive_s,
        body_timeout_s=body_timeout_s,
    )
    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, endpoint.path, endpoint.handler, name=endpoint.name)
    return app


@asynccontextmanager
async def serving(
    app: web.Application,
    listener: socket.socket,
    *,
    max_connections: int = MAX_CONNECTIONS,
    reserved: int = RESERVED,
    idle_s: float = IDLE_S,
) -> AsyncIterator[None]:
    """Serve on `listener` while the block runs; requests in progress at its end get a few seconds more."""
    # Cancel a handler whose client is gone: an event stream would keep its subscription otherwise.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=LAST_ANSWERS_S)
    await runner.setup()
    http = cast("web.Server", runner.server)  # set by setup()
    try:
        # No aiohttp site takes a Unix socket that is already bound. uvloop closes the socket it is given, so it gets a
        # duplicate: the original listens until its file is removed, and no client finds a file that refuses.
        factory = Doorkeeper(
            lambda: _Conversation(http, loop=asyncio.get_running_loop(), keepalive_timeout=idle_s),
            lambda: http.connections,
            most=max_connections,
            reserved=reserved,
        )
        server = await asyncio.get_running_loop().create_unix_server(factory, sock=listener.dup(), backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


class _Conversation(web.RequestHandler):
    """One connection. What the HTTP library refuses by itself gets the form of the API too."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP request, or of an encoding that is not known."""
        LOG.debug("daemon.malformed", status=status, reason=repr(exc))
        if request.writer.output_size:
            raise ConnectionError("a part of the response is sent already")
        # The rest of the message repeats what was sent.
        reason = re.split(r"\n|: b['\"]", message or HTTPStatus(status).phrase)[0].rstrip(" :")
        error = UsageError("http.malformed", f"cannot take the request: {reason}", hint="send HTTP/1.1 and plain JSON")
        response = error_response(error, HTTPStatus(status))
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; a refusal from before the middlewares (Expect) is none of ours yet."""
        if isinstance(resp, web.HTTPException):
            resp = error_response(_explain(request, resp), HTTPStatus(resp.status))
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: object, **details: object) -> None:
        """Keep what clients do wrong out of the log: the application reports its own bugs."""
        LOG.debug("daemon.connection", reason=repr(details.get("exc_info")), at=args)


@web.middleware
async def _log(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.monotonic()
    status: int | None = None
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        peer = request.get(PEER)
        LOG.debug(
            "daemon.request",
            method=request.method,
            path=request.path,
            status=status,  # None: the client disconnected before the response
            uid=peer and peer.uid,
            pid=peer and peer.pid,
            elapsed_s=round(time.monotonic() - began, 6),
        )


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AmistreamError as error:
        return error_response(error)
    except web.HTTPException as refusal:
        response = error_response(_explain(request, refusal), HTTPStatus(refusal.status))
        if isinstance(refusal, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = refusal.headers["Allow"]
        return response
    except Exception as error:
        if (shortage := shortage_of(error)) is not None:
            return error_response(shortage)
        LOG.exception("daemon.bug", method=request.method, path=request.path)
        return error_response(
            AmistreamError(
                "internal.bug",
                "cannot answer the request: a bug in amistreamd",
                hint="its log holds the details (journalctl -u amistream); please report them",
            )
        )


def _explain(request: web.BaseRequest, refusal: web.HTTPException) -> AmistreamError:
    """Translate a refusal by aiohttp into the codes of the API."""
    if isinstance(refusal, web.HTTPNotFound):
        return NotFoundError(
            "http.unknown_path", f"cannot find {request.path}", hint="GET /v1/openapi.json lists the paths"
        )
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        return UsageError(
            "http.method",
            f"cannot {request.method} {request.path}: the path takes {refusal.headers['Allow']}",
            hint="GET /v1/openapi.json lists each path's methods",
        )
    if isinstance(refusal, web.HTTPRequestEntityTooLarge):
        return UsageError("http.too_large", f"cannot take the request: its body is over {MAX_BODY // KIB} KiB")
    return UsageError("http.refused", f"cannot take the request: {refusal.reason}")


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse unknown users, oversize bodies and misspelt query parameters before the handler runs."""
    endpoint = BY_NAME.get(request.match_info.route.name or "")
    connection = request.get_extra_info("socket")
    if connection is None:
        raise AccessDeniedError("access.unknown_peer", "cannot serve this connection: it is already closed")
    peer = request[PEER] = identify(connection)
    try:
        request.app[POLICY].check(peer, endpoint.access if endpoint else Access.READ)
    except AccessDeniedError:
        LOG.warning("access.denied", uid=peer.uid, pid=peer.pid, method=request.method, path=request.path)
        raise
    length = request.content_length or 0
    if length > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY, actual_size=length)
    for name in request.query:
        if endpoint and name not in endpoint.query:
            raise UsageError(
                "request.unknown_parameter",
                f"cannot take the request: unknown query parameter {name!r}",
                hint="GET /v1/openapi.json lists the parameters; check the spelling",
                field=name,
            )
    return await handler(request)
