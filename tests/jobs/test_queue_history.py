"""The queue's memory of ended jobs: their views stay, and unfinished jobs are not put away."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from amistream.errors import NotFoundError, UsageError
from amistream.events import JobResult, State
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import JournalEntry, NextStep
from amistream.jobs.roster import FRESH
from jobs.queueing import RESULT, Hands, Scene, left_behind, request, running


async def test_a_job_that_ended_long_ago_is_shown_as_it_ended(tmp_path: Path) -> None:
    """A job that ended long ago keeps its view and last event; only the newest keep all their events."""
    async with running(tmp_path) as scene:
        old = await scene.begin("old")
        follower = old.events()
        first = await anext(follower)
        old.note("the clock is off")
        old.result = RESULT
        await scene.hands.end(old)
        events = [event async for event in old.events()]
        for number in range(FRESH):
            assert [event async for event in old.events()] == events
            await scene.hands.end(await scene.begin(str(number)))
        await scene.submit("last")

        assert scene.queue.get(old.id).view() == events[-1].job
        assert (events[-1].job.notices, events[-1].job.result) == (("the clock is off",), RESULT)
        assert [event async for event in old.events()] == [events[-1]]
        assert [event async for event in old.events(after=events[-2].id)] == [events[-1]]
        assert [event async for event in old.events(after=events[-1].id)] == []
        assert [event async for event in old.events(after=events[-1].id + 86_400_000)] == [events[-1]]
        assert [first, *[event async for event in follower]] == [events[0], events[-1]]


async def test_a_clock_that_is_set_back_makes_no_negative_duration() -> None:
    """A job does not end before it has started, neither in the journal nor for its followers."""
    job = Job(request("a"))
    job.move(State.CHECKING)
    end = End(State.FAILED, at=job.created_at - timedelta(days=1))
    recorded = job.view_at(end)
    job.end(end)
    assert recorded.ended_at == job.view().ended_at == job.started_at


async def test_what_kept_something_is_never_put_away(tmp_path: Path) -> None:
    """A resumable job keeps all its events, however many jobs ended since."""
    async with running(tmp_path) as scene:
        kept = await scene.begin("kept")
        kept.note("the clock is off")
        await scene.hands.end(kept, State.FAILED)
        for number in range(FRESH + 1):
            await scene.hands.end(await scene.begin(str(number)))
        resumed = await scene.queue.resume(kept.id)
        assert resumed.notices == ("the clock is off",)


async def test_what_is_being_taken_up_is_not_put_away(tmp_path: Path) -> None:
    """A job that is being taken up while others come keeps its events, even if it is not taken up after all."""
    held, asked = asyncio.Event(), asyncio.Event()

    class Held(Journal):
        """Waits before it lets a job be claimed."""

        async def claim(self, job_id: str) -> JournalEntry:
            asked.set()
            await held.wait()
            return await super().claim(job_id)

    async with running(tmp_path, make_journal=Held) as scene:
        kept = await scene.begin("kept")
        kept.note("the clock is off")
        await scene.hands.end(kept, State.FAILED)
        for number in range(FRESH + 1):
            await scene.hands.end(await scene.begin(str(number)))
        taking = asyncio.create_task(scene.queue.resume(kept.id))
        await asked.wait()
        await scene.submit("meanwhile")
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert (kept.view().resumable, kept.view().notices) == (True, ("the clock is off",))
        held.set()
        assert (await scene.queue.resume(kept.id)).notices == ("the clock is off",)


async def test_a_job_is_not_put_away_before_its_work_has_returned(tmp_path: Path) -> None:
    """The runner of a job can still read its result after the job has ended."""
    left = asyncio.Event()
    results: list[JobResult | None] = []

    async with Journal(tmp_path, by_itself=True) as journal:
        hands = Hands(journal)

        async def run(job: Job) -> None:
            await hands.run(job)
            if job.request.source.endswith("slow"):
                await left.wait()
                results.append(job.result)

        async with JobQueue(run, hands.clean, journal, max_jobs=2, max_queued=10, default_prefix="image") as queue:
            scene = Scene(queue, hands, journal)
            slow = await scene.begin("slow")
            slow.result = RESULT
            await hands.end(slow)
            for number in range(FRESH + 1):
                await hands.end(await scene.begin(str(number)))
            await scene.submit("last")
            left.set()
            await hands.end((await hands.wait_begun())[1])
    assert results == [RESULT]


@pytest.mark.parametrize(
    ("word", "remembered"),
    [("", "1"), ("two", "12"), ("20260101-000000-th", "13"), ("20260101", "123"), ("last", "123"), (None, "123")],
)
async def test_a_job_that_is_over_is_read_when_it_is_asked_for(
    word: str | None, remembered: str, tmp_path: Path
) -> None:
    """Jobs that are over cost nothing where they are not asked for: a damaged one is not noticed then."""
    ids = {"1": "20260101-000000-onesix", "2": "20260101-000000-twosix", "3": "20260101-000000-threes"}
    steps = {"1": NextStep.KEPT, "2": NextStep.OVER, "3": NextStep.OVER, "4": NextStep.OVER}
    for number, step in steps.items():
        over = {"state": State.DONE if step is NextStep.OVER else State.INTERRUPTED}
        await left_behind(tmp_path, step, by_itself=False, id=ids.get(number, "20260101-000000-damage"), **over)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("UPDATE jobs SET request = '{' WHERE id LIKE '%damage'")
    async with running(tmp_path) as scene:
        with structlog.testing.capture_logs() as lines:
            await scene.queue.recover(resume=False, over_like=word)
        assert [job.id for job in scene.queue.jobs()] == [ids[number] for number in remembered]
        assert [line["event"] for line in lines] == ["journal.skipped"] * (word in (None, "last", "20260101"))
        if word == "20260101":
            with pytest.raises(UsageError, match="3 have an id like"):
                scene.queue.find(word)
        elif word:
            assert scene.queue.find(word).id == ids[remembered[-1]]
        with pytest.raises(NotFoundError):
            scene.queue.find("20260101-000000-damage")
