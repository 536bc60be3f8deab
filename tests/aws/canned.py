"""A server that answers every request with one reply, byte for byte as AWS words its errors.

The fault proxy's `Answer` says code and message only; these replies have all that the real ones have beside them:
S3 repeats the signed request in some, STS even in the message. `PRIVATE` is what no message of ours may hold.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Self
from xml.sax.saxutils import escape

from support.http1 import READ_LIMIT, HttpError, read_body, read_head

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SIGNATURE = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
TOKEN = "IQoJb3JpZ2luX2VjEOz//////////wEaCXVzLWVhc3QtMSJHMEUCIQDv0EXAMPLE/TOKEN+="
REQUEST_ID = "4442587FB7D0A2F9"
HOST_ID = "2oJnQ1hFkPDV6lbcYMTGHZLQBc5Ov5S9EXAMPLE/HOST+ID="
ENCODED = "4GIOHlTkIaWHQD0Q0m6XSnuUMCm-abcdefghijklmn-abcdefghijklmn-abcdefghijklmn"
PRIVATE = (ACCESS_KEY, SIGNATURE, TOKEN, REQUEST_ID, HOST_ID, ENCODED, "AWS4-HMAC-SHA256", "x-amz-security-token")

CANONICAL = (
    f"POST\n/\n\ncontent-type:application/x-www-form-urlencoded\nx-amz-security-token:{TOKEN}\n\n"
    f"content-type;x-amz-security-token\n{SIGNATURE}"
)
TO_SIGN = f"AWS4-HMAC-SHA256\n20261122T120000Z\n20261122/eu-west-1/s3/aws4_request\n{SIGNATURE}"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`body` is left out of the answer to HEAD, as it must be."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, method: str) -> bytes:
        body = b"" if method == "HEAD" else self.body.encode()
        headers = {
            "x-amz-request-id": REQUEST_ID,
            "x-amz-id-2": HOST_ID,
            "Date": formatdate(usegmt=True),
            "Content-Type": "application/xml",
            "Content-Length": str(len(body)),
            "Server": "AmazonS3",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


def error_body(service: str, code: str, message: str, **more: str) -> str:
    """The body of an error of `service`; `more` are the elements that only this error has (S3).

    The code of an error of `ebs` may have a reason behind a dot.
    """
    if service == "ebs":
        kind, _, reason = code.partition(".")
        return json.dumps({"__type": kind, "Message": message, **({"Reason": reason} if reason else {})})
    if service in {"sqs", "events"}:
        return json.dumps({"__type": f"com.amazonaws.{service}#{code}", "message": message})
    said = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    first = '<?xml version="1.0" encoding="UTF-8"?>\n'
    if service == "ec2":
        return f"{first}<Response><Errors><Error>{said}</Error></Errors><RequestID>{REQUEST_ID}</RequestID></Response>"
    if service in {"sts", "sns"}:
        inner = f"<Type>Sender</Type>{said}"
        where = f"https://{service}.amazonaws.com/doc/2011-06-15/"
        return (
            f'<ErrorResponse xmlns="{where}"><Error>{inner}</Error><RequestId>{REQUEST_ID}</RequestId></ErrorResponse>'
        )
    beside = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in more.items())
    return f"{first}<Error>{said}{beside}<RequestId>{REQUEST_ID}</RequestId><HostId>{HOST_ID}</HostId></Error>"


class Canned:
    """`async with Canned(reply) as server:` and talk to `server.url`; `reply` may be changed at any time.

    Bytes are sent at once, whatever comes, and the connection is ended; None keeps every client waiting.
    """

    def __init__(self, reply: Reply | bytes | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.reply = reply
        self._tls = tls
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, limit=READ_LIMIT)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with suppress(HttpError, OSError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            # Only `__aexit__` cancels, and start_server would report it as an error.
            pass
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.reply, bytes):
            writer.write(self.reply)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        while head := await read_head(reader):
            if head.expects_continue:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async for _ in read_body(reader, head.request_framing()):
                pass
            if not isinstance(self.reply, Reply):
                await asyncio.get_running_loop().create_future()
            else:
                writer.write(self.reply.encode(head.first_line[0]))
                await writer.drain()
