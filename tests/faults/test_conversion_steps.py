"""A conversion is cancelled, or interrupted, at each of its requests: before one is seen, and after it was done.

Counts: a conversion of a few blocks makes 14 requests or more, from the checks over the start, the blocks and the
completion to the registration; at each of them it is cancelled twice, and interrupted once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.events import State
from amistream.jobs.queue import JobQueue, open_queue
from amistream.settings import OnStop, Settings
from faults.scene import ended, hit, quick_settings, turns
from jobs.converting import Conversions
from jobs.work import use_endpoint
from support.boot_disks import partitioned
from support.proxy import Fault, FaultProxy, PauseReply, PauseRequest
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeProxy
    from support.ebs_endpoint import EbsEndpoint
    from support.proxy import Action

LEAST_STEPS = 14
HELD: list[Action] = [PauseRequest(), PauseReply()]
HELD_NAMES = ["before a request is seen", "after it was done"]


@dataclass(kw_only=True)
class Steps:
    """A conversion whose requests go through a proxy."""

    conversions: Conversions
    proxy: FaultProxy
    settings: Settings
    aws: Aws

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[JobQueue]:
        """The daemon's queue from start to end, without its socket."""
        async with open_queue(self.settings, self.aws, by_itself=True) as queue:
            await queue.recover(resume=True)
            yield queue

    async def count(self) -> int:
        """Number of the requests of a whole job, which is removed again."""
        before = len(self.proxy.requests)
        async with self.queue() as queue:
            job, _ = await queue.submit(self.request())
            await ended(job)
        self.conversions.fits(job)
        steps = len(self.proxy.requests) - before
        self.clear()
        return steps

    def request(self) -> Any:
        return self.conversions.request(endpoint_url=self.proxy.url, puts=2)

    def clear(self) -> None:
        """Remove what a finished job made."""
        endpoint = self.conversions.endpoint
        with endpoint.blocking_client("ec2") as ec2:
            for image in endpoint.images():
                ec2.deregister_image(ImageId=image["imageId"])
            for snapshot in endpoint.snapshots():
                ec2.delete_snapshot(SnapshotId=snapshot["id"])
        assert self.conversions.left() == []

    async def held_at(self, step: int, action: Action) -> Fault:
        held = Fault(action=action, method=".*", nth=step)
        await asyncio.to_thread(self.proxy.add, held)
        return held

    async def let_go(self, held: Fault) -> str:
        """Let the request continue; returns its kind."""
        (request,) = [each for each in self.proxy.requests if each.fault is held]
        await asyncio.to_thread(self.proxy.let_go, held)
        return f"{request.method} {request.path} {request.parameters.get('Action', '')}"

    async def settled(self, held: Fault) -> None:
        (request,) = [each for each in self.proxy.requests if each.fault is held]
        assert await asyncio.to_thread(request.over.wait, 10)


@pytest.fixture
async def steps(
    ebs_endpoint: EbsEndpoint, make_proxy: MakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Steps]:
    use_endpoint(ebs_endpoint, monkeypatch)
    disk = partitioned(random_image(tmp_path / "disk.img", 2_500_000), "mbr").path
    conversions = Conversions(disk=disk, endpoint=ebs_endpoint, directory=tmp_path)
    chosen = quick_settings(tmp_path)
    async with Aws(chosen) as aws:
        proxy = make_proxy(ebs_endpoint)
        yield Steps(conversions=conversions, proxy=proxy, settings=chosen, aws=aws)


@pytest.mark.parametrize("action", HELD, ids=HELD_NAMES)
async def test_cancelled_at_each_step_nothing_is_left(action: Action, steps: Steps) -> None:
    """No snapshot, AMI or task stays, wherever the cancel comes; the daemon stays usable."""
    number = await steps.count()
    assert number >= LEAST_STEPS
    wrong = []
    async with steps.queue() as queue:
        tasks = len(asyncio.all_tasks())
        for step in range(1, number + 1):
            held = await steps.held_at(step, action)
            job, _ = await queue.submit(steps.request())
            await hit(steps.proxy, held)
            await queue.cancel(job.id)
            what = await steps.let_go(held)
            await ended(job)
            await steps.settled(held)
            left = steps.conversions.left()
            if (job.state, job.resumable, left) != (State.CANCELLED, False, []):
                wrong.append((step, what, job.state, job.notices, left))
                steps.clear()
            await turns()
            assert len(asyncio.all_tasks()) == tasks
        assert not wrong
        job, _ = await queue.submit(steps.request())
        await ended(job)
    steps.conversions.fits(job)


async def test_interrupted_at_each_step_it_goes_on(steps: Steps) -> None:
    """The next daemon goes on by itself: one completed snapshot, right block for block, and one AMI."""
    number = await steps.count()
    blocks = len(steps.conversions.blocks)
    wrong = []
    for step in range(1, number + 1):
        before = len(steps.conversions.puts())
        held = await steps.held_at(step, HELD[step % 2])
        async with steps.queue() as queue:
            job, _ = await queue.submit(steps.request())
            await hit(steps.proxy, held)
            stopping = asyncio.create_task(queue.drain(OnStop.INTERRUPT))
            await asyncio.sleep(0)
            what = await steps.let_go(held)
            await stopping
        await steps.settled(held)
        assert job.state is State.INTERRUPTED, (what, job.state, job.error)
        async with steps.queue() as queue:
            again = queue.get(job.id)
            await ended(again)
        puts = len(steps.conversions.puts()) - before
        if again.state is not State.DONE or puts > blocks + 2:
            wrong.append((step, what, again.state, again.error, again.notices, puts))
        else:
            steps.conversions.fits(again)
        steps.clear()
    assert not wrong
