"""Takes connections for the page's server, a bounded number at a time, and answers what is no HTTP.

What a client does wrong is in no log: its request may hold the token.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from amistream.web.guard import HEADERS

BACKLOG = 16
MOST = 128
"""Connections at a time; a page has up to six. Guess: every user of the machine can connect. One more takes the place
of the oldest that was never admitted, so that nobody keeps the browser out by holding them all.
"""
IDLE_S = 60.0
"""Time that a connection may stay open without a request. Guess."""
ENDING_S = 1.0
"""Time for pages to read the rest of a response when the server ends."""


@asynccontextmanager
async def taking_connections(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the application on `listener` while the block runs."""
    app.on_response_prepare.append(_note_admitted)
    # A page that is closed ends its stream at once.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=ENDING_S)
    await runner.setup()
    http = cast("web.Server", runner.server)  # set by setup()
    loop = asyncio.get_running_loop()

    def take() -> asyncio.Protocol:
        if len(http.connections) >= MOST:
            # Those that were closed for others stay in the list for a moment.
            staying = (each for each in http.connections if each.connected)
            oldest = next((each for each in staying if not cast("_Conversation", each).is_admitted), None)
            if oldest is None:
                return _TurnedAway()
            oldest.force_close()
        return _Conversation(http, loop=loop, keepalive_timeout=IDLE_S, access_log_class=_NoLog)

    try:
        server = await loop.create_server(take, sock=listener.dup(), backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _note_admitted(request: web.Request, response: web.StreamResponse) -> None:
    """Keep the connection of a request that was not refused: without the secrets of the session all are."""
    if response.status < HTTPStatus.BAD_REQUEST:
        cast("_Conversation", request.protocol).is_admitted = True


class _TurnedAway(asyncio.Protocol):
    """A connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


class _Conversation(web.RequestHandler):
    """One connection."""

    __slots__ = ("is_admitted",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin as one that nobody knows."""
        self.is_admitted = False
        super().connection_made(transport)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP request, without repeating it."""
        del exc, message
        if request.writer.output_size:
            raise ConnectionError("a part of the response is sent already")
        response = web.Response(status=status, text="amistream web cannot read this request\n", headers=HEADERS)
        response.force_close()
        return response

    def log_exception(self, *args: object, **details: object) -> None:
        """Log nothing: the guard reports the page's own bugs."""


class _NoLog(AbstractAccessLogger):
    """The log of requests, of which there is none."""

    @property
    def enabled(self) -> bool:
        return False

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log nothing."""
