"""The queue: jobs outlive the process, one run of each at a time, and no stored part is forgotten."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from amistream.errors import BusyError, ConflictError, LostError, NotFoundError
from amistream.events import ErrorBody, State
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import JournalEntry, NextStep
from amistream.settings import OnStop
from amistream.states import UNFINISHED
from jobs.queueing import PATIENCE_S, RESULT, Hands, ended, left_behind, request, running


async def test_entered_before_anybody_hears_of_it(tmp_path: Path) -> None:
    """A job is in the journal before its submit returns."""
    async with running(tmp_path) as scene:
        job = (await scene.queue.submit(request("a"), idempotency_key="one", confined=True, user=1234))[0]
        async with Journal(tmp_path, by_itself=False) as another:
            entry = await another.find(job.id)
        assert entry is not None
        assert (entry.request, entry.idempotency_key, entry.confined) == (request("a"), "one", True)
        assert entry.user == Job.remembered(entry).again().user == 1234
        assert entry.by_itself


@pytest.mark.parametrize(
    ("next_step", "state"),
    [(NextStep.WAITING, State.QUEUED), (NextStep.KEPT, State.BUNDLING), (NextStep.KEPT, State.INTERRUPTED)],
)
async def test_what_was_cut_short_goes_on(next_step: NextStep, state: State, tmp_path: Path) -> None:
    """A job of a daemon that is gone is run again under its id, whether it waited, ran, or was interrupted."""
    view = await left_behind(tmp_path, next_step, state=state, notices=("seen before",))
    async with running(tmp_path) as scene:
        with structlog.testing.capture_logs() as lines:
            await scene.queue.recover(resume=True)
        assert [(line["job"], line["state"]) for line in lines if line["event"] == "job.resume"] == [
            (view.id, "interrupted")
        ]
        what, job = await scene.hands.wait_begun()
        assert (what, job.id, job.created_at, job.notices) == ("run", view.id, view.created_at, view.notices)
        assert scene.queue.get(view.id) is job
        await scene.hands.end(job)
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize(
    ("resume", "by_itself", "view"),
    [
        (False, True, {"state": State.BUNDLING}),
        (True, False, {"state": State.BUNDLING}),
        (True, True, {"state": State.FAILED, "resumable": True}),
    ],
    ids=["not wanted", "not a daemon's", "failed"],
)
async def test_what_waits_to_be_asked_for(resume: bool, by_itself: bool, view: dict[str, Any], tmp_path: Path) -> None:
    """A job that failed, or that ran without a daemon, is shown and may be resumed."""
    left = await left_behind(tmp_path, NextStep.KEPT, by_itself=by_itself, **view)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=resume)
        job = scene.queue.get(left.id)
        wanted = State.INTERRUPTED if left.state is State.BUNDLING else State.FAILED
        assert (job.state, job.resumable, job.ended.is_set()) == (wanted, True, True)
        assert scene.hands.calls == []
        again = await scene.queue.resume(job.id)
        assert (again.state, again.id, again.resumable) == (State.QUEUED, job.id, False)
        assert await scene.hands.wait_begun() == ("run", again)
        await scene.hands.end(again)


@pytest.mark.parametrize("resume", [True, False])
async def test_what_was_being_removed_is_removed(resume: bool, tmp_path: Path) -> None:
    """A removal that was cut short is finished at the next start, whatever the setting."""
    view = await left_behind(tmp_path, NextStep.CLEANING, state=State.BUNDLING)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=resume)
        what, job = await scene.hands.wait_begun()
        assert (what, job.id) == ("clean", view.id)
        await scene.hands.end(job, State.CANCELLED)
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize(("remove", "wait"), [(True, timedelta(minutes=15)), (False, timedelta(0))])
async def test_a_removal_that_waits_is_only_shown(remove: bool, wait: timedelta, tmp_path: Path) -> None:
    """A removal that looks again later waits for its time, and a command that only lists jobs begins none."""
    left = {"state": State.CANCELLED, "resumable": True, "looks_again_at": datetime.now(UTC) + wait}
    view = await left_behind(tmp_path, NextStep.CLEANING, by_itself=False, **left)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=False, remove=remove)
        assert [job.view() for job in scene.queue.chosen([UNFINISHED])] == [view]
        assert scene.hands.calls == []
        again = await scene.queue.cancel(view.id)
        assert await scene.hands.wait_begun() == ("clean", again)
        await scene.hands.end(again, State.CANCELLED)


async def test_what_is_over_is_only_shown(tmp_path: Path) -> None:
    """A job that has ended is remembered with its result, and there is nothing to resume or cancel."""
    view = await left_behind(tmp_path, NextStep.OVER, state=State.DONE, result=RESULT)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        job = scene.queue.get(view.id)
        assert (job.state, job.result, job.resumable) == (State.DONE, RESULT, False)
        with pytest.raises(ConflictError, match="nothing of it is kept"):
            await scene.queue.resume(job.id)
        with pytest.raises(ConflictError, match="it is done already"):
            await scene.queue.cancel(job.id)
        assert scene.hands.calls == []


async def test_jobs_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    """A job that another process runs is neither run nor shown."""
    async with Journal(tmp_path, by_itself=True) as another, running(tmp_path) as scene:
        theirs = Job(request("a"))
        await another.add(theirs.view(), theirs.request, confined=False, idempotency_key="")
        await scene.queue.recover(resume=True)
        assert scene.queue.jobs() == []


async def test_another_was_quicker(tmp_path: Path) -> None:
    """A job that another process claims during the start is left to it, and the start continues."""
    view = await left_behind(tmp_path, NextStep.KEPT, state=State.BUNDLING)

    async with Journal(tmp_path, by_itself=True) as another:

        class Late(Journal):
            """Finds that between its looking and its claiming somebody else has claimed."""

            async def all(self, over_like: str | None = None) -> list[JournalEntry]:
                found = await super().all(over_like)
                await another.claim(view.id)
                return found

        async with running(tmp_path, make_journal=Late) as scene:
            await scene.queue.recover(resume=True)
            assert scene.hands.calls == []
            own = await scene.begin("b")
            await scene.hands.end(own)


async def test_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """Jobs that are taken up again begin in the order of their first submission."""
    async with running(tmp_path, max_jobs=1, drain=OnStop.INTERRUPT) as scene:
        ids = [(await scene.submit(name)).id for name in "abcdefgh"]
    async with running(tmp_path, max_jobs=1) as scene:
        await scene.queue.recover(resume=True)
        for job_id in ids:
            _, job = await scene.hands.wait_begun()
            assert job.id == job_id
            await scene.hands.end(job)


async def test_a_key_outlives_the_process(tmp_path: Path) -> None:
    """A client that repeats its request to the next daemon gets the job that it has already."""
    async with running(tmp_path, drain=OnStop.INTERRUPT) as scene:
        first = await scene.submit("a", idempotency_key="one")
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        job, is_new = await scene.queue.submit(request("a"), idempotency_key="one")
        assert (job.id, is_new) == (first.id, False)
        with pytest.raises(ConflictError, match="Idempotency-Key"):
            await scene.queue.submit(request("b"), idempotency_key="one")


async def test_interrupted_jobs_go_on_in_the_next_daemon(tmp_path: Path) -> None:
    """Jobs that ran and jobs that waited when a daemon was stopped are both run by the next one."""
    async with running(tmp_path, max_jobs=1, drain=OnStop.INTERRUPT) as scene:
        first = await scene.begin("a")
        second = await scene.submit("b")
    assert (first.state, second.state) == (State.INTERRUPTED, State.INTERRUPTED)
    assert first.resumable
    assert second.resumable
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        assert {(await scene.hands.wait_begun())[1].id for _ in range(2)} == {first.id, second.id}


async def test_cancelled_jobs_do_not(tmp_path: Path) -> None:
    """Jobs that a stop cancelled, running or waiting, are over."""
    async with running(tmp_path, max_jobs=1, drain=OnStop.CANCEL) as scene:
        first = await scene.begin("a")
        second = await scene.submit("b")
    assert (first.state, second.state) == (State.CANCELLED, State.CANCELLED)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        assert scene.hands.calls == []
        assert [(job.state, job.resumable) for job in scene.queue.jobs()] == [(State.CANCELLED, False)] * 2


@pytest.mark.parametrize("turns", range(4))
async def test_cancel_right_after_submit(turns: int, tmp_path: Path) -> None:
    """A job that is cancelled before it could begin never begins, and is over in the journal too."""
    async with running(tmp_path) as scene:
        job = await scene.submit()
        for _ in range(turns):
            await asyncio.sleep(0)
        await scene.queue.cancel(job.id)
        assert await ended(job) is State.CANCELLED
        await scene.queue.drain(OnStop.FINISH)
        assert await scene.next_step(job) is NextStep.OVER
        assert len(scene.hands.calls) <= 1


async def test_resume_begins_the_job_again(tmp_path: Path) -> None:
    """A job that kept parts is run again under its id, and its earlier run is shown no more."""
    async with running(tmp_path) as scene:
        first = await scene.keep()
        second = await scene.queue.resume(first.id)
        assert scene.queue.jobs() == [second]
        assert await scene.hands.wait_begun() == ("run", second)
        await scene.hands.end(second)
        assert await scene.next_step(second) is NextStep.OVER


async def test_cancel_removes_what_was_kept(tmp_path: Path) -> None:
    """A cancel of a job that kept parts begins its removal, and then its destination is free."""
    async with running(tmp_path) as scene:
        first = await scene.keep()
        second = await scene.queue.cancel(first.id)
        assert await scene.hands.wait_begun() == ("clean", second)
        with pytest.raises(ConflictError) as caught:
            await scene.submit("a")
        assert caught.value.code == "job.same_destination"
        await scene.hands.end(second, State.CANCELLED)
        await scene.begin("a")


async def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    """A running job, a job without kept parts, and an unknown job cannot be resumed."""
    async with running(tmp_path) as scene:
        job = await scene.begin()
        with pytest.raises(ConflictError, match="nothing of it is kept") as caught:
            await scene.queue.resume(job.id)
        assert (caught.value.code, caught.value.hint) == ("job.not_resumable", "it continues by itself")
        await scene.hands.end(job)
        with pytest.raises(ConflictError) as caught:
            await scene.queue.resume(job.id)
        assert "amistream bundle" in caught.value.hint
        with pytest.raises(NotFoundError):
            await scene.queue.resume("nobody")


async def test_a_stopping_daemon_resumes_nothing(tmp_path: Path) -> None:
    """A job is not taken up while the daemon stops; the next daemon can do so."""
    async with running(tmp_path) as scene:
        job = await scene.keep()
        await scene.queue.drain(OnStop.FINISH)
        with pytest.raises(BusyError):
            await scene.queue.resume(job.id)
        assert job.resumable


@pytest.mark.parametrize("how", list(OnStop))
async def test_a_daemon_told_to_stop_while_it_takes_a_job_up(how: OnStop, tmp_path: Path) -> None:
    """A job that is being taken up when the daemon stops is left to the next daemon."""
    async with running(tmp_path, drain=None) as scene:
        job = await scene.keep()
        taking, go = asyncio.Event(), asyncio.Event()
        claim = scene.journal.claim

        async def claim_late(job_id: str) -> JournalEntry:
            taking.set()
            await go.wait()
            return await claim(job_id)

        scene.journal.claim = claim_late  # type: ignore[method-assign]  # the test's own grip on the journal
        resuming = asyncio.create_task(scene.queue.resume(job.id))
        await taking.wait()
        await scene.queue.drain(how)
        go.set()
        with pytest.raises(BusyError):
            await resuming
        assert job.resumable
        assert scene.hands.running == set()


@pytest.mark.parametrize("ask", ["resume", "cancel"])
async def test_a_job_that_another_process_finished(ask: str, tmp_path: Path) -> None:
    """A job that another process ended meanwhile is shown with that end, and is not run or removed again."""
    view = await left_behind(tmp_path, NextStep.KEPT, by_itself=False, state=State.INTERRUPTED)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        done = view.model_copy(update={"state": State.DONE, "result": RESULT})
        async with Journal(tmp_path, by_itself=False) as another:
            await another.claim(view.id)
            await another.end(done)
        with pytest.raises(ConflictError, match="it is done already") as caught:
            await getattr(scene.queue, ask)(view.id)
        assert caught.value.code == "job.ended"
        job = scene.queue.get(view.id)
        assert (job.state, job.result, job.resumable) == (State.DONE, RESULT, False)
        assert scene.hands.calls == []
        entry = await scene.journal.find(view.id)
        assert entry is not None
        assert (entry.next_step, entry.view) == (NextStep.OVER, done)


async def test_another_finished_it_while_this_one_started(tmp_path: Path) -> None:
    """A job that another process finishes during the start is shown with that end."""
    view = await left_behind(tmp_path, NextStep.KEPT, state=State.BUNDLING)

    class Late(Journal):
        """Finds that between its looking and its claiming somebody else has done all."""

        async def all(self, over_like: str | None = None) -> list[JournalEntry]:
            found = await super().all(over_like)
            async with Journal(tmp_path, by_itself=True) as another:
                await another.claim(view.id)
                await another.end(view.model_copy(update={"state": State.DONE, "result": RESULT}))
            return found

    async with running(tmp_path, make_journal=Late) as scene:
        await scene.queue.recover(resume=True)
        assert scene.hands.calls == []
        assert scene.queue.get(view.id).state is State.DONE


async def test_a_job_that_another_process_took_up(tmp_path: Path) -> None:
    """A job that another process continues cannot be resumed or removed here until that process is gone."""
    view = await left_behind(tmp_path, NextStep.KEPT, by_itself=False, state=State.INTERRUPTED)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        async with Journal(tmp_path, by_itself=False) as another:
            await another.claim(view.id)
            for ask in (scene.queue.resume, scene.queue.cancel):
                with pytest.raises(ConflictError) as caught:
                    await ask(view.id)
                assert caught.value.code == "job.running_elsewhere"
        again = await scene.queue.resume(view.id)
        assert await scene.hands.wait_begun() == ("run", again)


async def test_resumed_jobs_wait_their_turn(tmp_path: Path) -> None:
    """A job that is taken up again does not run beside more jobs than may."""
    async with running(tmp_path, max_jobs=1) as scene:
        kept = await scene.keep("a")
        other = await scene.begin("b")
        again = await scene.queue.resume(kept.id)
        assert (again.state, scene.hands.begun.empty()) == (State.QUEUED, True)
        await scene.hands.end(other)
        assert await scene.hands.wait_begun() == ("run", again)


async def test_the_removal_of_a_waiting_job_hears_that_the_process_is_to_stop(tmp_path: Path) -> None:
    """A job that was cancelled while it waited for its turn does not keep the process with its removal."""
    async with running(tmp_path, max_jobs=1, drain=None) as scene:
        kept = await scene.keep("a")
        await scene.begin("b")
        again = await scene.queue.resume(kept.id)
        await scene.queue.cancel(again.id)
        assert await scene.hands.wait_begun() == ("clean", again)
        async with asyncio.timeout(PATIENCE_S):
            await scene.queue.drain(OnStop.INTERRUPT)
        assert again.state.ended


@pytest.mark.parametrize(
    "asked", [("resume", "resume"), ("resume", "cancel"), ("cancel", "resume"), ("cancel", "cancel")]
)
async def test_asked_twice_at_once(asked: tuple[str, str], tmp_path: Path) -> None:
    """The first of two simultaneous requests about a kept job counts: a job never has two runs."""
    async with running(tmp_path, max_jobs=4) as scene:
        job = await scene.keep()
        del scene.hands.calls[:]
        asking = [getattr(scene.queue, word)(job.id) for word in asked]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], Job)
        assert isinstance(answers[1], Job | ConflictError)
        await scene.hands.wait_begun()
        await scene.queue.drain(OnStop.CANCEL)
        assert scene.hands.calls == [("run" if asked[0] == "resume" else "clean", job.id)]


async def test_a_waiting_job_that_kept_something_is_removed_when_it_is_cancelled(tmp_path: Path) -> None:
    """The parts of an earlier run are removed although the cancelled run never began."""
    async with running(tmp_path, max_jobs=1) as scene:
        kept = await scene.keep("a")
        other = await scene.begin("b")
        again = await scene.queue.resume(kept.id)
        again = await scene.queue.cancel(again.id)
        await scene.hands.end(other)
        assert await scene.hands.wait_begun() == ("clean", again)
        await scene.hands.end(again, State.CANCELLED)


@pytest.mark.parametrize("how", [OnStop.CANCEL, OnStop.INTERRUPT, OnStop.FINISH])
async def test_a_stop_does_not_forget_what_a_waiting_job_kept(how: OnStop, tmp_path: Path) -> None:
    """A waiting job with parts has them removed when the daemon stops, or is left to the next daemon."""
    view = await left_behind(tmp_path, NextStep.KEPT, state=State.BUNDLING)
    async with running(tmp_path, max_jobs=1, drain=None) as scene:
        await scene.queue.recover(resume=False)
        busy = await scene.begin("b")
        job = await scene.queue.resume(view.id)
        draining = asyncio.create_task(scene.queue.drain(how))
        if how is OnStop.FINISH:
            await ended(job)
            await scene.hands.end(busy)
        elif how is OnStop.CANCEL:
            assert await scene.hands.wait_begun() == ("clean", job)
            await scene.hands.end(job, State.CANCELLED)
        await draining
        next_step = await scene.next_step(job)
    assert (job.state, next_step) == (
        (State.CANCELLED, NextStep.OVER) if how is OnStop.CANCEL else (State.INTERRUPTED, NextStep.KEPT)
    )


async def test_a_removal_that_waits_is_not_forgotten_by_a_stop(tmp_path: Path) -> None:
    """A removal that was accepted is made by the next daemon, if not by this one."""
    async with running(tmp_path, max_jobs=1, drain=OnStop.INTERRUPT) as scene:
        kept = await scene.keep("a")
        await scene.begin("b")
        await scene.queue.cancel(kept.id)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=False)
        what, job = await scene.hands.wait_begun()
        assert (what, job.id) == ("clean", kept.id)


@pytest.mark.parametrize("begins", [True, False], ids=["begun", "before it could begin"])
async def test_asked_again_while_the_last_run_still_ends(begins: bool, tmp_path: Path) -> None:
    """A job that is resumed while its ended run is still leaving can be cancelled like any other."""
    async with Journal(tmp_path, by_itself=True) as journal:
        hands = Hands(journal)
        may_leave = asyncio.Event()

        async def lingering(job: Job) -> None:
            if hands.calls:
                await hands.run(job)
                return
            hands.calls.append(("run", job.id))
            job.move(State.CHECKING)
            job.end(End(State.FAILED, error=LostError("store.lost", "cannot: lost"), resumable=True))
            await may_leave.wait()

        async with JobQueue(lingering, hands.clean, journal, max_jobs=2, max_queued=2, default_prefix="image") as queue:
            first, _ = await queue.submit(request("a"))
            await ended(first)
            first_run = queue._tasks[first.id]
            second = await queue.resume(first.id)
            hands.leaving = True
            if begins:
                await hands.wait_begun()
                may_leave.set()
                await asyncio.wait({first_run})
            await queue.cancel(second.id)
            may_leave.set()
            assert await ended(second) is State.CANCELLED


async def test_who_gives_up_waiting_for_the_answer(tmp_path: Path) -> None:
    """A client that leaves while its job is being entered leaves a job that runs, or none."""
    async with running(tmp_path) as scene:
        asking = asyncio.create_task(scene.queue.submit(request("a")))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        for job in scene.queue.jobs():
            assert await scene.hands.wait_begun() == ("run", job)
            await scene.hands.end(job)


async def test_an_earlier_run_s_error_is_not_shown_of_the_next(tmp_path: Path) -> None:
    """A job that is taken up again has the notices of its earlier run, but not its error, result or end."""
    async with running(tmp_path) as scene:
        first = await scene.begin()
        first.note("something worth knowing")
        first.note("something worth knowing")
        first.error = ErrorBody(code="a.b", message="cannot")
        await scene.hands.end(first, State.FAILED)
        view = (await scene.queue.resume(first.id)).view()
        assert (view.error, view.result, view.ended_at, view.resumable) == (None, None, None, False)
        assert view.notices == ("something worth knowing",)


async def test_a_bug_ends_one_job_and_no_other(tmp_path: Path) -> None:
    """A bug fails the one job, which can be resumed; other jobs continue, and more are accepted."""
    async with running(tmp_path, max_jobs=3) as scene:
        unharmed = await scene.begin("a")
        job = await scene.begin("b")
        scene.hands.orders[job.id].set_exception(RuntimeError("nobody foresaw this"))
        assert await ended(job) is State.FAILED
        assert job.error is not None
        assert (job.error.code, job.resumable) == ("internal.bug", True)
        await scene.begin("c")
        assert not unharmed.state.ended
        again = await scene.queue.resume(job.id)
        assert await scene.hands.wait_begun() == ("run", again)
        await scene.hands.end(again)
