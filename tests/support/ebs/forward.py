"""Passes requests of `s3` on to a real S3 endpoint, so that one URL serves jobs that read a bundle and make a snapshot.

The Host header passes too: the signature was made for it.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
PIECE = 256 * 1024


class Forward:
    """Requests to endpoints behind this one."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None

    def _open(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(limit=0),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session

    async def answer(self, request: web.BaseRequest, to: str) -> web.StreamResponse:
        """Send a request on as it stands, and its answer back."""
        parts = urlsplit(to)
        url = URL(f"{parts.scheme}://{parts.netloc}{request.raw_path}", encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP]
        body = request.content if request.body_exists else None
        async with self._open().request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as found:
            reply = web.StreamResponse(status=found.status, reason=found.reason)
            for name, value in found.headers.items():
                if name.lower() not in _OF_ONE_HOP:
                    reply.headers.add(name, value)
            await reply.prepare(request)
            async for piece in found.content.iter_chunked(PIECE):
                await reply.write(piece)
            await reply.write_eof()
            return reply
