"""Sends a part's buffer as a request body, slice by slice, without copying or hashing it again.

The SDK needs `read`, `seek`, `tell` and a length; aiohttp iterates. A repeated request iterates again from the start.
The buffer must not change until the request was answered. If an abandoned connection still flushes an old slice later,
S3 refuses it because of the checksum header.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from amistream.flow.rate_limit import RateLimit
from amistream.values import KIB

SLICE = 512 * KIB


class Body:
    """One part, or one chunk of it. Calls `on_slice(n)` when the connection has taken `n` more bytes.

    With a `limit` each slice first waits for its turn.
    """

    def __init__(self, data: memoryview, on_slice: Callable[[int], None], limit: RateLimit | None = None) -> None:
        self._data = data
        self._limit = limit
        self._on_slice = on_slice
        self._position = 0
        self.sent = False
        """True once the last iteration handed over every byte: from then on the server may act on the request."""

    def __len__(self) -> int:
        return len(self._data)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        self.sent = False
        size = self._limit.slice_size if self._limit else SLICE
        for start in range(0, len(self._data), size):
            piece = self._data[start : start + size]
            if self._limit is not None:
                await self._limit.wait_for(len(piece))
                self._on_slice(0)
            # The generator resumes when the transport has room again; only then have bytes moved.
            if start + len(piece) == len(self._data):
                self.sent = True
            yield piece
            self._on_slice(len(piece))

    def read(self, size: int = -1) -> bytes:
        """For signers that hash the body (`sign_payload`)."""
        end = len(self._data) if size < 0 else self._position + size
        piece = bytes(self._data[self._position : end])
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, len(self._data))[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position
