"""A job that is lent by a queue of many hosts: it has a lease, and once that is lost it changes nothing any more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from amistream.errors import ConflictError, FencedError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.lease import rank_of
from amistream.jobs.old_jobs import end_old
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import JournalEntry, NextStep
from jobs.leases import LentJob
from jobs.queueing import ended, left_behind, request, running
from jobs.runs import at_part

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Scene

LOST = FencedError("lease.lost", "cannot go on: the lease of the job is over")


async def lent(scene: Scene, lease: LentJob) -> Job:
    job = Job(scene.request(), name=lease.name, lease=lease)
    await scene.engine.enter(job)
    return job


async def test_no_daemon_takes_up_a_lent_job_by_itself(tmp_path: Path) -> None:
    """A named job of an earlier process waits, resumable, until it gets a lease; one without a name goes on."""
    own = await left_behind(tmp_path, NextStep.KEPT, state=State.BUNDLING)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        assert (await scene.hands.wait_begun())[1].id == own.id
        await scene.hands.end(scene.queue.get(own.id))
        job, _ = await scene.queue.submit(request("web"), name="web", lease=LentJob(name="web"))
        await scene.hands.wait_begun()
        await scene.hands.end(job, State.FAILED)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        waiting = scene.queue.named("web")
        assert waiting is not None
        assert (waiting.id, waiting.resumable, waiting.lease) == (job.id, True, None)
        assert scene.queue.named("other") is scene.queue.named("") is None
        lease = LentJob(name="web", attempt=2)
        again = await scene.queue.resume(job.id, lease=lease)
        assert await scene.hands.wait_begun() == ("run", again)
        assert (again.name, again.lease) == ("web", lease)


async def test_a_job_that_nobody_goes_on_with(tmp_path: Path) -> None:
    """A job of a queue that has waited for longer than a message can is removed; one that may be whole stays there."""
    async with running(tmp_path) as scene:
        scene.hands.keeps = True
        kept = {}
        for name in ("web", "db", ""):
            job, _ = await scene.queue.submit(request(name or "own"), name=name)
            await scene.hands.wait_begun()
            await scene.hands.end(job, State.FAILED)
            kept[name] = job
        await scene.journal.commit(kept["db"].id, 0, b"<manifest>")
        now = datetime.now(UTC)
        await end_old(scene.queue, now + timedelta(days=14))
        assert [job.resumable for job in scene.queue.jobs()] == [True] * 3
        await end_old(scene.queue, now + timedelta(days=16))
        what, job = await scene.hands.wait_begun()
        assert (what, job.id) == ("clean", kept["web"].id)
        await scene.hands.end(job, State.CANCELLED)
        left = {name: scene.queue.get(job.id) for name, job in kept.items()}
        assert [(job.state, job.resumable) for job in left.values()] == [
            (State.CANCELLED, False),
            (State.FAILED, False),
            (State.FAILED, True),
        ]
        assert await scene.next_step(kept["db"]) is NextStep.OVER


async def test_an_old_job_that_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old job that is resumed while the old ones are looked through runs on."""
    async with running(tmp_path) as scene:
        scene.hands.keeps = True
        job, _ = await scene.queue.submit(request("web"), name="web")
        await scene.hands.wait_begun()
        await scene.hands.end(job, State.FAILED)
        find = scene.journal.find

        async def find_and_resume(job_id: str) -> JournalEntry | None:
            found = await find(job_id)
            await scene.queue.resume(job_id)
            return found

        monkeypatch.setattr(scene.journal, "find", find_and_resume)
        await end_old(scene.queue, datetime.now(UTC) + timedelta(days=16))
        what, again = await scene.hands.wait_begun()
        assert (what, again.cancel_requested) == ("run", False)
        await scene.hands.end(again)


async def test_the_newest_job_of_a_name(tmp_path: Path) -> None:
    """Of several jobs of one name the newest counts."""
    async with running(tmp_path) as scene:
        for _ in range(2):
            job, is_new = await scene.queue.submit(request("web"), name="web")
            assert is_new
            await scene.hands.wait_begun()
            await scene.hands.end(job)
        assert scene.queue.named("web") is job


async def test_a_lease_that_ends_while_the_job_runs(scene: Scene) -> None:
    """An interrupted job ends with the cause that was given, keeps its parts, and goes on under another lease."""
    async with JobQueue(
        scene.engine.run, scene.engine.clean, scene.journal, max_jobs=1, max_queued=1, default_prefix="image"
    ) as queue:
        with scene.held("seal", at_part(3)) as call:
            job, _ = await queue.submit(scene.request(), name="web", lease=LentJob(name="web"))
            await call.came.wait()
            queue.interrupt(job.id, LOST)
            call.go.set()
            assert await ended(job) is State.INTERRUPTED
        assert (job.view().error is not None, job.resumable) == (True, True)
        assert job.error is not None
        assert (job.error.code, job.error.message) == (LOST.code, LOST.message)
        assert len(scene.files()) >= 1
        assert (await scene.remembered(job)).name == "web"
        again = await queue.resume(job.id, lease=LentJob(name="web", attempt=2))
        assert await ended(again) is State.DONE
        scene.fits()
        assert queue.interrupt(job.id, LOST).state is State.DONE


async def test_a_waiting_job_whose_lease_ends(tmp_path: Path) -> None:
    """A job that has not begun ends with the cause, too, and can be given to another host."""
    async with running(tmp_path, max_jobs=1) as scene:
        await scene.begin("first")
        job, _ = await scene.queue.submit(request("web"), name="web", lease=LentJob(name="web"))
        scene.queue.interrupt(job.id, LOST)
        await scene.hands.end(scene.queue.jobs()[0])
        assert await ended(job) is State.INTERRUPTED
        assert job.error is not None
        assert (job.error.code, job.resumable) == ("lease.lost", True)


@pytest.mark.parametrize("lost", [False, True])
async def test_nothing_is_removed_without_the_lease(lost: bool, scene: Scene) -> None:
    """A cancelled job removes its parts while it has its lease, and leaves them to the next host when it has not."""
    lease = LentJob()
    job = await lent(scene, lease)
    with scene.held("seal", at_part(3)) as call:
        running_job = asyncio.create_task(scene.engine.run(job))
        await call.came.wait()
        there = [path.name for path in scene.out.glob("image.*")]
        if lost:
            lease.lose()
        job.ask_to_stop(keep=False)
        running_job.cancel()
        await asyncio.sleep(0)
        call.go.set()
        await asyncio.wait({running_job})
    if not lost:
        assert (job.state, scene.files()) == (State.CANCELLED, {})
        return
    assert job.error is not None
    assert (job.state, job.error.code, job.resumable) == (State.INTERRUPTED, "lease.lost", True)
    assert set(there) <= scene.files().keys()
    assert await scene.next_step(job) is NextStep.KEPT


async def test_no_removal_is_begun_without_the_lease(scene: Scene) -> None:
    """The removal of a job that ended is refused when its lease is lost, and stays possible."""
    job = await scene.run(room=3)
    there = scene.files()
    remembered = await scene.remembered(job)
    remembered.lease = LentJob(lost_at=1)
    await scene.engine.clean(remembered)
    assert remembered.error is not None
    assert (remembered.state, remembered.error.code) == (State.INTERRUPTED, "lease.lost")
    assert scene.files() == there
    assert (await scene.clean(job)).state is State.CANCELLED
    assert scene.files() == {}


def test_the_later_lease() -> None:
    """A message received again is later than before, and one sent again is later than any receive of the first."""
    first, again = LentJob(attempt=1), LentJob(attempt=2)
    redriven = LentJob(attempt=1, sent_at=first.sent_at + 60)
    assert rank_of(first) < rank_of(again) < rank_of(redriven)


async def test_two_jobs_of_one_destination(tmp_path: Path) -> None:
    """A second job to the destination of a running one is refused, whatever its name is."""
    async with running(tmp_path) as scene:
        job, _ = await scene.queue.submit(request("web"), name="web")
        await scene.hands.wait_begun()
        with pytest.raises(ConflictError, match=job.id):
            await scene.queue.submit(request("web"), name="db")
        await scene.hands.end(job)
