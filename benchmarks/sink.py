"""An S3 endpoint that discards all objects: `python -m benchmarks.sink`, in a process of its own.

It answers what amistream and curl ask of a bucket that lists nothing; a bucket may have any name. It is not a server:
no signature is checked, bodies need a Content-Length, and nothing is kept but counters, and of each object its size and
the SHA-1 that it was sent with, which HEAD tells: a job asks for both before it ends. What it costs is little, so that
the client is what is measured. Optionally it stands behind a link of given bandwidth, shared by all connections, and
answers a round trip later.

The port is printed on standard output; the end of standard input ends it, so it never outlives who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

from amistream.values import KIB

STATS_PATH = "/-/stats"
"""GET: the counters as JSON. No bucket can have this name."""

REGION = "us-east-1"
READ_SIZE = 256 * KIB
_HEAD_MAX = 64 * KIB
_LONGEST_BURST_S = 0.01
_REASONS = {200: "OK", 204: "No Content", 404: "Not Found", 411: "Length Required"}
_ETAG = f'"{"0" * 32}"'
_CHECKSUM = "x-amz-checksum-sha1"

Stored = dict[str, tuple[int, str]]
"""Size and checksum, as sent, of each object by path; the checksum of an upload in chunks is unknown: ''."""


@dataclass(slots=True)
class Stats:
    """Counters so far; sizes in bytes."""

    requests: int = 0
    objects: int = 0
    object_bytes: int = 0
    stored: int = 0
    """Objects that were not deleted."""
    manifest_bytes: int = 0
    """Size of the last manifest."""
    cpu_s: float = 0.0
    """CPU seconds of this process, its start included."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head."""

    method: str
    path: str
    query: dict[str, list[str]]
    length: int | None
    checksum: str
    expects_continue: bool

    @classmethod
    def parse(cls, head: bytes) -> Request:
        line, *fields = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        has_body = method in ("PUT", "POST")
        url = urlsplit(target)
        length = int(headers["content-length"]) if "content-length" in headers else (None if has_body else 0)
        return cls(
            method=method,
            path=url.path,
            query=parse_qs(url.query, keep_blank_values=True),
            length=length,
            checksum=headers.get(_CHECKSUM, ""),
            expects_continue=headers.get("expect", "").lower() == "100-continue",
        )

    @property
    def is_object(self) -> bool:
        return bool(self.path.strip("/").partition("/")[2])


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    """Length of the body that a HEAD does not get."""

    def encode(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        lines = [f"HTTP/1.1 {self.status} {_REASONS[self.status]}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def answer(request: Request, stats: Stats, stored: Stored) -> Answer:
    """Answers as S3 would if every bucket existed, with the objects that were put."""
    stats.requests += 1
    if request.path == STATS_PATH:
        stats.cpu_s = time.process_time()
        stats.stored = len(stored)
        return Answer(200, json.dumps(asdict(stats)).encode())
    if request.length is None:
        return Answer(411)
    if request.method == "PUT":
        stats.objects += 1
        stats.object_bytes += request.length
        if request.path.endswith(".manifest.xml"):
            stats.manifest_bytes = request.length
        _keep(request, request.length, stored)
        return Answer(200, headers=(("ETag", _ETAG),))
    if request.method == "DELETE":
        stored.pop(request.path, None)
        return Answer(204)
    if request.method == "POST":
        return _multipart(request, stored)
    if request.is_object:
        return _head(request, stored) if request.method == "HEAD" else _error("NoSuchKey")
    return _bucket(request)


def _keep(request: Request, size: int, stored: Stored) -> None:
    if "partNumber" in request.query:
        stored[request.path] = (stored.get(request.path, (0, ""))[0] + size, "")
    else:
        stored[request.path] = (size, request.checksum)


def _head(request: Request, stored: Stored) -> Answer:
    if request.path not in stored:
        return Answer(404)
    size, checksum = stored[request.path]
    headers = (("ETag", _ETAG), (_CHECKSUM, checksum)) if checksum else (("ETag", _ETAG),)
    return Answer(200, headers=headers, length=size)


def _bucket(request: Request) -> Answer:
    if request.method == "HEAD":
        return Answer(200, headers=(("x-amz-bucket-region", REGION),))
    if "ownershipControls" in request.query:
        return _error("OwnershipControlsNotFoundError")
    if "encryption" in request.query:
        return _error("ServerSideEncryptionConfigurationNotFoundError")
    if "uploads" in request.query:
        return _xml(200, "ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
    return _xml(200, "ListBucketResult", "<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>")


def _multipart(request: Request, stored: Stored) -> Answer:
    if "uploads" in request.query:
        stored.pop(request.path, None)
        return _xml(200, "InitiateMultipartUploadResult", "<UploadId>upload</UploadId>")
    return _xml(200, "CompleteMultipartUploadResult", f"<ETag>{_ETAG}</ETag>")


def _error(code: str) -> Answer:
    return _xml(404, "Error", f"<Code>{code}</Code><Message>{code}</Message>")


def _xml(status: int, name: str, content: str) -> Answer:
    return Answer(status, f"<{name}>{content}</{name}>".encode(), (("Content-Type", "application/xml"),))


class Line:
    """Bytes that pass at `bytes_per_s` (0: no limit)."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def wait_after(self, count: int) -> float:
        """Seconds to pause after `count` bytes were read."""
        if not self._bytes_per_s:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._bytes_per_s
        wait = self._free_at - now
        return wait if wait > _LONGEST_BURST_S else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way to the sink: a line shared by all connections, and for each one an end of its own."""

    shared: Line
    connection_bytes_per_s: float = 0.0
    round_trip_s: float = 0.0
    """Seconds before each answer."""


class SinkProtocol(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, link: Link, stats: Stats, stored: Stored) -> None:
        self._link = link
        self._end = Line(link.connection_bytes_per_s)
        self._stats = stats
        self._stored = stored
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._head = bytearray()
        self._request: Request | None = None
        self._missing = 0
        self._lag = 0.0
        """Seconds until the link has carried what was read last: the answer cannot leave before."""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        wait = max(self._link.shared.wait_after(nbytes), self._end.wait_after(nbytes))
        self._lag = wait
        if wait:
            self._transport.pause_reading()
            self._loop.call_later(wait, self._resume)
        data = self._buffer[:nbytes]
        while data:
            data = self._take_body(data) if self._request else self._take_head(data)

    def _take_body(self, data: memoryview) -> memoryview:
        taken = min(len(data), self._missing)
        self._missing -= taken
        self._answer_when_whole()
        return data[taken:]

    def _take_head(self, data: memoryview) -> memoryview:
        self._head += data
        head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _HEAD_MAX:
                self._transport.abort()
            return data[:0]
        self._head.clear()
        self._request = Request.parse(head)
        self._missing = self._request.length or 0
        if self._request.expects_continue and self._missing:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._answer_when_whole()
        return memoryview(rest)

    def _answer_when_whole(self) -> None:
        if self._request is not None and not self._missing:
            self._write(answer(self._request, self._stats, self._stored).encode())
            self._request = None

    def _write(self, data: bytes) -> None:
        if delay := self._link.round_trip_s + self._lag:
            self._loop.call_later(delay, self._write_now, data)
        else:
            self._write_now(data)

    def _write_now(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()


async def serve(link: Link, context: ssl.SSLContext | None) -> None:
    """Listen on a free port of the loopback until standard input ends."""
    stats = Stats()
    stored: Stored = {}
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    if link.connection_bytes_per_s:
        # What a client has sent must not wait here for long: another connection would count it as sent.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_SIZE)
    server = await loop.create_server(lambda: SinkProtocol(link, stats, stored), sock=listening, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="speak HTTPS with this pair, PEM")
    parser.add_argument("--bytes-per-s", type=float, default=0.0, help="bandwidth of the link; 0: no limit")
    parser.add_argument("--connection-bytes-per-s", type=float, default=0.0, help="of each connection; 0: no limit")
    parser.add_argument("--round-trip-s", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args(arguments)
    context = None
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*options.tls)
    link = Link(
        shared=Line(options.bytes_per_s),
        connection_bytes_per_s=options.connection_bytes_per_s,
        round_trip_s=options.round_trip_s,
    )
    uvloop.run(serve(link, context))


if __name__ == "__main__":
    main()
