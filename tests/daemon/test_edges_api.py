"""Invalid use of the API: wrong paths, methods and bodies; and bugs. Every error has the contract's shape."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from amistream.cli.client import Client
from amistream.errors import NotFoundError
from daemon.rig import StartDaemon, request_for

LIMIT = 64 * 1024


def padded(request: dict[str, Any], size: int) -> bytes:
    """Make a request of exactly `size` bytes of JSON."""
    text = json.dumps(request).encode()
    return text + b" " * (size - len(text))


async def test_unknown_path(start_daemon: StartDaemon) -> None:
    """An unknown path is 404."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", "/v2/jobs")
        assert (answer.status, answer.error["code"]) == (404, "http.unknown_path")


@pytest.mark.parametrize(
    "path", ["/v1/jobs/%ff", "/v1/jobs/%ed%a0%80", "/%ff", "/v1/jobs/%2e%2e", "/v1/jobs/a%2Fb", "//"]
)
async def test_strange_path(start_daemon: StartDaemon, path: str) -> None:
    """A path that is not text, or that climbs, is 404."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", path)
        assert answer.status == 404
        assert answer.error["message"].startswith("cannot find")


async def test_wrong_method_lists_the_right_ones(start_daemon: StartDaemon) -> None:
    """A method that a path does not support is 405 with Allow."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("PUT", "/v1/jobs")
        assert (answer.status, answer.error["code"]) == (405, "http.method")
        assert set(answer.headers["Allow"].split(",")) == {"GET", "POST"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "request.not_json"),
        (b"{", 400, "request.not_json"),
        (b"\xff\xfe", 400, "request.not_json"),
        (b"[" * 60_000, 400, "request.not_json"),
        (b"1" * 5_000, 400, "request.not_json"),
        (b"[]", 422, "request.not_object"),
        (b"null", 422, "request.not_object"),
        (b"{}", 422, "request.invalid"),
        (b'{"source": "/a", "destinations": ["/b"], "colour": 1}', 422, "request.unknown_field"),
        (b'{"source": "a", "destinations": ["/b"]}', 422, "request.invalid"),
        (b'{"source": "/\\ud800", "destinations": ["/b"]}', 400, "request.not_json"),
    ],
    ids=[
        "empty",
        "cut off",
        "not UTF-8",
        "too deep",
        "too long a number",
        "list",
        "null",
        "nothing in it",
        "unknown field",
        "relative path",
        "half a character",
    ],
)
async def test_body_that_is_no_request(start_daemon: StartDaemon, body: bytes, status: int, code: str) -> None:
    """A body that is not a valid request is refused and makes no job."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("POST", "/v1/jobs", data=body)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert daemon.queue.jobs() == []


async def test_unknown_field_is_named(start_daemon: StartDaemon) -> None:
    """The error names the unknown field."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("POST", "/v1/jobs", json={**request_for("a"), "colour": "red"})
        assert (answer.status, answer.error["field"]) == (422, "colour")


async def test_unknown_query_parameter_is_named(start_daemon: StartDaemon) -> None:
    """A misspelt query parameter is refused instead of ignored."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", "/v1/jobs?sate=done")
        assert (answer.status, answer.error["field"]) == (422, "sate")


async def test_largest_body_is_taken(start_daemon: StartDaemon) -> None:
    """A body of exactly 64 KiB is accepted."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("POST", "/v1/jobs", data=padded(request_for("a"), LIMIT))
        assert answer.status == 202


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_larger_body_is_refused(start_daemon: StartDaemon, chunked: bool) -> None:
    """A body of 64 KiB and one byte is 413, with and without a Content-Length."""

    async def chunks() -> AsyncIterator[bytes]:
        yield padded(request_for("a"), LIMIT)
        yield b" "

    async with start_daemon() as daemon:
        body = chunks() if chunked else padded(request_for("a"), LIMIT + 1)
        answer = await daemon.ask("POST", "/v1/jobs", data=body)
        assert (answer.status, answer.error["code"]) == (413, "http.too_large")
        assert daemon.queue.jobs() == []


async def test_body_nobody_asked_for_is_bounded_too(start_daemon: StartDaemon) -> None:
    """An endpoint that takes no body refuses a large one, too."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", "/v1/health", data=b" " * (LIMIT + 1))
        assert answer.status == 413


async def test_bug_is_reported_without_its_text(start_daemon: StartDaemon) -> None:
    """An unexpected exception is 500, and its text appears in the log only."""

    async def stumble(_: web.Request) -> web.Response:
        raise ValueError("the secret is sesame")

    async with start_daemon(extra=lambda app: app.router.add_get("/stumble", stumble)) as daemon:
        answer = await daemon.ask("GET", "/stumble")
        assert (answer.status, answer.error["code"]) == (500, "internal.bug")
        assert "sesame" not in str(answer.body)


async def test_other_refusals_of_http_keep_the_shape(start_daemon: StartDaemon) -> None:
    """Refusals by aiohttp itself have the same shape."""

    async def refuse(_: web.Request) -> web.Response:
        raise web.HTTPNotAcceptable

    async with start_daemon(extra=lambda app: app.router.add_get("/refuse", refuse)) as daemon:
        answer = await daemon.ask("GET", "/refuse")
        assert (answer.status, answer.error["code"]) == (406, "http.refused")


POST = b"POST /v1/jobs HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
GET = b"GET /v1/health HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
BODY = b"Content-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (POST + b"Content-Encoding: gzip\r\n" + BODY, 400, "request.encoding"),
        (POST + b"Content-Encoding: deflate\r\n" + BODY, 400, "http.malformed"),
        (POST + b"Content-Encoding: br\r\n" + BODY, 400, "http.malformed"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", 400, "http.malformed"),
        (POST + b"Transfer-Encoding: strange\r\n\r\n", 400, "http.malformed"),
        (POST + b"Transfer-Encoding: chunked\r\n" + BODY, 400, "http.malformed"),
        (POST + b"Content-Length: x\r\n\r\n", 400, "http.malformed"),
        (GET + b"Expect: a miracle\r\n\r\n", 417, "http.refused"),
        (GET.replace(b"v1/health", b"nowhere") + b"Expect: x\r\n\r\n", 417, "http.refused"),
        (GET + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 400, "http.malformed"),
        (b"what is this\r\n\r\n", 400, "http.malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "http.malformed"),
    ],
    ids=lambda value: value[:0].decode() if isinstance(value, bytes) else str(value),
)
async def test_what_the_http_library_refuses(start_daemon: StartDaemon, sent: bytes, status: int, code: str) -> None:
    """A request that is no HTTP, or of an encoding it does not have, is refused in the form of every other error."""
    async with start_daemon() as daemon:
        reader, writer = await asyncio.open_unix_connection(daemon.path)
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] == b"%d" % status, head
        assert b"application/json" in head
        error = json.loads(body)["error"]
        assert (error["code"], error["message"].startswith("cannot ")) == (code, True)
        assert "\n" not in error["message"]


async def test_a_job_id_that_is_no_text(start_daemon: StartDaemon) -> None:
    """A job id of a command line that is not UTF-8 is the id of no job."""
    async with start_daemon() as daemon, Client(daemon.path) as client:
        for ask in (client.get, client.cancel, client.resume):
            with pytest.raises(NotFoundError, match="cannot find"):
                await ask(os.fsdecode(b"\xff"))
