"""As much of HTTP/1.1 as a proxy on loopback needs: heads, and bodies passed on as they stand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_LIMIT = 256 * 1024
NO_BODY_STATUS = (204, 304)


class HttpError(Exception):
    """A peer ended in the middle of a message, or sent something that is not HTTP/1.1."""


class Framing(Enum):
    """The end of a body without a length."""

    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


@dataclass(frozen=True)
class Head:
    """The first line and the headers (names in lower case) of a message, and the bytes they came in."""

    raw: bytes
    first_line: tuple[str, str, str]
    headers: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.first_line[1])

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"

    @property
    def keeps_alive(self) -> bool:
        return "HTTP/1.1" in self.first_line and self.headers.get("connection", "").lower() != "close"

    def closing(self) -> bytes:
        """Return the bytes of this head with the promise to close the connection."""
        return self.raw if not self.keeps_alive else self.raw[:-2] + b"Connection: close\r\n\r\n"

    def request_framing(self) -> int | Framing:
        return self._framing(otherwise=0)

    def reply_framing(self, method: str) -> int | Framing:
        if method == "HEAD" or self.status in NO_BODY_STATUS:
            return 0
        return self._framing(otherwise=Framing.UNTIL_CLOSE)

    def _framing(self, otherwise: int | Framing) -> int | Framing:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return Framing.CHUNKED
        length = self.headers.get("content-length")
        return otherwise if length is None else int(length)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read one head; None when the peer has closed before its first byte."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise HttpError(f"the peer closed in a head: {error.partial!r}") from None
        return None
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ", 2)
    if len(words) != 3:
        raise HttpError(f"not a head: {first!r}")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Head(raw=raw, first_line=(words[0], words[1], words[2]), headers=headers)


async def read_body(
    reader: asyncio.StreamReader, framing: int | Framing, piece: int = READ_LIMIT
) -> AsyncIterator[bytes]:
    """Yield a body as it stands on the wire, chunk sizes and trailers included."""
    if isinstance(framing, int):
        async for data in _exactly(reader, framing, piece):
            yield data
        return
    if framing is Framing.UNTIL_CLOSE:
        while data := await reader.read(piece):
            yield data
        return
    size = -1
    while size != 0:
        line = await _line(reader)
        yield line
        size = int(line.split(b";")[0], 16)
        if size:
            async for data in _exactly(reader, size + 2, piece):
                yield data
    while (line := await _line(reader)) != b"\r\n":
        yield line
    yield line


async def _exactly(reader: asyncio.StreamReader, size: int, piece: int) -> AsyncIterator[bytes]:
    while size > 0:
        data = await reader.read(min(size, piece))
        if not data:
            raise HttpError(f"the peer closed {size} bytes before the end of a body")
        size -= len(data)
        yield data


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise HttpError("the peer closed in a chunked body")
    return line
