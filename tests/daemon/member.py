"""Connects and sends requests as a member of the socket's group, or as any other user."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from daemon.rig import PATIENCE_S, Answer

STRANGER = 65534
GROUP = 54321
MEMBER = (f"--reuid={STRANGER}", f"--regid={GROUP}", "--clear-groups")
OTHER_MEMBER = ("--reuid=65533", f"--regid={GROUP}", "--clear-groups")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b"it"], [connection.fileno()])
"""


def connect_as(path: Path, *identity: str) -> socket.socket:
    """Open a connection to the socket as another user; this process holds it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        python = [os.path.realpath(sys.executable), "-I", "-c", CONNECT]
        argv = ["setpriv", *identity, "--", *python, str(path), str(theirs.fileno())]
        subprocess.run(argv, pass_fds=[theirs.fileno()], check=True)
        _, (descriptor,), _, _ = socket.recv_fds(ours, 2, 1)
    return socket.socket(fileno=descriptor)


@asynccontextmanager
async def talking(connection: socket.socket) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Hold a connection open for as long as the block runs, with a time limit."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.close()


async def ask_as(path: Path, method: str, target: str, body: object = None, *identity: str, **headers: str) -> Answer:
    """Send one request as another user (by default a member of the group) and read the whole response."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"{method} {target} HTTP/1.1", "Host: d", "Connection: close", f"Content-Length: {len(content)}", *lines]
    async with talking(connect_as(path, *(identity or MEMBER))) as (reader, writer):
        writer.write("\r\n".join([*head, "", ""]).encode() + content)
        return parse_answer(await reader.read())


def parse_answer(data: bytes) -> Answer:
    """Parse a response that ended with its connection."""
    head, _, content = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    is_json = headers.get("content-type", "").startswith("application/json")
    parsed: Any = json.loads(content) if is_json else content
    return Answer(HTTPStatus(int(status.split()[1])), headers, parsed)
