"""A job is cancelled, or interrupted, at each of its steps: before a request is seen, and after it was done.

Counts: the job makes 20 requests or more, with a multipart upload, a manifest and a registration among them; at each of
them it is cancelled twice and interrupted once (twice when the variable FAULT_SEEDS is above 1).
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import BundleResult, State
from amistream.flow import cancel
from amistream.settings import OnStop
from faults.scene import REGISTER, ended, hit, turns
from support.proxy import Fault, PauseReply, PauseRequest

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from faults.scene import MakeScene, Scene
    from support.proxy import Action

CHUNKED: dict[str, Any] = {
    "size": 6_500_000,
    "part_size": "6MiB",
    "multipart_threshold": "5MiB",
    "multipart_chunk": "5MiB",
}
LEAST_STEPS = 20
HELD: list[Action] = [PauseRequest(), PauseReply()]
HELD_NAMES = ["before a request is seen", "after it was done"]


async def count_requests(there: Scene) -> int:
    before = len(there.proxy.requests)
    job = await there.run(there.request("whole"))
    assert job.state is State.DONE, job.error
    return len(there.proxy.requests) - before


async def held_at(there: Scene, step: int, action: Action) -> Fault:
    held = Fault(action=action, method=".*", nth=step)
    await asyncio.to_thread(there.proxy.add, held)
    return held


async def let_go(there: Scene, held: Fault) -> str:
    """Let the request continue; returns its kind once it is over."""
    (request,) = [each for each in there.proxy.requests if each.fault is held]
    await asyncio.to_thread(there.proxy.let_go, held)
    return f"{request.method} {request.path}?{request.query} {request.parameters.get('Action', '')}"


async def settled(there: Scene, held: Fault) -> None:
    (request,) = [each for each in there.proxy.requests if each.fault is held]
    assert await asyncio.to_thread(request.over.wait, 10)


@pytest.mark.parametrize("action", HELD, ids=HELD_NAMES)
async def test_cancelled_at_each_step_nothing_is_left(action: Action, scene: MakeScene) -> None:
    """No object, upload, image, task, thread or open file stays, wherever the cancel comes; the daemon stays usable."""
    async with scene(**CHUNKED) as there:
        steps = await count_requests(there)
        assert steps >= LEAST_STEPS
        kept = there.left()
        wrong = []
        async with there.queue() as queue:
            tasks = len(asyncio.all_tasks())
            for step in range(1, steps + 1):
                held = await held_at(there, step, action)
                job, _ = await queue.submit(there.request(f"step-{step}"))
                await hit(there.proxy, held)
                await queue.cancel(job.id)
                what = await let_go(there, held)
                await ended(job)
                await settled(there, held)
                left = [each for each in there.left() if each not in kept] + there.images(f"step-{step}")
                if (job.state, job.resumable, left) != (State.CANCELLED, False, []):
                    wrong.append((step, what, job.state, job.notices, left))
                kept += left
                await turns()
                assert len(asyncio.all_tasks()) == tasks
        assert not wrong
        assert (await there.run(there.request("after"))).state is State.DONE


@pytest.mark.parametrize("turn", range(min(2, int(os.environ.get("FAULT_SEEDS", "1")))))
async def test_interrupted_at_each_step_it_goes_on(turn: int, scene: MakeScene) -> None:
    """The next daemon goes on by itself, and the bundle is right, with one image and each part stored once."""
    async with scene(**CHUNKED) as there:
        steps = await count_requests(there)
        wrong = []
        for step in range(1, steps + 1):
            place = f"step-{step}"
            held = await held_at(there, step, HELD[(turn + step) % 2])
            async with there.queue() as queue:
                job, _ = await queue.submit(there.request(place))
                await hit(there.proxy, held)
                stopping = asyncio.create_task(queue.drain(OnStop.INTERRUPT))
                await asyncio.sleep(0)
                what = await let_go(there, held)
                await stopping
            await settled(there, held)
            assert job.state is State.INTERRUPTED, (what, job.state, job.error)
            again = await resumed(there, job)
            images = there.images(place)
            made = again.result.image_id if isinstance(again.result, BundleResult) else None
            if again.state is not State.DONE or images != [made]:
                wrong.append((step, what, again.state, again.error, images))
                continue
            there.fits(place)
        assert not wrong
        assert not there.ground.uploads(there.root)
        there.parts_stored_once()


async def resumed(there: Scene, job: Job) -> Job:
    """The job at its end in the next daemon, which goes on with it at its start."""
    async with there.queue() as queue:
        again = queue.get(job.id)
        await ended(again)
    return again


class CutLog:
    """A log that shows when a cancelled request's answer is waited for."""

    def __init__(self) -> None:
        self.cut = asyncio.Event()

    def info(self, event: str, **_: float) -> None:
        assert event == "request.cut"
        self.cut.set()


@pytest.mark.parametrize(
    ("query", "form"),
    [("^uploads", ""), ("^uploadId=[^&]*$", ""), ("", REGISTER)],
    ids=["begin an upload", "complete an upload", "register"],
)
async def test_a_request_that_arrives_after_the_cancel(
    query: str, form: str, scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that takes effect after the cancel is undone too."""
    log = CutLog()
    monkeypatch.setattr(cancel, "log", log)
    held = Fault(action=PauseRequest(), method="POST", query=query, form=form)
    async with scene(held, **CHUNKED) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            await queue.cancel(job.id)
            await log.cut.wait()
            await let_go(there, held)
            await ended(job)
            await settled(there, held)
        assert job.state is State.CANCELLED
        assert there.left() == []
