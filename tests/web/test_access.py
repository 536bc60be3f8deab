"""The page is for one browser on this machine: everything else is refused before it sees anything."""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

import aiohttp

from amistream.web.connections import BACKLOG, MOST
from amistream.web.guard import KEY_HEADER
from daemon.rig import Daemon
from web.rig import Served

ASSETS = files("amistream.web") / "assets"


async def test_a_token_works_once(served: Served) -> None:
    """The token buys a session for one browser; a second one gets nothing, with it or with another."""
    for path in ("/", "/page.js", "/page.css", "/api/jobs", "/api/queue", "/?token=wrong", "/?token=", "/?token=%ff"):
        status, body, _ = await served.ask("GET", path)
        assert status == 403, path
        assert "amistream web" in (body if isinstance(body, str) else body["error"]["hint"])

    _, _, response = await served.ask("GET", served.address.removeprefix(served.url))
    (cookie,) = response.headers.getall("Set-Cookie")
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "SameSite=Strict", "Path=/"}

    assert (await served.ask("GET", "/"))[0] == 200
    status, again, _ = await served.ask("GET", served.address.removeprefix(served.url))
    assert status == 200
    assert 'name="page-key" content=""' in again, "the key is given once"
    served.session.cookie_jar.clear()
    assert (await served.ask("GET", served.address.removeprefix(served.url)))[0] == 403


async def test_cookie_and_key_are_both_required(served: Served) -> None:
    """The cookie, which servers of other ports may see, answers nothing without the key, and the key nothing alone."""
    await served.enter()
    assert (await served.ask("GET", "/api/queue"))[0] == 200
    key, served.key = served.key, ""
    assert (await served.ask("GET", "/api/queue"))[0] == 403
    served.key = key[:-1] + "é"
    assert (await served.ask("GET", "/api/queue"))[0] == 403
    served.key = key
    served.session.cookie_jar.clear()
    assert (await served.ask("GET", "/api/queue"))[0] == 403


FOREIGN = [
    ("GET", {"Host": "rebound.example"}),
    ("GET", {"Host": "127.0.0.1.rebound.example:80"}),
    ("GET", {"Host": "localhost:80@rebound.example"}),
    ("GET", {"Host": ""}),
    ("GET", {"Origin": "http://other.example"}),
    ("GET", {"Origin": "http://127.0.0.1:1"}),
    ("GET", {"Sec-Fetch-Site": "cross-site"}),
    ("GET", {"Sec-Fetch-Site": "same-site"}),
    ("GET", {"Sec-Fetch-Site": "none"}),
    ("POST", {"Origin": "null"}),
    ("POST", {"Origin": "http://localhost:1"}),
    ("POST", {"Sec-Fetch-Site": "cross-site"}),
]


async def test_foreign_requests_are_refused(served: Served, daemon: Daemon) -> None:
    """A request by another name, from another page, or caused by one, is refused although it has both secrets."""
    await served.enter()
    job = await daemon.submit_and_begin()
    for method, headers in FOREIGN:
        path = f"/api/jobs/{job.id}" + ("/cancel" if method == "POST" else "")
        status, body, _ = await served.ask(method, path, **headers)
        assert (status, body["error"]["code"].partition(".")[0]) == (403, "web"), headers
    assert not job.cancel_requested
    status, _, _ = await served.ask("GET", f"/api/jobs/{job.id}", Host="localhost:9", Origin="http://localhost:9")
    assert status == 200, "a tunnel has a port of its own"


async def test_nothing_but_the_page_is_served(served: Served, daemon: Daemon) -> None:
    """There is no way to the daemon's other requests, no method but GET and POST, and no change by GET."""
    await served.enter()
    job = await daemon.submit_and_begin()
    for method, path, status in (
        ("POST", "/api/jobs", 405),
        ("GET", f"/api/jobs/{job.id}/cancel", 405),
        ("GET", "/api/jobs/..%2Fhealth", 404),
        ("GET", "/assets/index.html", 404),
        ("GET", "/api/buckets/7", 404),
    ):
        assert (await served.ask(method, path))[0] == status, path
    for method in ("DELETE", "PUT", "OPTIONS"):
        assert (await served.ask(method, f"/api/jobs/{job.id}", Origin=served.url))[0] == 405
    assert not job.cancel_requested


async def test_every_response_is_hardened(served: Served) -> None:
    """Files, answers, refusals and errors forbid caching, framing, and any content but the page's own."""
    refused = await served.ask("GET", "/")
    await served.enter()
    good = [await served.ask("GET", path) for path in ("/", "/page.css", "/page.js", "/api/buckets", "/none")]
    for _, _, response in [refused, *good]:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = dict(rule.strip().split(" ", 1) for rule in response.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "ython" not in response.headers["Server"]


async def test_nobody_keeps_the_browser_out(served: Served) -> None:
    """Other users of the machine may hold as many connections as they like: the browser gets one, and keeps its own."""
    await served.enter()
    port = int(served.url.rpartition(":")[2])
    strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST + 8)]
    for _, writer in strangers:
        writer.write(b"GET / HTTP/1.1\r\nHost: 127")
    async with aiohttp.ClientSession(cookie_jar=served.session.cookie_jar) as another:
        response = await another.get(f"{served.url}/api/buckets", headers={KEY_HEADER: served.key})
        assert response.status == 200
    assert (await served.ask("GET", "/api/buckets"))[0] == 200
    assert await strangers[0][0].read() == b"", "the oldest went"
    for _, writer in strangers:
        writer.close()


async def test_many_who_connect_at_once(served: Served) -> None:
    """Connections that come together take the places of as many others: their number stays bounded."""
    await served.enter()
    port = int(served.url.rpartition(":")[2])
    strangers = []
    for _ in range(2 * MOST // BACKLOG):
        strangers += await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(BACKLOG)))
    async with asyncio.timeout(10):
        ends = [await reader.read() for reader, _ in strangers[: len(strangers) - MOST - BACKLOG]]
    assert not any(ends), "the oldest went"
    assert (await served.ask("GET", "/api/buckets"))[0] == 200
    for _, writer in strangers:
        writer.close()


def test_the_files_are_whole_and_safe() -> None:
    """The page loads nothing from elsewhere, has no script or style within it, and makes no markup of text."""
    html, css, js = ((ASSETS / name).read_text() for name in ("index.html", "page.css", "page.js"))
    assert re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', html) == ["page.css", "page.js"]
    assert re.search(r"<style|\bstyle=|\bon\w+=|<script>|javascript:", html) is None
    assert "url(" not in css
    assert "@import" not in css
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "://"):
        assert forbidden not in js
