"""The discarding sink: what it answers, in whatever pieces a request comes, and its simulated link."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from benchmarks.sink import Line, Link, SinkProtocol, Stats
from benchmarks.sink_process import running_sink

PUT = b"PUT /b/image.part.00 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
MANIFEST = b"PUT /b/image.manifest.xml HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
HEAD = b"HEAD /b HTTP/1.1\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps the written bytes, and records a request to stop reading."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


def feed(protocol: SinkProtocol, data: bytes, step: int) -> None:
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        protocol.get_buffer(-1)[: len(piece)] = piece
        protocol.buffer_updated(len(piece))


def connection(link: Link | None = None) -> tuple[SinkProtocol, FakeTransport, Stats]:
    stats, transport = Stats(), FakeTransport()
    protocol = SinkProtocol(link or Link(shared=Line(0)), stats, {})
    protocol.connection_made(transport)
    return protocol, transport, stats


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_requests_in_any_pieces(step: int) -> None:
    """Requests behind one another are answered in order, however the bytes are cut."""
    protocol, transport, stats = connection()
    feed(protocol, PUT + MANIFEST + HEAD, step)
    heads = [line for line in transport.written.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert heads == [b"HTTP/1.1 100 Continue", *[b"HTTP/1.1 200 OK"] * 3]
    assert (stats.requests, stats.objects, stats.object_bytes, stats.manifest_bytes) == (3, 2, 8, 3)


@pytest.mark.parametrize(
    ("line", "status", "content"),
    [
        ("HEAD /b", b"200", b"x-amz-bucket-region: us-east-1"),
        ("HEAD /b/key", b"404", b""),
        ("GET /b/key", b"404", b"NoSuchKey"),
        ("GET /b?ownershipControls", b"404", b"OwnershipControlsNotFoundError"),
        ("GET /b?encryption", b"404", b"ServerSideEncryptionConfigurationNotFoundError"),
        ("GET /b?list-type=2&prefix=image", b"200", b"<KeyCount>0</KeyCount>"),
        ("GET /b?uploads&prefix=image", b"200", b"<ListMultipartUploadsResult>"),
        ("DELETE /b/key", b"204", b""),
        ("POST /b/key?uploads", b"200", b"<UploadId>"),
        ("POST /b/key?uploadId=upload", b"200", b"<CompleteMultipartUploadResult>"),
        ("GET /-/stats", b"200", b'"requests": 1'),
    ],
)
async def test_answers(line: str, status: bytes, content: bytes) -> None:
    """Each request of a client gets what S3 would say of a bucket with nothing in it."""
    protocol, transport, _ = connection()
    feed(protocol, f"{line} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode(), 1000)
    assert transport.written.startswith(b"HTTP/1.1 " + status)
    assert content in transport.written


async def ask(protocol: SinkProtocol, transport: FakeTransport, line: str, *fields: str, body: bytes = b"") -> bytes:
    """Send a request and give back what is answered."""
    transport.written = b""
    head = "\r\n".join([f"{line} HTTP/1.1", f"Content-Length: {len(body)}", *fields, "", ""])
    feed(protocol, head.encode() + body, 1000)
    return transport.written


async def test_what_was_put_is_told() -> None:
    """HEAD of an object gives its size and the checksum of its upload, until it is deleted."""
    protocol, transport, _ = connection()
    await ask(
        protocol, transport, "PUT /b/image.part.00", "x-amz-checksum-sha1: qUiQTy8PR5uPgZdpSzAYSw0u0cE=", body=b"hello"
    )
    for path in ("/b/image.part.00", "/b/image.part.00?versionId=1"):
        reply = await ask(protocol, transport, f"HEAD {path}")
        assert reply.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n")
        assert b"\r\nx-amz-checksum-sha1: qUiQTy8PR5uPgZdpSzAYSw0u0cE=\r\n" in reply
        assert reply.endswith(b"\r\n\r\n")
    assert (await ask(protocol, transport, "HEAD /b/image.part.01")).startswith(b"HTTP/1.1 404")
    await ask(protocol, transport, "DELETE /b/image.part.00")
    assert (await ask(protocol, transport, "HEAD /b/image.part.00")).startswith(b"HTTP/1.1 404")


async def test_what_was_put_in_chunks_is_told() -> None:
    """An object that came in chunks has the size of all of them, and no checksum is made up for it."""
    protocol, transport, _ = connection()
    for _ in range(2):
        await ask(protocol, transport, "POST /b/k?uploads")
        for number, chunk in enumerate((b"hello", b"you"), 1):
            line = f"PUT /b/k?partNumber={number}&uploadId=upload"
            await ask(protocol, transport, line, "x-amz-checksum-sha1: x", body=chunk)
        await ask(protocol, transport, "POST /b/k?uploadId=upload")
        reply = await ask(protocol, transport, "HEAD /b/k")
        assert reply.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n")
        assert b"checksum" not in reply


async def test_a_body_needs_a_length() -> None:
    """A chunked body is refused, as S3 refuses it."""
    protocol, transport, _ = connection()
    feed(protocol, b"PUT /b/key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 1000)
    assert transport.written.startswith(b"HTTP/1.1 411")


async def test_a_head_without_end_is_cut_off() -> None:
    """A client that never ends its headers does not fill the memory."""
    protocol, transport, _ = connection()
    feed(protocol, b"x" * 100_000, 10_000)
    assert transport.aborted


def test_the_link_is_shared_and_exact() -> None:
    """All readers share one rate, and idle time is not saved up."""
    now = 100.0
    line = Line(1000, lambda: now)
    assert line.wait_after(500) == pytest.approx(0.5)
    assert line.wait_after(500) == pytest.approx(1.0)
    now = 200.0
    assert line.wait_after(1000) == pytest.approx(1.0)


async def test_the_link_stops_the_reading() -> None:
    """A connection that read more than the link carries reads on when the link has carried it."""
    protocol, transport, _ = connection(Link(shared=Line(1000)))
    feed(protocol, PUT[:50], 50)
    assert not transport.reading
    resumed = asyncio.Event()
    transport.resume_reading = resumed.set  # type: ignore[method-assign]
    await resumed.wait()


@pytest.mark.parametrize("https", [False, True])
def test_curl_uploads_to_it(tmp_path: Path, https: bool) -> None:
    """A foreign client can store an object, over both protocols; the process ends with the block."""
    body = tmp_path / "image.part.00"
    body.write_bytes(bytes(3_000_000))
    with running_sink(tmp_path, https=https) as running:
        trust = ["--cacert", str(running.ca)] if running.ca else []
        subprocess.run(
            ["curl", "--silent", "--fail", *trust, "--upload-file", str(body), f"{running.url}/b/"],
            check=True,
            timeout=60,
        )
        stats = running.stats()
    assert (stats["objects"], stats["object_bytes"]) == (1, 3_000_000)
