"""The page in a real browser (`make web-test`): how it looks, how fast it is, and that it can be used without a mouse.

The screenshots are for people: they go to build/screenshots.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.jobs.job import End, Job
from daemon.rig import Daemon, running_app
from web import kinds, scene
from web.browser import browsing
from web.rig import Served, serving_page

if TYPE_CHECKING:
    from playwright.async_api import CDPSession

pytestmark = pytest.mark.browser

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SLOWEST_TASK_MS = 1000
"""A page that does not react for longer feels slow. Generous: the machine may be busy."""
RECORD_TASKS = """
window.tasks = [];
new PerformanceObserver(list => window.tasks.push(...list.getEntries().map(entry => entry.duration)))
    .observe({type: "longtask", buffered: true});
"""
LOG = logging.getLogger(__name__)


@asynccontextmanager
async def scene_of(directory: Path, jobs: int) -> AsyncIterator[tuple[Daemon, Served]]:
    """A daemon with so many ended jobs, and its page with a bucket and a queue."""
    async with running_app(directory) as daemon, serving_page(daemon.path, look_every_s=0.5, pace_s=0.4) as served:
        await scene.fill(daemon, jobs)
        served.page.shelves, served.page.queue = scene.Shelf(), scene.Fleet()
        yield daemon, served


async def run_for(job: Job, seconds: int, *, pause_s: float = 0.005) -> None:
    for second in range(seconds):
        job.report(scene.progress_at(float(second)))
        # Progress is read by the page, which gets only the newest of each moment.
        await asyncio.sleep(pause_s)


async def cpu_time(counters: CDPSession) -> float:
    """Seconds of CPU that the tab has used for scripts, styles and layout."""
    found = await counters.send("Performance.getMetrics")
    return float(next(each["value"] for each in found["metrics"] if each["name"] == "TaskDuration"))


async def past_of(served: Served, job: Job) -> None:
    """Let the page's server have seen the job for two minutes."""
    for second in range(125):
        served.page.feed._take_rate(
            {**job.view().model_dump(mode="json"), "progress": scene.progress_at(second).model_dump()}
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
async def test_every_view_is_whole(tmp_path: Path, width: int, scheme: str) -> None:
    """Every view fits its window, breaks no rule of axe, and is shot: with running, failed and finished jobs."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    async with scene_of(tmp_path, 40) as (daemon, served), browsing(width, 1000, color_scheme=scheme) as browser:
        page = browser.page
        running = await scene.begin_job(daemon)
        hostile = await scene.begin_job(daemon, f"/srv/{scene.HOSTILE}", "s3://images-eu/other")
        await daemon.ask("POST", "/v1/jobs", json={"source": "/dev/xvdg", "destinations": ["s3://images-eu/third"]})
        hostile.report(scene.progress_at(20))
        running.report(scene.progress_at(124))
        await page.goto(served.address)
        await page.locator(".card .stages li").first.wait_for()
        await past_of(served, running)
        await page.reload()
        await page.get_by_text("/dev/mapper/vg0-web000").first.wait_for()

        async def look(name: str) -> None:
            await browser.shoot(SCREENSHOTS / f"{name}-{width}-{scheme}.png")
            assert not await browser.is_wider_than_its_window(), name
            assert await browser.violations() == [], name

        await look("jobs")
        await page.locator(".row summary").filter(has_text="vg0-web000").click()
        await page.get_by_role("button", name="Resume").wait_for()
        await page.locator(".row summary").filter(has_text="vg0-web001").click()
        await page.get_by_text("411 parts").wait_for()
        await page.locator(".row summary").filter(has_text="vg0-web000").scroll_into_view_if_needed()
        await page.locator(".log summary").first.click()
        await page.locator(".log li").first.wait_for()
        await page.evaluate("document.querySelector('.row [open]').scrollIntoView()")
        await look("ended")
        await page.get_by_role("button", name="Cancel /dev/xvdf").click()
        await look("question")
        await page.get_by_role("button", name="No, leave it").click()
        await page.get_by_role("link", name="Bundles").click()
        await page.get_by_role("button", name="Show 20 more").wait_for()
        await look("bundles")
        await page.get_by_role("link", name="Queue").click()
        await page.get_by_text("Dead letters").wait_for()
        await look("queue")
        assert {url for url in browser.requests if not url.startswith((f"{served.url}/", "data:"))} == set()
        assert browser.complaints == [], "text that looks like markup is text"


@pytest.mark.parametrize("width", [400, 1400])
async def test_every_kind_of_job_is_shown_in_its_own_words(tmp_path: Path, width: int) -> None:
    """Conversions, verifications and migrations show their own figures, results and losses, and fit the window."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    async with (
        running_app(tmp_path, max_jobs=4) as daemon,
        serving_page(daemon.path, look_every_s=0.2) as served,
        browsing(width, 1600) as browser,
    ):
        page = browser.page
        kinds.fill(daemon)
        for kind in kinds.REQUESTS:
            job = await kinds.begin(daemon, kind)
            for second in range(20):
                job.report(kinds.progress_of(kind, second / 40))
                served.page.feed._take_rate(job.view().model_dump(mode="json"))
        long = await scene.begin_job(daemon, "/srv/" + "long-name-" * 20, "s3://images-eu/" + "prefix/" * 30)
        long.report(scene.progress_at(20))
        await page.goto(served.address)
        await page.locator(".card").nth(3).wait_for()
        for kind, texts in (
            ("verify", ("Checked", "486 of 1024")),
            ("migrate", ("Copied", "486 of 1024")),
            ("convert", ("read limits the speed", "9728 blocks")),
        ):
            card = page.get_by_role("article").filter(has=page.locator(".kind", has_text=kind))
            for text in texts:
                assert await card.get_by_text(text).is_visible(), kind
            assert await card.get_by_text("Stages").is_visible() is (kind == "convert")
            await card.get_by_role("button").click()
            loss = "stores nothing" if kind == "verify" else "cannot be resumed"
            assert loss in (await page.locator("#confirm-text").text_content() or "")
            await page.keyboard.press("Escape")
        await browser.shoot(SCREENSHOTS / f"kinds-{width}.png")
        for word, detail in (
            ("verify.difference", "40 differences"),
            ("aws.UnauthorizedOperation", "3211 blocks"),
            ("snap-0c1f", "12411 of 20480"),
            ("store.unreachable", "411 parts"),
            ("ami-0d4c", "17 of them were there"),
        ):
            await page.locator(".row > details > summary").filter(has_text=word).click()
            await page.locator(".detail").get_by_text(detail).first.wait_for()
        await page.locator("#rows").scroll_into_view_if_needed()
        await browser.shoot(SCREENSHOTS / f"kinds-ended-{width}.png")
        assert not await browser.is_wider_than_its_window()
        assert await browser.violations() == []
        assert browser.complaints == []


async def test_a_page_without_anything_helps(tmp_path: Path) -> None:
    """A page without daemon, jobs, bucket or queue says what to type, and finds a daemon that starts later."""
    async with serving_page(tmp_path / "amistream.sock", look_every_s=0.1) as served, browsing() as browser:
        page = browser.page
        await page.goto(served.address)
        await page.get_by_text("systemctl start amistream").wait_for()
        await browser.shoot(SCREENSHOTS / "no-daemon.png")
        assert await browser.violations() == []
        async with running_app(tmp_path):
            await page.get_by_text("amistream bundle /dev/xvdf").wait_for()
            assert await page.locator("#trouble").is_hidden()
            await browser.shoot(SCREENSHOTS / "empty.png")
            for view, command in (("Bundles", "amistream web --bucket"), ("Queue", "amistream web --queue")):
                await page.get_by_role("link", name=view).click()
                await page.get_by_text(command).wait_for()
                assert await browser.violations() == []
        await page.get_by_text("systemctl start amistream").wait_for()


async def test_500_jobs_are_shown_without_delay(tmp_path: Path) -> None:
    """With 500 jobs and one that runs the page never stands still: it loads, scrolls, filters, and shows progress."""
    async with scene_of(tmp_path, 500) as (daemon, served), browsing() as browser:
        page = browser.page
        running = await scene.begin_job(daemon)
        running.report(scene.progress_at(1))
        await page.add_init_script(RECORD_TASKS)
        await page.goto(served.address)
        await page.locator(".row:nth-child(500)").wait_for(state="attached")
        shown_ms = await page.evaluate("performance.now()")
        counters = await page.context.new_cdp_session(page)
        await counters.send("Performance.enable", {"timeDomain": "threadTicks"})
        before, began = await cpu_time(counters), time.monotonic()
        await run_for(running, 40, pause_s=0.25)  # as often as the daemon reports
        share = (await cpu_time(counters) - before) / (time.monotonic() - began)
        for _ in range(20):
            await page.mouse.wheel(0, 1200)
            await page.evaluate("new Promise(requestAnimationFrame)")
        await page.get_by_role("searchbox").fill("web-499")
        await page.locator(".row:visible").first.wait_for()
        assert await page.locator(".row:visible").count() == 1
        await page.get_by_role("searchbox").fill("")
        for name in ("Failed", "Unfinished", "Done", "All"):
            await page.get_by_role("radio", name=name).check(force=True)
        tasks = await page.evaluate("window.tasks")
        LOG.info("500 jobs: shown after %.0f ms; tasks over 50 ms: %s", shown_ms, [round(task) for task in tasks])
        LOG.info("500 jobs and one that runs: %.1f %% of a core in the browser", 100 * share)
        assert max(tasks, default=0) < SLOWEST_TASK_MS
        assert len(served.page.feed._followed) == 1, "ended jobs have no stream"


async def test_it_can_be_used_without_a_mouse(tmp_path: Path) -> None:
    """Tab, Enter, Escape and the arrows reach everything: a job is cancelled, a row opened, and a job resumed."""
    async with scene_of(tmp_path, 3) as (daemon, served), browsing() as browser:
        page, press = browser.page, browser.page.keyboard.press
        running = await scene.begin_job(daemon)
        await page.goto(served.address)
        cancel = page.get_by_role("button", name="Cancel /dev/xvdf")
        await cancel.wait_for()

        async def tab_to(label: str, key: str = "Tab") -> None:
            passed = []
            for _ in range(30):
                await press(key)
                passed.append(await browser.focused())
                if label in passed[-1]:
                    return
            raise AssertionError(f"{label!r} is not among {passed}")

        await press("Tab")
        assert await browser.focused() == "Skip to the content"
        await press("Enter")
        await tab_to("Cancel /dev/xvdf")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "the focus is visible"
        await press("Enter")
        assert await browser.focused() == "No, leave it", "the harmless answer comes first"
        await press("Escape")
        assert await browser.focused() == "Cancel /dev/xvdf"
        assert not running.cancel_requested
        await press("Enter")
        await tab_to("Yes, cancel the job")
        await press("Enter")
        await page.locator(".row .state").get_by_text("cancelled").wait_for()
        assert "/dev/xvdf" in await browser.focused(), "the focus moves with the job"
        assert running.state is State.CANCELLED

        await page.locator('input[name="state"]').first.focus()
        await press("ArrowRight")
        await press("ArrowRight")
        assert await page.locator(".row:visible").count() == 1
        await press("ArrowLeft")
        await press("ArrowLeft")
        await tab_to("vg0-web000")
        await press("Enter")
        await page.get_by_role("button", name="Resume /dev/mapper/vg0-web000").wait_for()
        await tab_to("Resume /dev/mapper/vg0-web000")
        await press("Enter")
        await page.get_by_role("button", name="Cancel /dev/mapper/vg0-web000").wait_for()
        await tab_to("Bundles", "Shift+Tab")
        await press("Enter")
        await page.get_by_role("button", name="Show 20 more").wait_for()


async def test_the_focus_stays_when_the_page_changes(tmp_path: Path) -> None:
    """A list that is shown again, a job that runs again, and a question that is out of date keep the focus."""
    async with scene_of(tmp_path, 3) as (daemon, served), browsing() as browser:
        page = browser.page
        served.page.queue = scene.Fleet(hosts=230)
        running = await scene.begin_job(daemon)
        await page.goto(served.address)
        await page.get_by_role("button", name="Cancel /dev/xvdf").press("Enter")
        await daemon.script.end(running)
        await page.locator(".row").filter(has_text="db-primary").wait_for()
        assert not await page.get_by_role("dialog").is_visible()
        assert "db-primary" in await browser.focused()

        await page.locator(".row > details > summary").filter(has_text="web000").press("Enter")
        await page.get_by_role("button", name="Resume").press("Enter")
        await page.get_by_role("button", name="Cancel /dev/mapper").wait_for()
        assert await browser.focused() == "bundle /dev/mapper/vg0-web000"

        await page.get_by_role("link", name="Queue").click()
        await page.get_by_role("button", name="Show 100 more of 130").press("Enter")
        assert await browser.focused() == "Show 30 more"
        await page.evaluate("showQueue()")
        assert await page.locator("tbody tr").count() == 200
        assert await browser.focused() == "Show 30 more"
        await page.get_by_role("button", name="Show 30 more").press("Enter")
        assert await browser.focused() != "", "the rows that came"
        assert await page.locator("tbody tr").count() == 230

        await page.get_by_role("link", name="Bundles").click()
        await page.get_by_role("button", name="List s3://images-eu again").press("Enter")
        await page.get_by_text("Listed at").wait_for()
        assert await browser.focused() == "List s3://images-eu again"


async def test_ends_come_while_the_page_is_open(tmp_path: Path) -> None:
    """A job that ends becomes a row with its result or error; when the server ends, the page says so and waits."""
    async with browsing() as browser:
        page = browser.page
        async with scene_of(tmp_path, 2) as (daemon, served):
            await page.goto(served.address)
            for end, word in (
                (End(State.FAILED, error=scene.failure(), resumable=True), "failed"),
                (End(State.DONE, result=scene.result(7)), "done"),
            ):
                job = await scene.begin_job(daemon, to=f"s3://images-eu/{word}")
                await page.get_by_role("button", name="Cancel /dev/xvdf").wait_for()
                if end.state is State.DONE:
                    job.move(State.COMMITTING)
                job.end(end)
                daemon.script.may_end[job.id].set()
                row = page.locator(".row").filter(has_text=f"images-eu/{word}")
                await row.locator(".state").get_by_text(word).wait_for()
                await page.locator("#said").get_by_text(word).wait_for()
        await page.get_by_text("Has it ended, or the ssh tunnel?").wait_for()
        assert await page.get_by_role("button", name="Try now").is_visible()
        await browser.shoot(SCREENSHOTS / "server-ended.png")


async def test_another_browser_gets_nothing(tmp_path: Path) -> None:
    """A second browser gets no page, with the address that was used; the first one may load it in further tabs."""
    async with scene_of(tmp_path, 2) as (_, served), browsing() as browser:
        await browser.page.goto(served.address)
        await browser.page.get_by_text("/dev/mapper/vg0-web000").wait_for()
        assert "token" not in browser.page.url
        second = await browser.page.context.new_page()
        await second.goto(served.url)
        await second.get_by_text("/dev/mapper/vg0-web000").wait_for()
        async with browsing() as other:
            await other.page.goto(served.address)
            await other.page.get_by_text("used already").wait_for()
            await other.page.goto(served.url)
            await other.page.get_by_text("no session").wait_for()
            # A page of another origin that knows the address, in the browser that has the session.
            await browser.page.goto("data:text/html,<h1>elsewhere</h1>")
            reached = await browser.page.evaluate(
                "url => fetch(url + '/api/jobs', {credentials: 'include'}).then(() => 'reached', () => 'refused')",
                served.url,
            )
            assert reached == "refused"
