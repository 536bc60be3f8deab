"""Conversions that are stopped, or whose journal fails: nothing is left, or all is kept that a later run can use."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.ebs import Ebs
from amistream.errors import StoreError
from amistream.events import State
from amistream.jobs import job_snapshot
from amistream.jobs.job import Job
from amistream.jobs.records import NextStep
from jobs.runs import at_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from amistream.ports.snapshots import Snapshot
    from jobs.converting import Conversions
    from jobs.runs import Scene

KEEP = pytest.mark.parametrize("keep", [False, True], ids=["cancelled", "interrupted"])


async def stopped_early(scene: Scene, conversions: Conversions) -> Job:
    """A conversion that failed when most blocks were stored."""
    conversions.endpoint.fault(
        "PutSnapshotBlock", index=conversions.blocks[-1], status=403, code="AccessDeniedException", times=None
    )
    job = await scene.run(conversions.request())
    conversions.endpoint.clear_faults()
    assert (job.state, job.resumable) == (State.FAILED, True)
    return job


@KEEP
@pytest.mark.parametrize(
    ("method", "fits"),
    [
        ("update", at_state(State.CHECKING)),
        ("update", at_state(State.CONVERTING)),
        ("conversions.begin", lambda *_: True),
        ("conversions.started", lambda *_: True),
        ("conversions.intend", lambda *_: True),
        ("conversions.stored", lambda *_: True),
        ("conversions.conclude", lambda *_: True),
        ("update", at_state(State.COMMITTING)),
        ("update", at_state(State.REGISTERING)),
        ("conversions.registering", lambda *_: True),
    ],
)
async def test_stopped_at_each_entry(
    method: str, fits: Callable[..., bool], keep: bool, scene: Scene, conversions: Conversions
) -> None:
    """A cancel at an entry of the journal leaves nothing; an interrupt there is continued to one right snapshot."""
    job = await scene.enter(conversions.request())
    with scene.held(method, fits) as call:
        await scene.stopped(job, call, keep=keep)
    if keep:
        assert (job.state, job.resumable) == (State.INTERRUPTED, True)
        conversions.fits(await scene.again(job))
        assert len(conversions.puts()) <= len(conversions.blocks) + 4
    else:
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert conversions.left() == []
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize(
    "method", ["begin", "started", "intend", "stored", "conclude", "registering", "blocks", "find"]
)
async def test_a_journal_that_fails(method: str, scene: Scene, conversions: Conversions) -> None:
    """A conversion that cannot be recorded leaves nothing, or keeps its blocks for a later run."""
    with scene.failing(f"conversions.{method}"):
        job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "journal.full")
    if job.resumable:
        assert method in {"stored", "conclude", "registering", "blocks", "find"}
        conversions.fits(await scene.again(job))
    else:
        assert conversions.left() == []


async def test_a_later_run_that_is_cancelled(scene: Scene, conversions: Conversions) -> None:
    """A cancel of a later run removes what the first one made."""
    job = await scene.remembered(await stopped_early(scene, conversions))
    with scene.held("update", at_state(State.CHECKING)) as call:
        await scene.stopped(job, call)
    assert (job.state, conversions.left()) == (State.CANCELLED, [])


async def test_kept_blocks_are_removed(scene: Scene, conversions: Conversions) -> None:
    """The removal of an unfinished conversion deletes its snapshot, and nobody else's."""
    other = conversions.endpoint.make_snapshot(conversions.disk)
    job = await stopped_early(scene, conversions)
    assert (await scene.clean(job)).state is State.CANCELLED
    assert conversions.left() == [other]


async def test_a_source_that_is_away(scene: Scene, conversions: Conversions) -> None:
    """A failed check of a later run keeps the blocks of the first one."""
    job = await stopped_early(scene, conversions)
    conversions.disk.rename(conversions.disk.with_suffix(".away"))
    failed = await scene.again(job)
    assert failed.error is not None
    assert (failed.state, failed.resumable, failed.kept) == (State.FAILED, True, job.kept)
    assert "stored blocks are kept" in failed.error.hint
    conversions.disk.with_suffix(".away").rename(conversions.disk)
    assert conversions.fits(await scene.again(failed)).blocks_put == len(conversions.blocks) - job.kept


async def test_a_snapshot_that_somebody_deleted(
    scene: Scene, conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that is gone is replaced, once it can no longer be one that EC2 does not show yet."""
    monkeypatch.setattr(job_snapshot, "VISIBLE_AFTER_S", 0)
    job = await stopped_early(scene, conversions)
    with conversions.endpoint.blocking_client("ec2") as ec2:
        ec2.delete_snapshot(SnapshotId=conversions.left()[0])
    job = await scene.again(job)
    assert conversions.fits(job).blocks_put == len(conversions.blocks)
    assert any("is gone: another snapshot is begun" in notice for notice in job.notices)


async def test_an_unanswered_start_of_a_run_that_died(scene: Scene, conversions: Conversions) -> None:
    """A removal finds a snapshot whose start was never answered, by asking for it again."""
    conversions.endpoint.fault("StartSnapshot", "lose", times=None)
    job = await scene.run(conversions.request())
    assert (job.state, job.resumable) == (State.FAILED, True)
    assert len(conversions.left()) == 1
    conversions.endpoint.clear_faults()
    cleaned = await scene.clean(job)
    assert (cleaned.state, cleaned.resumable, cleaned.error) == (State.FAILED, False, job.error)
    assert conversions.left() == []


async def test_a_snapshot_that_cannot_be_deleted(scene: Scene, conversions: Conversions) -> None:
    """A removal that is refused keeps the job, with the cause, so that it can be repeated."""
    job = await stopped_early(scene, conversions)
    conversions.endpoint.fault("DeleteSnapshot", status=403, code="UnauthorizedOperation", times=None)
    cleaned = await scene.clean(job)
    assert (cleaned.state, cleaned.resumable) == (State.FAILED, True)
    assert "not all is removed" in cleaned.notices[-1]
    assert "ec2:DeleteSnapshot" in cleaned.notices[-1]
    conversions.endpoint.clear_faults()
    assert (await scene.clean(cleaned)).state is State.CANCELLED
    assert conversions.left() == []


async def test_a_late_registration(scene: Scene, conversions: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AMI of a request without an answer, which shows only when the snapshot is deleted, is deregistered too."""
    endpoint = conversions.endpoint
    endpoint.fault("RegisterImage", "lose", nth=2)
    endpoint.set(unseen_image_requests=4)
    job = await scene.enter(conversions.request())
    with scene.held("conversions.registering", lambda _, image: image is None) as call:
        running = asyncio.create_task(scene.engine.run(job))
        await call.came.wait()
        call.go.set()
        await asyncio.to_thread(endpoint.wait_for, "RegisterImage", 2)
        job.ask_to_stop(keep=False)
        running.cancel()
        await asyncio.wait({running})
    assert (job.state, job.resumable, conversions.left()) == (State.CANCELLED, False, [])


@pytest.mark.parametrize("set_back_s", [0, 7200], ids=["", "and the clock is set back"])
async def test_a_snapshot_that_is_not_shown_yet(
    set_back_s: int, scene: Scene, conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal waits for a snapshot that EC2 does not show yet, and deletes it whether it was shown or not."""
    looks: list[str] = []
    describe = Ebs.describe

    async def blind(ebs: Ebs, snapshot_id: str) -> Snapshot | None:
        looks.append(snapshot_id)
        return None if len(looks) < 4 else await describe(ebs, snapshot_id)

    job = await scene.enter(conversions.request())
    with scene.held("conversions.intend") as call:
        monkeypatch.setattr(Ebs, "describe", blind)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - set_back_s)
        await scene.stopped(job, call)
    assert (job.state, job.resumable, conversions.left(), len(looks)) == (State.CANCELLED, False, [], 4)


async def test_the_first_cause_is_shown(
    scene: Scene, conversions: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If EBS cannot be asked why blocks are refused, the refusal is what the user sees."""

    async def look(*_: Any) -> None:
        raise StoreError("aws.RequestLimitExceeded", "cannot look at the snapshot")

    monkeypatch.setattr(job_snapshot.JobSnapshot, "look", look)
    conversions.endpoint.fault("PutSnapshotBlock", status=403, code="AccessDeniedException", times=None, nth=20)
    job = await scene.run(conversions.request())
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("aws.AccessDeniedException", True)


@pytest.mark.parametrize("name", ["web 1", "by hand"])
async def test_an_ami_by_hand(name: str, scene: Scene, conversions: Conversions) -> None:
    """An AMI that somebody registered from the job's snapshot stays, and so does the snapshot, until it is gone."""
    endpoint = conversions.endpoint
    endpoint.fault("RegisterImage", status=403, code="UnauthorizedOperation", nth=2, times=None)
    job = await scene.run(conversions.request())
    assert (job.state, job.resumable) == (State.FAILED, True)
    endpoint.clear_faults()
    (snapshot,) = conversions.left()
    mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
    with endpoint.blocking_client("ec2") as ec2:
        image = ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[mapping])["ImageId"]
        job = await scene.clean(job)
        assert job.resumable
        assert any(image in notice for notice in job.notices)
        assert conversions.left() == [snapshot, image]
        ec2.deregister_image(ImageId=image)
    job = await scene.clean(job)
    assert (job.state, job.resumable, conversions.left()) == (State.CANCELLED, False, [])
