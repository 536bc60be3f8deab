"""The queue: jobs outlive the process in the journal, each lives once at a time, and nothing it stored is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from amistream.errors import BusyError, ConflictError, JobError, NotFoundError, StoreError
from amistream.events import ErrorBody, JobResult, JobView, State
from amistream.flow.uncut import uncut
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.queue import FRESH, JobQueue
from amistream.jobs.records import Fate, Kept
from amistream.jobs.request import JobRequest, parse_request
from amistream.settings import OnStop

PATIENCE_S = 20.0
RESULT = JobResult(
    manifest="/bundles/a/image.manifest.xml",
    image_id=None,
    image_name=None,
    region=None,
    image_size=1000,
    bundled_size=400,
    parts=1,
    digest="00" * 20,
    elapsed_s=1.0,
    cpu_s=1.0,
    stages=(),
)


def request(name: str, **changes: Any) -> JobRequest:
    return parse_request({"source": f"/volumes/{name}", "destinations": [f"/bundles/{name}"], **changes})


@dataclass
class Hands:
    """Stand where the engine is and keep the journal as it does; a job goes on when the test says how."""

    journal: Journal
    begun: asyncio.Queue[tuple[str, Job]] = field(default_factory=asyncio.Queue)
    seen: list[tuple[str, str]] = field(default_factory=list)
    living: set[str] = field(default_factory=set)
    orders: dict[str, asyncio.Future[State]] = field(default_factory=dict)
    leaving: bool = False
    """The test is over: removals end by themselves."""

    async def run(self, job: Job) -> None:
        job.move(State.CHECKING)
        await self._live("run", job)

    async def clean(self, job: Job) -> None:
        await self._live("clean", job)

    async def _live(self, what: str, job: Job) -> None:
        assert job.id not in self.living, "two lives of one job at a time"
        self.living.add(job.id)
        self.seen.append((what, job.id))
        self.orders[job.id] = asyncio.get_running_loop().create_future()
        self.begun.put_nowait((what, job))
        if self.leaving and what == "clean":
            self.orders[job.id].set_result(State.CANCELLED)
        try:
            state = await self.orders[job.id]
        except asyncio.CancelledError:
            await uncut(self._end(job, State.INTERRUPTED if job.interrupt_requested else State.CANCELLED))
            raise
        else:
            await self._end(job, state)
        finally:
            self.living.discard(job.id)

    async def _end(self, job: Job, state: State) -> None:
        job.resumable = state in {State.FAILED, State.INTERRUPTED}
        view = job.view().model_copy(update={"state": state})
        await (self.journal.tell(view) if job.resumable else self.journal.end(view))
        if state is State.DONE:
            job.move(State.BUNDLING)
            job.move(State.COMMITTING)
        job.move(state)

    async def wait_begun(self) -> tuple[str, Job]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.begun.get()

    async def end(self, job: Job, state: State = State.DONE) -> None:
        """Let a job that began end so: FAILED keeps what it stored."""
        self.orders[job.id].set_result(state)
        await ended(job)


@dataclass
class Scene:
    """A queue over a journal, and the hands that do its work."""

    queue: JobQueue
    hands: Hands
    journal: Journal

    async def submit(self, name: str = "a", **options: Any) -> Job:
        return (await self.queue.submit(request(name), **options))[0]

    async def begin(self, name: str = "a") -> Job:
        """Submit a job and wait until it runs."""
        job = await self.submit(name)
        assert await self.hands.wait_begun() == ("run", job)
        return job

    async def keep(self, name: str = "a") -> Job:
        """A job that failed and kept what it stored."""
        job = await self.begin(name)
        await self.hands.end(job, State.FAILED)
        return job

    async def fate(self, job: Job) -> Fate:
        kept = await self.journal.find(job.id)
        assert kept is not None
        return kept.fate


async def ended(job: Job) -> State:
    async with asyncio.timeout(PATIENCE_S):
        await job.ended.wait()
    return job.state


@asynccontextmanager
async def running(
    state_dir: Path,
    *,
    max_jobs: int = 2,
    max_queued: int = 10,
    make_journal: Callable[..., Journal] = Journal,
    drain: OnStop | None = OnStop.CANCEL,
) -> AsyncIterator[Scene]:
    """A queue as the daemon has it; at the end it is drained in this way, unless the test has done so."""
    async with make_journal(state_dir, by_itself=True) as journal:
        hands = Hands(journal)
        try:
            async with JobQueue(
                hands.run, hands.clean, journal, max_jobs=max_jobs, max_queued=max_queued, default_prefix="image"
            ) as queue:
                yield Scene(queue, hands, journal)
                hands.leaving = True
                if drain is not None:
                    await queue.drain(drain)
        finally:
            assert not hands.living


async def left_behind(state_dir: Path, fate: Fate, *, by_itself: bool = True, **view: Any) -> JobView:
    """Enter a job as a process that is gone left it."""
    async with Journal(state_dir, by_itself=by_itself) as journal:
        asked = request("a")
        made = Job(asked).view().model_copy(update=view)
        await journal.add(made, asked, confined=False, idempotency_key="")
        await journal.set_fate(made.id, fate)
        if fate is Fate.OVER:
            await journal.end(made)
    return made


async def test_entered_before_anybody_hears_of_it(tmp_path: Path) -> None:
    """Once a submit has answered, the job is in the journal, whoever reads it."""
    async with running(tmp_path) as scene:
        job = (await scene.queue.submit(request("a"), idempotency_key="one", confined=True))[0]
        async with Journal(tmp_path, by_itself=False) as another:
            kept = await another.find(job.id)
        assert kept is not None
        assert (kept.request, kept.idempotency_key, kept.confined) == (request("a"), "one", True)
        assert kept.by_itself


@pytest.mark.parametrize(
    ("fate", "state"), [(Fate.WAITING, State.QUEUED), (Fate.KEPT, State.BUNDLING), (Fate.KEPT, State.INTERRUPTED)]
)
async def test_what_was_cut_short_goes_on(fate: Fate, state: State, tmp_path: Path) -> None:
    """A job of a daemon that is gone is run again under its id, whether it waited, ran, or was interrupted."""
    view = await left_behind(tmp_path, fate, state=state, notices=("seen before",))
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        what, job = await scene.hands.wait_begun()
        assert (what, job.id, job.created_at, job.notices) == ("run", view.id, view.created_at, view.notices)
        assert scene.queue.get(view.id) is job
        await scene.hands.end(job)
        assert await scene.fate(job) is Fate.OVER


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
    """A job that somebody else ran, that failed, or that is not to go on by itself, is shown and may be resumed."""
    left = await left_behind(tmp_path, Fate.KEPT, by_itself=by_itself, **view)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=resume)
        job = scene.queue.get(left.id)
        wanted = State.INTERRUPTED if left.state is State.BUNDLING else State.FAILED
        assert (job.state, job.resumable, job.ended.is_set()) == (wanted, True, True)
        assert scene.hands.seen == []
        again = await scene.queue.resume(job.id)
        assert (again.state, again.id, again.resumable) == (State.QUEUED, job.id, False)
        assert await scene.hands.wait_begun() == ("run", again)
        await scene.hands.end(again)


@pytest.mark.parametrize("resume", [True, False])
async def test_what_was_being_removed_is_removed(resume: bool, tmp_path: Path) -> None:
    """A removal that was cut short is finished at the next start, whatever the setting."""
    view = await left_behind(tmp_path, Fate.CLEANING, state=State.BUNDLING)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=resume)
        what, job = await scene.hands.wait_begun()
        assert (what, job.id) == ("clean", view.id)
        await scene.hands.end(job, State.CANCELLED)
        assert await scene.fate(job) is Fate.OVER


async def test_what_is_over_is_only_shown(tmp_path: Path) -> None:
    """A job that has ended is remembered with its result, and there is nothing to resume or cancel."""
    view = await left_behind(tmp_path, Fate.OVER, state=State.DONE, result=RESULT)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        job = scene.queue.get(view.id)
        assert (job.state, job.result, job.resumable) == (State.DONE, RESULT, False)
        with pytest.raises(ConflictError, match="nothing of it is kept"):
            await scene.queue.resume(job.id)
        with pytest.raises(ConflictError, match="it is done already"):
            await scene.queue.cancel(job.id)
        assert scene.hands.seen == []


async def test_jobs_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    """What another process is doing at this moment is neither run nor shown."""
    async with Journal(tmp_path, by_itself=True) as another, running(tmp_path) as scene:
        theirs = Job(request("a"))
        await another.add(theirs.view(), theirs.request, confined=False, idempotency_key="")
        await scene.queue.recover(resume=True)
        assert scene.queue.jobs() == []


async def test_another_was_quicker(tmp_path: Path) -> None:
    """A job that another process takes up while this one starts is theirs, and the start goes on."""
    view = await left_behind(tmp_path, Fate.KEPT, state=State.BUNDLING)

    async with Journal(tmp_path, by_itself=True) as another:

        class Late(Journal):
            """Finds that between its looking and its claiming somebody else has claimed."""

            async def all(self) -> list[Kept]:
                found = await super().all()
                await another.claim(view.id)
                return found

        async with running(tmp_path, make_journal=Late) as scene:
            await scene.queue.recover(resume=True)
            assert scene.hands.seen == []
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


async def test_a_job_that_ended_long_ago_is_shown_as_it_ended(tmp_path: Path) -> None:
    """Its view and its last event stay as they were; the way there is told of the newest jobs only."""
    async with running(tmp_path) as scene:
        old = await scene.begin("old")
        follower = old.events()
        first = await anext(follower)
        old.note("the clock is off")
        old.result = RESULT
        await scene.hands.end(old)
        told = [event async for event in old.events()]
        for number in range(FRESH):
            assert [event async for event in old.events()] == told
            await scene.hands.end(await scene.begin(str(number)))
        await scene.submit("last")

        assert scene.queue.get(old.id).view() == told[-1].job
        assert (told[-1].job.notices, told[-1].job.result) == (("the clock is off",), RESULT)
        assert [event async for event in old.events()] == [told[-1]]
        assert [event async for event in old.events(after=told[-2].id)] == [told[-1]]
        assert [event async for event in old.events(after=told[-1].id)] == []
        assert [first, *[event async for event in follower]] == [told[0], told[-1]]


async def test_what_kept_something_is_never_put_away(tmp_path: Path) -> None:
    """A job that can be resumed says what it said before, however many ended since."""
    async with running(tmp_path) as scene:
        kept = await scene.begin("kept")
        kept.note("the clock is off")
        await scene.hands.end(kept, State.FAILED)
        for number in range(FRESH + 1):
            await scene.hands.end(await scene.begin(str(number)))
        resumed = await scene.queue.resume(kept.id)
        assert resumed.notices == ("the clock is off",)


async def test_what_is_being_taken_up_is_not_put_away(tmp_path: Path) -> None:
    """A job that is asked for while others come keeps what it said, also when it is not taken up after all."""
    held, asked = asyncio.Event(), asyncio.Event()

    class Held(Journal):
        """Waits before it lets a job be claimed."""

        async def claim(self, job_id: str) -> Kept:
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
    """Whoever runs the job may read what it ended with."""
    left = asyncio.Event()
    seen: list[JobResult | None] = []

    async with Journal(tmp_path, by_itself=True) as journal:
        hands = Hands(journal)

        async def run(job: Job) -> None:
            await hands.run(job)
            if job.request.source.endswith("slow"):
                await left.wait()
                seen.append(job.result)

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
    assert seen == [RESULT]


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
        assert scene.hands.seen == []
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
        assert await scene.fate(job) is Fate.OVER
        assert len(scene.hands.seen) <= 1


async def test_resume_begins_the_job_again(tmp_path: Path) -> None:
    """A job that kept something is run again under its id, and its earlier life is shown no more."""
    async with running(tmp_path) as scene:
        first = await scene.keep()
        second = await scene.queue.resume(first.id)
        assert scene.queue.jobs() == [second]
        assert await scene.hands.wait_begun() == ("run", second)
        await scene.hands.end(second)
        assert await scene.fate(second) is Fate.OVER


async def test_cancel_removes_what_was_kept(tmp_path: Path) -> None:
    """Cancelling a job that kept something begins its removal, and then its place is free."""
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
    """Neither a running job, nor one that kept nothing, nor one that nobody knows can be resumed."""
    async with running(tmp_path) as scene:
        job = await scene.begin()
        with pytest.raises(ConflictError, match="nothing of it is kept") as caught:
            await scene.queue.resume(job.id)
        assert (caught.value.code, caught.value.hint) == ("job.not_resumable", "it goes on by itself")
        await scene.hands.end(job)
        with pytest.raises(ConflictError) as caught:
            await scene.queue.resume(job.id)
        assert "amistream bundle" in caught.value.hint
        with pytest.raises(NotFoundError):
            await scene.queue.resume("nobody")


async def test_a_stopping_daemon_resumes_nothing(tmp_path: Path) -> None:
    """While the daemon stops, a job is not taken up; it can be in the next one."""
    async with running(tmp_path) as scene:
        job = await scene.keep()
        await scene.queue.drain(OnStop.FINISH)
        with pytest.raises(BusyError):
            await scene.queue.resume(job.id)
        assert job.resumable


@pytest.mark.parametrize("ask", ["resume", "cancel"])
async def test_a_job_that_another_process_finished(ask: str, tmp_path: Path) -> None:
    """What another process did since this one looked is told and shown, and not done or undone a second time."""
    view = await left_behind(tmp_path, Fate.KEPT, by_itself=False, state=State.INTERRUPTED)
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
        assert scene.hands.seen == []
        kept = await scene.journal.find(view.id)
        assert kept is not None
        assert (kept.fate, kept.view) == (Fate.OVER, done)


async def test_another_finished_it_while_this_one_started(tmp_path: Path) -> None:
    """A job that another process finishes while this one starts is shown as that left it."""
    view = await left_behind(tmp_path, Fate.KEPT, state=State.BUNDLING)

    class Late(Journal):
        """Finds that between its looking and its claiming somebody else has done all."""

        async def all(self) -> list[Kept]:
            found = await super().all()
            async with Journal(tmp_path, by_itself=True) as another:
                await another.claim(view.id)
                await another.end(view.model_copy(update={"state": State.DONE, "result": RESULT}))
            return found

    async with running(tmp_path, make_journal=Late) as scene:
        await scene.queue.recover(resume=True)
        assert scene.hands.seen == []
        assert scene.queue.get(view.id).state is State.DONE


async def test_a_job_that_another_process_took_up(tmp_path: Path) -> None:
    """What another process goes on with is neither resumed nor removed here, and can be once that is gone."""
    view = await left_behind(tmp_path, Fate.KEPT, by_itself=False, state=State.INTERRUPTED)
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


@pytest.mark.parametrize(
    "asked", [("resume", "resume"), ("resume", "cancel"), ("cancel", "resume"), ("cancel", "cancel")]
)
async def test_asked_twice_at_once(asked: tuple[str, str], tmp_path: Path) -> None:
    """Of two requests about one kept job that come at the same moment the first counts: it never lives twice."""
    async with running(tmp_path, max_jobs=4) as scene:
        job = await scene.keep()
        del scene.hands.seen[:]
        asking = [getattr(scene.queue, word)(job.id) for word in asked]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], Job)
        assert isinstance(answers[1], Job | ConflictError)
        await scene.hands.wait_begun()
        await scene.queue.drain(OnStop.CANCEL)
        assert scene.hands.seen == [("run" if asked[0] == "resume" else "clean", job.id)]


async def test_a_waiting_job_that_kept_something_is_removed_when_it_is_cancelled(tmp_path: Path) -> None:
    """What an earlier life stored is removed although this one never began: its parts must not be forgotten."""
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
    """A job with parts that waits to go on when the daemon stops has them removed, or is left to the next one."""
    view = await left_behind(tmp_path, Fate.KEPT, state=State.BUNDLING)
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
        kept = await scene.fate(job)
    assert (job.state, kept) == (
        (State.CANCELLED, Fate.OVER) if how is OnStop.CANCEL else (State.INTERRUPTED, Fate.KEPT)
    )


async def test_a_removal_that_waits_is_not_forgotten_by_a_stop(tmp_path: Path) -> None:
    """Who was told that a job is being cancelled finds it removed by the next daemon, if not by this one."""
    async with running(tmp_path, max_jobs=1, drain=OnStop.INTERRUPT) as scene:
        kept = await scene.keep("a")
        await scene.begin("b")
        await scene.queue.cancel(kept.id)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=False)
        what, job = await scene.hands.wait_begun()
        assert (what, job.id) == ("clean", kept.id)


@pytest.mark.parametrize("begins", [True, False], ids=["begun", "before it could begin"])
async def test_asked_again_while_the_last_life_is_on_its_way_out(begins: bool, tmp_path: Path) -> None:
    """A job that is resumed while its ended life still does something can be cancelled like any other."""
    async with Journal(tmp_path, by_itself=True) as journal:
        hands = Hands(journal)
        may_leave = asyncio.Event()

        async def lingering(job: Job) -> None:
            if hands.seen:
                await hands.run(job)
                return
            hands.seen.append(("run", job.id))
            job.move(State.CHECKING)
            job.fail(StoreError("store.lost", "cannot: lost"), resumable=True)
            await may_leave.wait()

        async with JobQueue(lingering, hands.clean, journal, max_jobs=2, max_queued=2, default_prefix="image") as queue:
            first, _ = await queue.submit(request("a"))
            await ended(first)
            first_life = queue._tasks[first.id]
            second = await queue.resume(first.id)
            hands.leaving = True
            if begins:
                await hands.wait_begun()
                may_leave.set()
                await asyncio.wait({first_life})
            await queue.cancel(second.id)
            may_leave.set()
            assert await ended(second) is State.CANCELLED


class Breaking(Journal):
    """A journal whose disk is full once the test says so."""

    is_full = False

    async def end(self, view: JobView) -> None:
        self._check()
        await super().end(view)

    async def add(self, *values: Any, **more: Any) -> None:
        self._check()
        await super().add(*values, **more)

    async def claim(self, job_id: str) -> Kept:
        self._check()
        return await super().claim(job_id)

    def _check(self) -> None:
        if self.is_full:
            raise JobError("journal.full", "cannot keep the journal: database or disk is full")


async def test_full_disk_refuses_a_job(tmp_path: Path) -> None:
    """A job that cannot be entered is refused with the cause, and nothing of it is left, not even in its place."""
    async with running(tmp_path, make_journal=Breaking) as scene:
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        with pytest.raises(JobError, match="disk is full"):
            await scene.submit("a", idempotency_key="one")
        assert scene.queue.jobs() == []
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        job = await scene.submit("a", idempotency_key="one")
        assert await scene.hands.wait_begun() == ("run", job)


async def test_full_disk_does_not_stop_the_other_jobs(tmp_path: Path) -> None:
    """When the end of a waiting job cannot be entered, that job has ended all the same, and the others go on."""
    async with running(tmp_path, max_jobs=1, make_journal=Breaking) as scene:
        busy = await scene.begin("a")
        waiting = await scene.submit("b")
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        await scene.queue.cancel(waiting.id)
        assert await ended(waiting) is State.CANCELLED
        assert not busy.state.ended
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        await scene.hands.end(busy)
        assert busy.state is State.DONE


async def test_full_disk_keeps_a_job_resumable(tmp_path: Path) -> None:
    """A job that cannot be taken up for want of room can be later."""
    async with running(tmp_path, make_journal=Breaking) as scene:
        job = await scene.keep()
        scene.journal.is_full = True  # type: ignore[attr-defined]  # a Breaking one
        for ask in (scene.queue.resume, scene.queue.cancel):
            with pytest.raises(JobError, match="disk is full"):
                await ask(job.id)
        scene.journal.is_full = False  # type: ignore[attr-defined]  # as above
        again = await scene.queue.resume(job.id)
        assert await scene.hands.wait_begun() == ("run", again)


async def test_who_gives_up_waiting_for_the_answer(tmp_path: Path) -> None:
    """A client that goes away while its job is being entered leaves a job that lives, or none."""
    async with running(tmp_path) as scene:
        asking = asyncio.create_task(scene.queue.submit(request("a")))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        for job in scene.queue.jobs():
            assert await scene.hands.wait_begun() == ("run", job)
            await scene.hands.end(job)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({}, {}, True),
        ({}, {"prefix": "image"}, True),
        ({"prefix": "image"}, {}, True),
        ({}, {"prefix": "other"}, False),
        ({"prefix": "a"}, {"prefix": "b"}, False),
        (
            {"destinations": ["s3://one-1/x", "s3://two-2/x"]},
            {"destinations": ["s3://two-2/x", "s3://three-3/x"]},
            True,
        ),
        ({"destinations": ["s3://one-1/x"]}, {"destinations": ["s3://one-1/x/"]}, True),
        ({"destinations": ["s3://one-1/x"]}, {"destinations": ["s3://one-1/y"]}, False),
        ({"destinations": ["/bundles/a"]}, {"destinations": ["/bundles/a/"]}, True),
        ({"destinations": ["/bundles/a"]}, {"destinations": ["/bundles//b/../a/."]}, True),
    ],
)
@pytest.mark.parametrize("kept", [False, True], ids=["while it runs", "while it keeps its parts"])
async def test_the_same_place(
    first: dict[str, Any], second: dict[str, Any], same: bool, kept: bool, tmp_path: Path
) -> None:
    """Two jobs never write under the same names in one place, also when one of them has ended unfinished there."""
    async with running(tmp_path) as scene:
        job, _ = await scene.queue.submit(request("a", **first))
        await scene.hands.wait_begun()
        if kept:
            await scene.hands.end(job, State.FAILED)
        if not same:
            await scene.queue.submit(request("a", **second))
            return
        with pytest.raises(ConflictError) as caught:
            await scene.queue.submit(request("a", **second))
        assert caught.value.field == "destinations"
        assert job.id in caught.value.message
        if kept:
            assert caught.value.code == "job.kept_there"
            assert f"amistream resume {job.id}" in caught.value.hint
            assert f"amistream cancel {job.id}" in caught.value.hint
        else:
            assert caught.value.code == "job.same_destination"
            assert f"amistream watch {job.id}" in caught.value.hint
            await scene.hands.end(job)
            await scene.queue.submit(request("a", **second))


@pytest.mark.parametrize("word", ["resume", "cancel"])
async def test_a_place_is_not_free_while_its_job_is_taken_up(word: str, tmp_path: Path) -> None:
    """A new job that comes at the very moment in which a kept one is taken up does not get its place."""
    async with running(tmp_path, max_jobs=4) as scene:
        job = await scene.keep()
        asked = [getattr(scene.queue, word)(job.id), scene.queue.submit(request("a"))]
        taken, refused = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(taken, Job)
        assert isinstance(refused, ConflictError)
        assert refused.field == "destinations"


async def test_parts_of_an_earlier_daemon_hold_their_place(tmp_path: Path) -> None:
    """What a daemon before kept somewhere is in the way of a new job there, until it is removed."""
    view = await left_behind(tmp_path, Fate.KEPT, state=State.FAILED, resumable=True)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        with pytest.raises(ConflictError) as caught:
            await scene.submit("a")
        assert caught.value.code == "job.kept_there"
        job = await scene.queue.cancel(view.id)
        await scene.hands.wait_begun()
        await scene.hands.end(job, State.CANCELLED)
        await scene.begin("a")


async def test_what_an_earlier_life_said_is_not_said_of_the_next(tmp_path: Path) -> None:
    """A job that is taken up again has no error, result or end of its earlier life, but its notices."""
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
    """What nobody foresaw fails the job that it befell, which can be resumed; the others go on, and more are taken."""
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


async def test_resumed_jobs_need_room_too(tmp_path: Path) -> None:
    """When as many jobs wait as may, none is taken up: it stays as it is, and can be later."""
    async with running(tmp_path, max_jobs=1, max_queued=1) as scene:
        kept = await scene.keep("a")
        busy = await scene.begin("b")
        await scene.submit("c")
        with pytest.raises(BusyError) as caught:
            await scene.queue.resume(kept.id)
        assert (caught.value.code, kept.resumable) == ("daemon.full", True)
        await scene.hands.end(busy)
        await scene.hands.wait_begun()
        assert (await scene.queue.resume(kept.id)).state is State.QUEUED
