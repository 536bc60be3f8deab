"""An instance's metadata service that speaks IMDSv2 only, or IMDSv1 only, for as long as a test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import pytest


@asynccontextmanager
async def instance(
    data: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, *, no_tokens: int = 0
) -> AsyncIterator[None]:
    """Answer with `data`, by path below meta-data, and 404 for the rest; the SDKs' variable names the place.

    `no_tokens` is the status with which a service of version 1 refuses to give a token.
    """

    async def token(request: web.Request) -> web.Response:
        if no_tokens:
            return web.Response(status=no_tokens)
        assert request.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
        return web.Response(text="a-token")

    async def get(request: web.Request) -> web.Response:
        if request.headers.get("X-aws-ec2-metadata-token") != (None if no_tokens else "a-token"):
            return web.Response(status=401)
        text = data.get(request.match_info["path"])
        return web.Response(status=404) if text is None else web.Response(text=text)

    app = web.Application()
    app.router.add_put("/latest/api/token", token)
    app.router.add_get("/latest/meta-data/{path:.*}", get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}/")
    try:
        yield
    finally:
        await runner.cleanup()
