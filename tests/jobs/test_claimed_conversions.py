"""Conversions of named jobs on several hosts: whatever happens between them, one snapshot and one AMI are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws import ebs
from amistream.events import ConversionResult, State
from amistream.jobs import job_snapshot
from amistream.jobs.job import Job
from jobs.leases import LentJob

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.converting import Conversions
    from jobs.runs import MakeScene, Scene

NAME = "web-2026-11-28"
STEPS = ["before it looks", "before the start", "before the completion", "before the registration"]


@dataclass(kw_only=True)
class Fleet:
    """Two hosts, each with a journal of its own, and one account."""

    a: Scene
    b: Scene
    conversions: Conversions
    attempts: int = 0

    def lease(self, **changes: Any) -> LentJob:
        """The lease of the next receive of the message."""
        self.attempts += 1
        return LentJob(**{"attempt": self.attempts, "holder": f"host-{self.attempts}", **changes})

    async def job(self, host: Scene, lease: LentJob | None = None, **changes: Any) -> Job:
        job = Job(self.conversions.request(**changes), name=NAME, lease=lease or self.lease())
        await host.engine.enter(job)
        return job

    async def run(self, host: Scene, lease: LentJob | None = None, **changes: Any) -> Job:
        job = await self.job(host, lease, **changes)
        await host.engine.run(job)
        return job

    async def again(self, host: Scene, job: Job) -> Job:
        again = await host.remembered(job)
        again.lease = self.lease()
        await host.engine.run(again)
        return again


@pytest.fixture
async def fleet(
    make_scene: MakeScene, conversions: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    # The other host comes when the snapshot is old enough to be known everywhere.
    monkeypatch.setattr(job_snapshot, "VISIBLE_AFTER_S", 0)
    monkeypatch.setattr(ebs, "VISIBLE_AFTER_S", 0)
    async with make_scene(state_dir=tmp_path / "a") as a, make_scene(state_dir=tmp_path / "b") as b:
        yield Fleet(a=a, b=b, conversions=conversions)


def assert_fenced(job: Job) -> None:
    assert job.error is not None, job.state
    assert (job.state, job.error.code, job.resumable) == (State.INTERRUPTED, "lease.lost", True), job.error


async def test_marked_by_its_name(fleet: Fleet) -> None:
    """Snapshot and AMI of a named job have its name, and the queue is asked once for each step."""
    lease = fleet.lease()
    fleet.conversions.fits(await fleet.run(fleet.a, lease))
    (snapshot,), (image,) = fleet.conversions.endpoint.snapshots(), fleet.conversions.endpoint.images()
    assert snapshot["tags"]["amistream:job"] == image["tags"]["amistream:job"] == NAME
    assert lease.confirmations == len(STEPS)


@pytest.mark.parametrize("register", [True, False], ids=["an AMI", "a snapshot"])
@pytest.mark.parametrize("step", range(1, len(STEPS) + 1), ids=STEPS)
async def test_the_lease_is_lost_at_each_step(step: int, register: bool, fleet: Fleet) -> None:
    """A conversion whose lease is lost changes nothing from then on; the next host ends it, and nothing is left."""
    changes: dict[str, Any] = {} if register else {"register_image": False, "ami_name": None}
    job = await fleet.run(fleet.a, fleet.lease(lost_at=step), **changes)
    assert_fenced(job)
    states = [snapshot["state"] for snapshot in fleet.conversions.endpoint.snapshots()]
    assert states == [[], [], ["pending"], ["completed"]][step - 1]
    assert fleet.conversions.endpoint.images() == []
    fleet.conversions.fits(await fleet.run(fleet.b, **changes))
    there = fleet.conversions.left()
    fleet.conversions.fits(await fleet.again(fleet.a, job))
    assert fleet.conversions.left() == there


async def test_done_already(fleet: Fleet, tmp_path: Path) -> None:
    """A conversion that is received once more ends with the result of the first, even if its source is gone by then."""
    first = fleet.conversions.fits(await fleet.run(fleet.a))
    fleet.conversions.disk.rename(tmp_path / "elsewhere.img")
    job = await fleet.run(fleet.b)
    (tmp_path / "elsewhere.img").rename(fleet.conversions.disk)
    second = fleet.conversions.fits(job)
    same = {"snapshot_id", "region", "image_id", "image_name", "volume_size", "blocks"}
    assert first.model_dump(include=same) == second.model_dump(include=same)
    assert any("is there already" in notice for notice in job.notices)


async def test_another_request_under_the_name(fleet: Fleet) -> None:
    """A conversion is refused where its name has made the snapshot for another request, and removes nothing."""
    fleet.conversions.fits(await fleet.run(fleet.a))
    there = fleet.conversions.left()
    job = await fleet.run(fleet.b, volume_size="2GiB")
    assert job.error is not None
    assert (job.state, job.error.code) == (State.REFUSED, "job.key_reused")
    assert fleet.conversions.left() == there


@pytest.mark.parametrize("at", ["conversions.intend", "conversions.conclude", "conversions.registering"])
async def test_a_host_that_wakes_up(at: str, fleet: Fleet) -> None:
    """A host that stopped, and wakes up with a lease that looks good when another has begun anew, changes nothing."""
    job = await fleet.job(fleet.a)
    with fleet.a.held(at) as call:
        sleeper = asyncio.create_task(fleet.a.engine.run(job))
        await call.came.wait()
        result = fleet.conversions.fits(await fleet.run(fleet.b))
        there = fleet.conversions.left()
        call.go.set()
        await sleeper
    if at == "conversions.registering":
        # Its snapshot was completed: both hosts have the same result.
        assert isinstance(job.result, ConversionResult)
        assert (job.state, job.result.image_id) == (State.DONE, result.image_id)
    else:
        assert_fenced(job)
    assert fleet.conversions.left() == there


@pytest.mark.parametrize("at", ["conversions.intend", "conversions.conclude"])
async def test_a_host_whose_new_snapshot_is_removed(at: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose snapshot another attempt removes when it is new is fenced, and does not wait for it to appear."""
    for module in (job_snapshot, ebs):
        monkeypatch.setattr(module, "VISIBLE_AFTER_S", 1_000_000)
    job = await fleet.job(fleet.a)
    with fleet.a.held(at) as call:
        sleeper = asyncio.create_task(fleet.a.engine.run(job))
        await call.came.wait()
        fleet.conversions.fits(await fleet.run(fleet.b))
        there = fleet.conversions.left()
        call.go.set()
        await sleeper
    assert_fenced(job)
    assert job.error is not None
    assert "another attempt has removed its snapshot" in job.error.message
    assert fleet.conversions.left() == there


@pytest.mark.parametrize("register", [True, False], ids=["an AMI", "a snapshot"])
async def test_two_that_receive_it_at_once(register: bool, fleet: Fleet) -> None:
    """Two deliveries of one message at the same moment, each with a good lease: one outcome comes of them."""
    changes: dict[str, Any] = {} if register else {"register_image": False, "ami_name": None}
    jobs = [await fleet.job(host, **changes) for host in (fleet.a, fleet.b)]
    await asyncio.gather(*(host.engine.run(job) for host, job in zip((fleet.a, fleet.b), jobs, strict=True)))
    assert all(job.state is State.DONE or job.resumable for job in jobs), [job.error for job in jobs]
    for host, job in zip((fleet.a, fleet.b), jobs, strict=True):
        if job.state is not State.DONE:
            fleet.conversions.fits(await fleet.again(host, job))
    fleet.conversions.fits(await fleet.run(fleet.a, **changes))
    outcomes = {job.result.snapshot_id for job in jobs if isinstance(job.result, ConversionResult) and not job.error}
    assert outcomes <= {snapshot["id"] for snapshot in fleet.conversions.endpoint.snapshots()}


async def test_removed_by_hand(fleet: Fleet) -> None:
    """The removal of an attempt that another host has replaced touches nothing of that one's."""
    job = await fleet.run(fleet.a, fleet.lease(lost_at=3))
    fleet.conversions.fits(await fleet.run(fleet.b))
    there = fleet.conversions.left()
    assert (await fleet.a.clean(job)).state is State.CANCELLED
    assert fleet.conversions.left() == there


async def test_resumed_by_hand_while_another_host_has_it(fleet: Fleet) -> None:
    """A run without a lease removes nothing of another host, which goes on."""
    kept = await fleet.run(fleet.a, fleet.lease(lost_at=2))
    other = await fleet.job(fleet.b)
    with fleet.b.held("conversions.conclude") as call:
        working = asyncio.create_task(fleet.b.engine.run(other))
        await call.came.wait()
        there = fleet.conversions.left()
        by_hand = await fleet.a.remembered(kept)
        await fleet.a.engine.run(by_hand)
        assert_fenced(by_hand)
        assert fleet.conversions.left() == there
        call.go.set()
        await working
    fleet.conversions.fits(other)


async def test_a_completed_snapshot_is_not_removed_by_hand(fleet: Fleet) -> None:
    """A completed snapshot may be the outcome that another host has reported: only a job with a lease removes it."""
    changes: dict[str, Any] = {"register_image": False, "ami_name": None}
    job = await fleet.run(fleet.a, fleet.lease(lost_at=4), **changes)
    assert_fenced(job)
    there = fleet.conversions.left()
    cleaned = await fleet.a.clean(job)
    assert cleaned.state is State.CANCELLED
    assert any("may be the outcome" in notice for notice in cleaned.notices)
    assert fleet.conversions.left() == there


async def test_a_pending_snapshot_is_removed_by_hand(fleet: Fleet) -> None:
    """An unfinished attempt that nobody has replaced can be removed where it was made."""
    job = await fleet.run(fleet.a, fleet.lease(lost_at=3))
    assert len(fleet.conversions.left()) == 1
    assert (await fleet.a.clean(job)).state is State.CANCELLED
    assert fleet.conversions.left() == []


async def test_two_that_remove_each_other_s(fleet: Fleet) -> None:
    """An attempt whose completed snapshot another one removed at the last moment reports no result, and begins anew."""
    changes: dict[str, Any] = {"register_image": False, "ami_name": None}
    job = await fleet.job(fleet.a, **changes)
    conversions, ec2 = fleet.conversions, fleet.conversions.endpoint.blocking_client("ec2")
    with fleet.a.held("conversions.conclude") as call:
        sleeper = asyncio.create_task(fleet.a.engine.run(job))
        await call.came.wait()
        (own,) = (snapshot["id"] for snapshot in conversions.endpoint.snapshots())
        other = conversions.endpoint.make_snapshot(
            conversions.disk, volume_gib=1, tags=[{"Key": "amistream:job", "Value": NAME}]
        )
        conversions.endpoint.set_state(other, "pending")
        conversions.endpoint.fault("DeleteSnapshot", "pause")
        call.go.set()
        await asyncio.to_thread(conversions.endpoint.wait_paused)
        with ec2 as client:
            await asyncio.to_thread(client.delete_snapshot, SnapshotId=own)
        conversions.endpoint.let_go()
        await sleeper
    assert_fenced(job)
    assert conversions.left() == []
    conversions.fits(await fleet.again(fleet.a, job))
