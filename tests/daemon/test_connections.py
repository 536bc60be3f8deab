"""Limits of connections and of the data that comes through them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from amistream.daemon.access import AccessPolicy
from amistream.daemon.connections import LISTENERS
from daemon.member import GROUP, MEMBER, ask_as, connect_as, needs_root, parse_answer, talking
from daemon.rig import PATIENCE_S, Answer, Daemon, StartDaemon

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: d\r\n\r\n"


def connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(daemon.path))
    return connection


async def send(daemon: Daemon, data: bytes) -> Answer:
    """Send these bytes, and read until the daemon closes the connection."""
    async with talking(connect(daemon)) as (reader, writer):
        writer.write(data)
        return parse_answer(await reader.read())


async def is_held(stack: AsyncExitStack, connection: socket.socket) -> bool:
    """Check that the daemon answers on this connection, and keep the connection open until the stack ends."""
    reader, writer = await stack.enter_async_context(talking(connection))
    writer.write(HEALTH)
    return b" 200 " in await reader.readline()


async def test_connections_are_bounded(start_daemon: StartDaemon) -> None:
    """A connection over the limit gets an error, and the next one is served once another has ended."""
    async with start_daemon(doors={"max_connections": 3, "reserved": 1}) as daemon, AsyncExitStack() as later:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                assert await is_held(stack, connect(daemon))
            for data in (b"", HEALTH):
                refused = await send(daemon, data)
                assert (refused.status, refused.error["code"]) == (503, "daemon.connections")
        async with asyncio.timeout(PATIENCE_S):
            # The daemon notices closed connections when its loop runs; each request is one turn.
            while not await is_held(later, connect(daemon)):
                pass


async def test_refused_connections_are_bounded_too(start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many connections to a full daemon, some are closed without a response."""
    monkeypatch.setattr("amistream.daemon.connections.LISTEN_S", PATIENCE_S)
    async with start_daemon(doors={"max_connections": 1, "reserved": 0}) as daemon, AsyncExitStack() as stack:
        assert await is_held(stack, connect(daemon))
        answered = ended = 0
        crowd = [await stack.enter_async_context(talking(connect(daemon))) for _ in range(LISTENERS + 10)]
        for reader, _ in crowd:
            answer = await reader.read()
            answered += answer.startswith(b"HTTP/1.1 503 ")
            ended += not answer
        assert (answered, ended) == (LISTENERS, 10)


@needs_root
async def test_members_leave_connections_for_root(start_daemon: StartDaemon, open_path: Path) -> None:
    """When members use all connections they can get, root is still served."""
    async with (
        start_daemon(
            path=open_path, policy=AccessPolicy(group=GROUP), doors={"max_connections": 4, "reserved": 2}
        ) as daemon,
        AsyncExitStack() as stack,
    ):
        open_path.chmod(0o666)
        for _ in range(2):
            assert await is_held(stack, connect_as(open_path, *MEMBER))
        refused = await ask_as(open_path, "GET", "/v1/health")
        assert (refused.status, refused.error["code"]) == (503, "daemon.connections")
        assert (await daemon.ask("GET", "/v1/health")).status == 200


@pytest.mark.parametrize("begin", [b"", b"GET /v1/health HTTP/1.1\r\nHost: d\r\n"], ids=["nothing", "half a request"])
async def test_silent_connection_is_closed(start_daemon: StartDaemon, begin: bytes) -> None:
    """A connection without a request is closed after a while."""
    async with start_daemon(doors={"idle_s": 0.05}) as daemon, talking(connect(daemon)) as (reader, writer):
        writer.write(begin)
        assert await reader.read() == b""


async def test_body_that_does_not_come_is_not_waited_for(start_daemon: StartDaemon) -> None:
    """A request whose body does not arrive is answered with 408 and makes no job."""
    async with start_daemon(body_timeout_s=0.05) as daemon:
        async with talking(connect(daemon)) as (reader, writer):
            writer.write(b"POST /v1/jobs HTTP/1.1\r\nHost: d\r\nContent-Length: 10\r\n\r\n{")
            assert b" 408 " in await reader.readline()
            assert b'"request.too_slow"' in await reader.readuntil(b"}}")
        assert daemon.queue.jobs() == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: d\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: d\r\n" + b"".join(b"X%d: x\r\n" % n for n in range(200)) + b"\r\n",
    ],
    ids=["long line", "long header", "many headers"],
)
async def test_headers_are_bounded(start_daemon: StartDaemon, data: bytes) -> None:
    """A request line or header over 8 KiB, or more than 128 headers, is refused and the connection closed."""
    async with start_daemon() as daemon:
        assert (await send(daemon, data)).status == 400
        assert (await daemon.ask("GET", "/v1/health")).status == 200


async def test_headers_without_an_end_are_bounded(start_daemon: StartDaemon) -> None:
    """An endless header is cut off long before it fills the memory."""
    async with start_daemon() as daemon, talking(connect(daemon)) as (reader, writer):
        writer.write(HEALTH[:-2] + b"X: ")
        answered = asyncio.ensure_future(reader.readline())
        while not answered.done():
            writer.write(b"x" * 1000)
            await asyncio.wait([answered], timeout=0.001)
        assert b" 400 " in await answered


async def test_requests_one_after_another_are_bounded_too(start_daemon: StartDaemon) -> None:
    """Pipelined requests are answered one by one, and none is lost."""
    async with start_daemon() as daemon, talking(connect(daemon)) as (reader, writer):
        writer.write(b"GET /v1/nothing HTTP/1.1\r\nHost: d\r\n\r\n" * 500)
        for _ in range(500):
            await reader.readuntil(b"HTTP/1.1 404 Not Found\r\n")
