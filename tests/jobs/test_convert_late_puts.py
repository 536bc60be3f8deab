"""Puts of a run that died arrive while a later run is at work: never is a wrong block in a completed snapshot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from amistream.ports.snapshots import BLOCK

if TYPE_CHECKING:
    from jobs.converting import Conversions
    from jobs.runs import Scene


def change(conversions: Conversions, block: int) -> None:
    """Write other bytes into a block of the disk."""
    with conversions.disk.open("r+b") as file:
        file.seek(block * BLOCK + 99)
        file.write(b"the second version")


async def with_a_put_under_way(scene: Scene, conversions: Conversions, block: int) -> Job:
    """A conversion that was interrupted while the endpoint held a put of the block."""
    endpoint = conversions.endpoint
    endpoint.fault("PutSnapshotBlock", "pause", index=block)
    job = await scene.enter(conversions.request())
    running = asyncio.create_task(scene.engine.run(job))
    await asyncio.to_thread(endpoint.wait_paused)
    job.cancel_requested = job.interrupt_requested = True
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (job.state, job.resumable) == (State.INTERRUPTED, True)
    return job


async def arrived(conversions: Conversions, puts: int) -> None:
    """Let the held put go on, and wait until it is done."""
    await asyncio.to_thread(conversions.endpoint.let_go)
    while len(await asyncio.to_thread(conversions.puts)) < puts:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0)


@pytest.mark.parametrize("wrong_completion", ["refuse", "error"])
@pytest.mark.parametrize("first", [True, False], ids=["before the later run's", "after the later run's"])
async def test_a_block_that_changed(wrong_completion: str, first: bool, scene: Scene, conversions: Conversions) -> None:
    """The later put of a changed block wins, or the snapshot is not completed and the job fails without remains."""
    conversions.endpoint.set(wrong_completion=wrong_completion)
    block = conversions.blocks[-1]
    job = await with_a_put_under_way(scene, conversions, block)
    puts = len(conversions.puts())
    change(conversions, block)
    if first:
        await arrived(conversions, puts + 1)
        conversions.fits(await scene.again(job))
        return
    with scene.held("conversions.conclude") as call:
        job = await scene.remembered(job)
        running = asyncio.create_task(scene.engine.run(job))
        await call.came.wait()
        await arrived(conversions, len(conversions.puts()) + 1)
        call.go.set()
        await running
    assert job.error is not None
    assert (job.state, job.resumable) == (State.FAILED, False), job.error
    assert conversions.left() == []
    job = await scene.run(conversions.request())
    conversions.fits(job)


async def test_a_block_that_did_not_change(scene: Scene, conversions: Conversions) -> None:
    """A late put of the same bytes does no harm."""
    job = await with_a_put_under_way(scene, conversions, conversions.blocks[-1])
    with scene.held("conversions.conclude") as call:
        job = await scene.remembered(job)
        running = asyncio.create_task(scene.engine.run(job))
        await call.came.wait()
        await arrived(conversions, len(conversions.puts()) + 1)
        call.go.set()
        await running
    conversions.fits(job)


async def test_a_refused_completion_of_an_earlier_run(scene: Scene, conversions: Conversions) -> None:
    """A run that has only to complete what an earlier one stored, and may not, does not stay so for ever."""
    with scene.failing("update", fits=lambda view: view.state is State.COMMITTING):
        job = await scene.run(conversions.request())
    assert job.resumable
    conversions.endpoint.fault("CompleteSnapshot", code="ValidationException", status=400, reason="INVALID_BLOCK")
    job = await scene.again(job)
    assert (job.state, job.resumable) == (State.FAILED, False)
    assert conversions.left() == []
