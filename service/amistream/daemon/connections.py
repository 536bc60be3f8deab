"""Accepts connections up to a limit, and reserves some for root and the daemon's own user.

A connection costs a descriptor and a little memory; without a limit one peer could take every descriptor.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from typing import cast

import structlog

from amistream.daemon.access import PeerSocket, identify
from amistream.errors import AmistreamError, BusyError

MAX_CONNECTIONS = 256
"""Guess: a quarter of the usual 1024 descriptors of a process; the jobs need the others."""
RESERVED = 64
"""Connections of those that only root and the daemon's own user get."""
LISTENERS = 32
LISTEN_S = 1.0
"""Refused connections that get the reason, and the time each may take to read it. Guess."""

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Doorkeeper:
    """The protocol factory of a listening socket, in front of an HTTP server."""

    def __init__(
        self,
        make_handler: Callable[[], asyncio.Protocol],
        connections: Callable[[], Collection[asyncio.Protocol]],
        *,
        most: int = MAX_CONNECTIONS,
        reserved: int = RESERVED,
    ) -> None:
        """`make_handler` makes the protocol of a connection that is taken; `connections` are those."""
        self._make_handler = make_handler
        self._connections = connections
        self._most = most
        self._reserved = reserved
        self._others: set[object] = set()
        """Connections of unprivileged peers; some may have ended."""
        self.refused: set[object] = set()
        """Refused connections that are still being sent the reason."""

    def __call__(self) -> asyncio.Protocol:
        return _Door(self)

    def admit(self, transport: asyncio.Transport) -> asyncio.Protocol:
        """Make the handler of a new connection. Raises `AmistreamError` for a connection that is refused."""
        peer = identify(cast("PeerSocket", transport.get_extra_info("socket")))
        connections = self._connections()
        self._others.intersection_update(connections)
        share_is_taken = not peer.privileged and len(self._others) >= self._most - self._reserved
        if share_is_taken or len(connections) >= self._most:
            LOG.warning("daemon.connections", uid=peer.uid, pid=peer.pid, open=len(connections), most=self._most)
            raise BusyError(
                "daemon.connections",
                f"cannot serve this client: {len(connections)} connections are open already",
                hint="try again later",
            )
        handler = self._make_handler()
        if not peer.privileged:
            self._others.add(handler)
        return handler


class _Door(asyncio.Protocol):
    """The protocol of a connection until its peer is known, and of a refused one until the reason is sent."""

    def __init__(self, keeper: Doorkeeper) -> None:
        self._keeper = keeper
        self._leave: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        try:
            handler = self._keeper.admit(stream)
        except AmistreamError as error:
            self._refuse(stream, error)
            return
        stream.set_protocol(handler)
        handler.connection_made(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._keeper.refused.discard(self)
        if self._leave is not None:
            self._leave.cancel()

    def _refuse(self, stream: asyncio.Transport, error: AmistreamError) -> None:
        if len(self._keeper.refused) >= LISTENERS:
            stream.abort()
            return
        self._keeper.refused.add(self)
        body = json.dumps({"error": error.as_dict()}).encode()
        head = (
            f"HTTP/1.1 {error.http_status.value} {error.http_status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        stream.write(head.encode() + body)
        # Closing now, with the request unread, would reset the connection and lose the response.
        stream.write_eof()
        self._leave = asyncio.get_running_loop().call_later(LISTEN_S, stream.abort)
