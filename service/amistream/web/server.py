"""The HTTP server of the page: one listening socket on the loopback address, a few files, and what the page asks for.

Reads come from the daemon's socket, the buckets and the queue; the only changes are to cancel and to resume a job. The
daemon sees the user who runs `amistream web`, so the page may do what that user may.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path

from aiohttp import web

from amistream.cli.client import Client
from amistream.cli.one_request import job_path
from amistream.errors import AccessDeniedError, UsageError
from amistream.flow.gather import task_group
from amistream.web.bundles import Shelves
from amistream.web.connections import BACKLOG, taking_connections
from amistream.web.feed import Feed
from amistream.web.guard import HINT, TOKEN_PARAMETER, Guard, Handler, harden
from amistream.web.queue import FleetQueue
from amistream.web.token import Admission

ADDRESS = "127.0.0.1"
_ASSETS = files("amistream.web") / "assets"
_PLACE_OF_KEY = b'name="page-key" content=""'
_LARGEST_BODY = 1024
"""No request has a body."""


@dataclass(kw_only=True)
class Page:
    """Everything that the handlers need. `used_at` is the loop's time of the last request."""

    admission: Admission
    socket: Path
    feed: Feed
    shelves: Shelves
    queue: FleetQueue
    cookie_name: str
    used_at: float = 0.0


PAGE = web.AppKey("page", Page)


def open_listener(port: int) -> socket.socket:
    """Listen on the loopback address; port 0 is any free one. Raises `UsageError`."""
    try:
        return socket.create_server((ADDRESS, port), backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            "web.port",
            f"cannot listen on {ADDRESS}, port {port}: {why}",
            hint="choose another port with --port; --port 0 takes any that is free",
            field="port",
        ) from error


def make_app(page: Page) -> web.Application:
    guard = Guard(page.admission, page.cookie_name)
    app = web.Application(middlewares=[guard.answer, guard.admit], client_max_size=_LARGEST_BODY)
    app[PAGE] = page
    app.on_response_prepare.append(harden)
    app.router.add_get("/", show_page, allow_head=False)
    for name, media_type in (("page.css", "text/css"), ("page.js", "text/javascript")):
        app.router.add_get(f"/{name}", _shown(name, media_type), allow_head=False)
    app.router.add_get("/api/jobs", stream_jobs, allow_head=False)
    app.router.add_get("/api/jobs/{id}", show_job, allow_head=False)
    app.router.add_get("/api/jobs/{id}/log", show_log, allow_head=False)
    app.router.add_post("/api/jobs/{id}/cancel", cancel_job)
    app.router.add_post("/api/jobs/{id}/resume", resume_job)
    app.router.add_get("/api/buckets", list_buckets, allow_head=False)
    app.router.add_get("/api/buckets/{number:[0-9]{1,3}}", list_bundles, allow_head=False)
    app.router.add_get("/api/queue", show_queue, allow_head=False)
    return app


@asynccontextmanager
async def serving(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve while the block runs, and look at the daemon for the pages that are open."""
    async with taking_connections(app, listener), task_group() as group:
        looking = group.create_task(app[PAGE].feed.run(), name="feed")
        yield
        looking.cancel()


async def wait_unused(page: Page, idle_s: float) -> None:
    """Wait until no page was open and no request came for `idle_s` seconds."""
    clock = asyncio.get_running_loop().time
    page.used_at = clock()
    while (left_s := page.used_at + idle_s - clock()) > 0:
        await asyncio.sleep(left_s)
        if page.feed.readers:
            page.used_at = clock()


async def show_page(request: web.Request) -> web.StreamResponse:
    """The page itself; with the token, also the secrets of the session."""
    page = request.app[PAGE]
    page.used_at = asyncio.get_running_loop().time()
    html = (_ASSETS / "index.html").read_bytes()
    token = request.query.get(TOKEN_PARAMETER)
    if token is None:
        return _file(html, "text/html")
    session = page.admission.exchange(token)
    if session is None:
        if page.admission.knows_cookie(request.cookies.get(page.cookie_name, "")):
            return _file(html, "text/html")
        raise AccessDeniedError(
            "web.token", "cannot show the page: its address was used already, or is wrong", hint=HINT
        )
    response = _file(html.replace(_PLACE_OF_KEY, b'name="page-key" content="%b"' % session.key.encode()), "text/html")
    response.set_cookie(page.cookie_name, session.cookie, path="/", httponly=True, samesite="Strict")
    return response


async def stream_jobs(request: web.Request) -> web.StreamResponse:
    """Lines of JSON: the jobs, then their changes, for as long as the page is open."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    async with aclosing(request.app[PAGE].feed.read()) as messages:
        first = await anext(messages)
        await response.prepare(request)
        await response.write(_line(first))
        try:
            async for message in messages:
                await response.write(_line(message))
        except ConnectionResetError:  # the page was closed during a write
            pass
    return response


async def show_job(request: web.Request) -> web.StreamResponse:
    async with _client(request) as client:
        return _json(await client.document(job_path(request.match_info["id"])))


async def show_log(request: web.Request) -> web.StreamResponse:
    async with _client(request) as client:
        return _json(await client.document(f"{job_path(request.match_info['id'])}/log"))


async def cancel_job(request: web.Request) -> web.StreamResponse:
    async with _client(request) as client:
        job_id = await client.cancel(request.match_info["id"])
    return _changed(request, job_id)


async def resume_job(request: web.Request) -> web.StreamResponse:
    async with _client(request) as client:
        job_id = await client.resume(request.match_info["id"])
    return _changed(request, job_id)


async def list_buckets(request: web.Request) -> web.StreamResponse:
    return _json(request.app[PAGE].shelves.names.model_dump_json().encode())


async def list_bundles(request: web.Request) -> web.StreamResponse:
    anew = "anew" in request.query
    listing = await request.app[PAGE].shelves.listing(int(request.match_info["number"]), anew=anew)
    return _json(listing.model_dump_json().encode())


async def show_queue(request: web.Request) -> web.StreamResponse:
    return _json((await request.app[PAGE].queue.look()).model_dump_json().encode())


def _shown(name: str, media_type: str) -> Handler:
    async def show_file(_: web.Request) -> web.StreamResponse:
        return _file((_ASSETS / name).read_bytes(), media_type)

    return show_file


def _client(request: web.Request) -> Client:
    return Client(request.app[PAGE].socket, retry_delays_s=())


def _changed(request: web.Request, job_id: str) -> web.Response:
    request.app[PAGE].feed.look()
    return _json(json.dumps({"id": job_id}).encode(), HTTPStatus.ACCEPTED)


def _line(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _file(body: bytes, media_type: str) -> web.Response:
    return web.Response(body=body, content_type=media_type, charset="utf-8")
