"""The real server of the page in front of a daemon's socket, and a client that is admitted like a browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from amistream.aws.session import Aws
from amistream.settings import Settings
from amistream.web.bundles import Shelves
from amistream.web.feed import Feed
from amistream.web.guard import KEY_HEADER
from amistream.web.queue import FleetQueue
from amistream.web.server import Page, make_app, open_listener, serving
from amistream.web.token import Admission


@dataclass
class Served:
    """A running page. `url` ends without a slash; `key` is known once the token was used."""

    page: Page
    url: str
    session: aiohttp.ClientSession
    key: str = ""

    @property
    def address(self) -> str:
        """The address that the command prints."""
        return f"{self.url}/?token={self.page.admission.token}"

    async def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Send a request with the secrets that are known; return the status and the JSON or text."""
        sent = {KEY_HEADER: self.key} if self.key else {}
        if method == "POST":
            sent["Origin"] = self.url
        url = URL(f"{self.url}{path}", encoded=True)
        async with self.session.request(method, url, headers={**sent, **headers}) as response:
            text = await response.text()
            body = json.loads(text) if response.content_type == "application/json" else text
            return response.status, body, response

    async def enter(self) -> None:
        """Open the address, and keep its cookie and its key, as the page does."""
        status, text, _ = await self.ask("GET", f"/?token={self.page.admission.token}")
        assert status == 200
        self.key = text.partition('name="page-key" content="')[2].partition('"')[0]
        assert self.key

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        async with self.session.get(f"{self.url}/api/jobs", headers={KEY_HEADER: self.key}) as response:
            assert response.status == 200, await response.text()
            yield Stream(response.content)


@dataclass
class Stream:
    """The messages of an open page, and the jobs that it knows by them."""

    lines: aiohttp.StreamReader
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.lines.readline())
        for job in message.get("jobs", ()):
            self.jobs[job["id"]] = job
        for job_id in message.get("gone", ()):
            del self.jobs[job_id]
        return message

    async def until_state(self, job_id: str, state: str) -> dict[str, Any]:
        """Read messages until the job is in that state."""
        while self.jobs.get(job_id, {}).get("state") != state:
            await self.next()
        return self.jobs[job_id]


@asynccontextmanager
async def serving_page(
    socket: Path,
    *,
    settings: Settings | None = None,
    buckets: tuple[str, ...] = (),
    queue: str = "",
    results: str = "",
    look_every_s: float = 0.05,
    pace_s: float = 0.0,
) -> AsyncIterator[Served]:
    """Serve the page of the daemon at `socket`, quicker than it usually looks, on any free port."""
    settings = settings or Settings()
    with open_listener(0) as listener:
        port = listener.getsockname()[1]
        async with Aws(settings) as aws:
            page = Page(
                admission=Admission(),
                socket=socket,
                feed=Feed(socket, look_every_s=look_every_s, pace_s=pace_s),
                shelves=Shelves(buckets, settings, aws),
                queue=FleetQueue(queue, results, settings, aws),
                cookie_name=f"amistream-{port}",
            )
            # The cookie jar of a client takes none from an IP address, unless it is told to.
            async with (
                aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session,
                serving(make_app(page), listener),
            ):
                yield Served(page, f"http://127.0.0.1:{port}", session)
