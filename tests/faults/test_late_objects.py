"""Objects and AMIs that a request makes long after it was given up: no removal forgets that they may still come.

Counts: a part, looked for by a second cancel, by the next process, by the daemon itself, and after an interrupt; an
AMI, also recorded before EC2 is asked; a part that an earlier attempt makes; a volume that changed meanwhile; a
failed job's unfinished removal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from amistream.errors import ConflictError, JournalError
from amistream.events import State
from amistream.flow import cancel
from amistream.jobs.journal import Journal
from amistream.ports import unanswered
from amistream.settings import OnStop
from amistream.units import time_text
from faults.scene import REGISTER, ended, hit, part, turns
from support.loop import clock
from support.proxy import Answer, Fault, PauseReply, PauseRequest
from support.volumes import random_image

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from amistream.jobs.queue import JobQueue
    from faults.scene import MakeScene, Scene

PART, AMI = "a part", "an AMI"
FIFTEEN_MINUTES_S = 901
NOTICE = "may still appear, because the request for it was never answered"


def held_request(what: str) -> Fault:
    if what == PART:
        return Fault(action=PauseRequest(whole=True), path=part(1))
    return Fault(action=PauseRequest(), method="POST", form=REGISTER)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shorter for the answers that do not come."""
    monkeypatch.setattr(cancel, "SETTLE_S", 0.2)


async def stopped_at(there: Scene, queue: JobQueue, held: Fault, *, interrupted: bool = False) -> Job:
    """A job that was cancelled, or interrupted, while a request waits for its answer."""
    job, _ = await queue.submit(there.request())
    await hit(there.proxy, held)
    if interrupted:
        await queue.drain(OnStop.INTERRUPT)
    else:
        await queue.cancel(job.id)
    await ended(job)
    return job


async def arrives(there: Scene, held: Fault) -> None:
    """Let the endpoint do what it was asked to do so long ago."""
    await asyncio.to_thread(there.proxy.let_go, held)
    (request,) = [each for each in there.proxy.requests if each.fault is held]
    assert await asyncio.to_thread(request.over.wait, 30)


def is_unsure(job: Job) -> bool:
    noted = [each for each in job.notices if NOTICE in each]
    return job.state is State.CANCELLED and job.resumable and job.looks_again_at is not None and noted != []


def put_forward() -> None:
    clock(FIFTEEN_MINUTES_S).loop.put_forward(FIFTEEN_MINUTES_S)


async def looked_again(queue: JobQueue, job: Job) -> Job:
    """The job once the queue has looked again by itself, 15 minutes later."""
    while queue.get(job.id) is job:
        put_forward()
        await turns()
    await ended(queue.get(job.id))
    return queue.get(job.id)


@pytest.mark.parametrize(
    ("what", "how"),
    [(PART, "a second cancel"), (PART, "the next process"), (PART, "after an interrupt"), (AMI, "the next process")],
)
async def test_looked_for_until_it_cannot_come_any_more(what: str, how: str, scene: MakeScene) -> None:
    """No removal ends the job while the request may still take effect; a removal finds what came."""
    held = held_request(what)
    async with scene(held, resume_on_start=False) as there:
        async with there.queue() as queue:
            job = await stopped_at(there, queue, held, interrupted=how == "after an interrupt")
            assert job.resumable
            if how == "a second cancel":
                await ended(await queue.cancel(job.id))
                assert is_unsure(queue.get(job.id))
        if how != "a second cancel":
            assert is_unsure(await there.cancel(job))
        assert there.left() == []
        await arrives(there, held)
        assert len(there.left()) == 1
        job = await there.cancel(job)
        assert (job.state, job.resumable, job.looks_again_at) == (State.CANCELLED, False, None)
        assert there.left() == []


@pytest.mark.parametrize("comes", [True, False])
async def test_the_daemon_looks_again_by_itself(comes: bool, scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue removes what came late once nothing more can come, and then the job is over."""
    held = held_request(PART)
    async with scene(held) as there, there.queue() as queue:
        job = await stopped_at(there, queue, held)
        assert is_unsure(job)
        assert any("the daemon looks again then" in each for each in job.notices)
        if comes:
            await arrives(there, held)
        again = await looked_again(queue, job)
        assert (again.state, again.resumable) == (State.CANCELLED, not comes)
        if not comes:
            monkeypatch.setattr(unanswered, "LIFE_S", 0)
            assert not (await looked_again(queue, again)).resumable
        assert there.left() == []
        await asyncio.to_thread(there.proxy.let_go, held)


async def test_recorded_before_ec2_is_asked(scene: MakeScene) -> None:
    """The next process knows of a registration that was under way when this one was killed; no new job begins there."""
    held = held_request(AMI)
    async with scene(held) as there, there.queue() as queue:
        job, _ = await queue.submit(there.request())
        await hit(there.proxy, held)
        async with Journal(there.settings.state_dir, by_itself=False) as another:
            entry = await another.find(job.id)
        assert entry is not None
        assert (entry.images, list(entry.late[0])) == ({}, [unanswered.AMI])
        await queue.cancel(job.id)
        await ended(job)
        assert job.looks_again_at is not None
        with pytest.raises(ConflictError, match="may still appear at its destination") as caught:
            await queue.submit(there.request())
        assert f"wait until {time_text(job.looks_again_at)}" in caught.value.hint
        assert f"amistream cancel {job.id}" in caught.value.hint
        await arrives(there, held)
        await ended(await queue.cancel(job.id))
        assert there.left() == []


async def test_recorded_once_the_journal_can(scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk was full when a request was given up, it is recorded at the next occasion."""
    record, failures = Journal.late, [JournalError("journal.full", "cannot keep the journal: disk is full")]

    async def fail_once(journal: Journal, *values: Any) -> None:
        if failures:
            raise failures.pop()
        await record(journal, *values)

    monkeypatch.setattr(Journal, "late", fail_once)
    held = held_request(PART)
    async with scene(held, resume_on_start=False) as there:
        async with there.queue() as queue:
            job = await stopped_at(there, queue, held)
        assert failures == []
        assert is_unsure(await there.cancel(job))
        await arrives(there, held)
        await there.cancel(job)
        assert there.left() == []


async def test_an_earlier_attempt_is_not_forgotten(scene: MakeScene) -> None:
    """An attempt without an answer may store the part after a later one did, and after that was removed."""
    silent, last = held_request(PART), Fault(action=PauseReply(), path=part(4))
    async with scene(silent, last) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, silent)
            await hit(there.proxy, last)
            await queue.cancel(job.id)
            await asyncio.to_thread(there.proxy.let_go, last)
            await ended(job)
        assert is_unsure(job)
        await arrives(there, silent)
        assert there.left() == ["x/image.part.01"]
        job = await there.cancel(job)
        assert (job.resumable, there.left()) == (False, [])


async def test_a_volume_that_changed_meanwhile(scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job starts over only once no part of its first key can come any more."""
    held = held_request(PART)
    async with scene(held, resume_on_start=False) as there:
        async with there.queue() as queue:
            job = await stopped_at(there, queue, held, interrupted=True)
            assert job.state is State.INTERRUPTED
        random_image(there.image, there.image.stat().st_size, seed=5)
        async with there.queue() as queue:
            job = await queue.resume(job.id)
            async for event in job.events():
                if any("starts over then" in each for each in event.job.notices):
                    break
            assert there.left() == []
            await arrives(there, held)
            monkeypatch.setattr(unanswered, "LIFE_S", 0)
            put_forward()
            await ended(job)
        assert job.state is State.DONE, job.error
        there.fits(thoroughly=True)


@pytest.mark.parametrize("by_user", [False, True])
async def test_why_a_job_failed_is_not_forgotten(by_user: bool, scene: MakeScene) -> None:
    """A failed job whose removal another process finishes ends as it failed, unless its user cancels it."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method="DELETE", path=part(".*"), times=None)
    async with scene(denied) as there:
        held = Fault(action=PauseRequest(), path=part(3))
        await asyncio.to_thread(there.proxy.add, held)
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            there.ground.s3.put_object(Bucket=there.ground.bucket, Key=f"{there.root}/x/image.part.03", Body=b"rival")
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert job.error is not None
        assert (job.state, job.error.code, job.resumable) == (State.FAILED, "store.exists", True)
        first = job.error
        for mended in (False, True):
            if mended:
                await asyncio.to_thread(there.proxy.mend, denied)
            async with there.queue() as queue:
                job = await queue.cancel(job.id) if mended and by_user else queue.get(job.id)
                await ended(job)
            as_before = (State.FAILED, first) if not (mended and by_user) else (State.CANCELLED, None)
            assert (job.state, job.error, job.resumable) == (*as_before, not mended)
        assert there.ground.keys(there.root) == ["x/image.part.03"]
