"""The page sees the daemon's jobs as they change, and passes on what its user asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from amistream.aws.session import Aws
from amistream.cli.client import Client
from amistream.settings import Settings
from amistream.web.bundles import Shelves
from amistream.web.feed import Feed
from amistream.web.queue import FleetQueue
from amistream.web.server import Page, wait_unused
from amistream.web.token import Admission
from daemon.rig import Daemon, progress, running_app
from support.loop import TidyLoop
from web.rig import Served, serving_page


async def test_a_job_is_followed_to_its_end(served: Served, daemon: Daemon) -> None:
    """A page gets all jobs, then those that change: progress with its rates, and the end without its stages."""
    await served.enter()
    early = await daemon.submit_and_begin("a")
    async with served.stream() as stream:
        first = await stream.next()
        assert first["everything"]
        assert first["daemon"]["jobs_running"] == 1
        assert [job["source"] for job in first["jobs"]] == ["/volumes/a"]

        late = await daemon.submit_and_begin("b")
        await stream.until_state(late.id, "checking")
        late.report(progress(500))
        while not (stream.jobs[late.id]["progress"] or {}).get("bytes_done"):
            await stream.next()
        async with served.stream() as second:  # a page that is loaded again has the rates so far
            assert (await second.next())["rates"] == {late.id: [[1.0, 500.0]]}

        await daemon.script.end(late)
        row = await stream.until_state(late.id, "done")
        assert row["result"] == {"manifest": "/bundles/a/image.manifest.xml", "image_size": 1000, "bundled_size": 400}
        assert "progress" not in row
        status, whole, _ = await served.ask("GET", f"/api/jobs/{late.id}")
        assert (status, whole["result"]["parts"]) == (200, 1)
        status, log, _ = await served.ask("GET", f"/api/jobs/{late.id}/log")
        assert (status, log["id"]) == (200, late.id)
        assert not early.state.ended


async def test_a_page_does_not_go_back(served: Served, daemon: Daemon) -> None:
    """The events of the past, with which a job's stream begins, are older than the list: they take back nothing."""
    await served.enter()
    job = await daemon.submit_and_begin()
    job.note("a")
    job.report(progress(100))
    async with served.stream() as stream:
        await stream.next()
        while job.id not in served.page.feed._followed:
            await stream.next()
        job.report(progress(900).model_copy(update={"elapsed_s": 3.0}))
        while stream.jobs[job.id]["progress"]["bytes_done"] != 900:  # there is progress in each
            await stream.next()
    assert served.page.feed._rates[job.id][0] == (1.0, 100.0), "the chart is kept"


async def test_jobs_are_cancelled_and_resumed(served: Served, daemon: Daemon) -> None:
    """A cancel and a resume reach the daemon, and its refusals come back with their reason."""
    await served.enter()
    job = await daemon.submit_and_begin()
    async with served.stream() as stream:
        assert (await served.ask("POST", f"/api/jobs/{job.id}/cancel"))[0] == 202
        await stream.until_state(job.id, "cancelled")
    status, body, _ = await served.ask("POST", f"/api/jobs/{job.id}/resume")
    assert (status, body["error"]["code"]) == (409, "job.not_resumable")
    status, body, _ = await served.ask("POST", "/api/jobs/%3Cb%3E/cancel")
    assert (status, body["error"]["code"]) == (404, "job.unknown")


async def test_a_daemon_that_goes_and_comes_back(tmp_path: Path) -> None:
    """Without a daemon the page says why and how to start it; with it all jobs come, and stay when it is gone."""
    async with serving_page(tmp_path / "amistream.sock", look_every_s=3600) as served:
        await served.enter()
        async with served.stream() as stream:
            message = await stream.next()
            assert message["trouble"]["code"] == "daemon.unreachable"
            assert "systemctl start amistream" in message["trouble"]["hint"]
            assert "jobs" not in message
            assert (await served.ask("POST", "/api/jobs/a/cancel"))[0] == 500
            async with running_app(tmp_path) as daemon:
                job = await daemon.submit_and_begin()
                served.page.feed.look()
                assert (await stream.next())["everything"]
                await daemon.script.end(job)
                while (await stream.next())["daemon"]["jobs_running"]:
                    pass
            served.page.feed.look()
            message = await stream.next()
            assert message["trouble"]["code"] == "daemon.unreachable"
            assert stream.jobs[job.id]["state"] == "done", "the last known state stays"


async def test_an_unused_page_ends(tmp_path: Path) -> None:
    """The server ends when no page was open for a while, and not while one is."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TidyLoop)
    feed = Feed(tmp_path / "none.sock")
    page = Page(
        admission=Admission(),
        socket=tmp_path / "none.sock",
        feed=feed,
        shelves=Shelves((), Settings(), Aws(Settings())),
        queue=FleetQueue("", "", Settings(), Aws(Settings())),
        cookie_name="amistream",
    )
    unused = asyncio.create_task(wait_unused(page, 3600))
    reading = asyncio.create_task(anext(feed.read()))
    for _ in range(3):
        await asyncio.sleep(0)
        loop.put_forward(3601)
    assert not unused.done()
    reading.cancel()
    await asyncio.wait({reading})
    loop.put_forward(3601)
    async with asyncio.timeout(60):
        await unused


async def test_another_programs_answers(tmp_path: Path) -> None:
    """Documents of any other shape are reported as trouble, and the feed goes on."""
    for garbage in (
        b"[]",
        b"5",
        b"[" * 10_000,
        b'{"jobs": ["a"]}',
        b'{"jobs": [{"id": "a", "ended_at": 1, "result": "a"}]}',
    ):
        feed = Feed(tmp_path)
        for _ in range(2):
            await feed._look(cast("Client", Answering(garbage)))
            assert feed._trouble is not None
            assert feed._trouble["code"] == "daemon.not_understood"


class Answering:
    """A client whose daemon has one answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def document(self, _: str) -> bytes:
        return self._answer
