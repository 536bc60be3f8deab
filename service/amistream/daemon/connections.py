"""Lets connections in, up to a number, and keeps places for root and the daemon's own user.

A connection costs a descriptor and a little memory; without a bound one peer could take all that the process may have.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import structlog
from aiohttp import web

from amistream.daemon.access import PeerSocket, identify
from amistream.errors import AmistreamError, BusyError

MAX_CONNECTIONS = 256
"""Guess: a quarter of the 1024 descriptors that a process usually has; the jobs need the others."""
RESERVED = 64
"""Of those, places that only root and the daemon's own user get."""
LISTENERS = 32
LISTEN_S = 1.0
"""How many connections that are turned away hear why, and how long they may take to. Guess."""

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Doorkeeper:
    """The protocol factory of a listening socket, in front of an HTTP server."""

    def __init__(self, server: web.Server, *, most: int = MAX_CONNECTIONS, reserved: int = RESERVED) -> None:
        self._server = server
        self._most = most
        self._reserved = reserved
        self._others: set[object] = set()
        """Connections of other peers than root and the daemon's own user; some may have ended."""
        self.turned_away: set[object] = set()
        """Connections that are being told so."""

    def __call__(self) -> asyncio.Protocol:
        return _Door(self)

    def admit(self, transport: asyncio.Transport) -> asyncio.Protocol:
        """The handler of a new connection. Raises `AmistreamError` for one that cannot be let in."""
        peer = identify(cast("PeerSocket", transport.get_extra_info("socket")))
        here = self._server.connections
        self._others.intersection_update(here)
        share_is_taken = not peer.privileged and len(self._others) >= self._most - self._reserved
        if share_is_taken or len(here) >= self._most:
            LOG.warning("daemon.connections", uid=peer.uid, pid=peer.pid, open=len(here), most=self._most)
            raise BusyError(
                "daemon.connections",
                f"cannot talk to this client: {len(here)} connections are open already",
                hint="try again later",
            )
        handler = self._server()
        if not peer.privileged:
            self._others.add(handler)
        return handler


class _Door(asyncio.Protocol):
    """Stands for a connection until it is known whose it is, and for one that is turned away until it has heard so."""

    def __init__(self, keeper: Doorkeeper) -> None:
        self._keeper = keeper
        self._leave: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        try:
            handler = self._keeper.admit(stream)
        except AmistreamError as error:
            self._turn_away(stream, error)
            return
        stream.set_protocol(handler)
        handler.connection_made(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._keeper.turned_away.discard(self)
        if self._leave is not None:
            self._leave.cancel()

    def _turn_away(self, stream: asyncio.Transport, error: AmistreamError) -> None:
        if len(self._keeper.turned_away) >= LISTENERS:
            stream.abort()
            return
        self._keeper.turned_away.add(self)
        stream.write(_refusal(error))
        # Not closed at once: with its question unread the client would find a broken connection, and no answer.
        stream.write_eof()
        self._leave = asyncio.get_running_loop().call_later(LISTEN_S, stream.abort)


def _refusal(error: AmistreamError) -> bytes:
    body = json.dumps({"error": error.as_dict()}).encode()
    status = error.http_status
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
