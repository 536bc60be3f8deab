"""A request body that is never copied and never hashed again: slices of a part's buffer, handed to the socket one
by one.

The SDK wants `read`, `seek`, `tell` and a length; aiohttp iterates. A repeated request iterates again from the
start. The buffer must stay as it is until the request has been answered. Should a given-up connection still flush
an old slice later, the checksum header makes S3 refuse what arrives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from amistream.flow.rate_limit import RateLimit
from amistream.values import KIB

SLICE = 512 * KIB


class Body:
    """One part, or one chunk of it. `on_slice(n)` is called when `n` more bytes were taken by the connection.

    With a `limit` each slice first waits for its turn.
    """

    def __init__(self, data: memoryview, on_slice: Callable[[int], None], limit: RateLimit | None = None) -> None:
        self._data = data
        self._limit = limit
        self._on_slice = on_slice
        self._position = 0
        self.sent = False
        """Whether every byte of the newest iteration was handed over: the server may act on the request now."""

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
            # The generator is resumed once the transport has room again: only then has anything moved.
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
