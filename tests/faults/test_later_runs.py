"""A later run of a job removes all that its earlier runs stored, and nothing that a rival stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.flow import cancel
from faults.scene import MANIFEST, REGISTER, ended, hit, part
from support.proxy import Answer, Fault, PauseReply, PauseRequest
from support.volumes import random_image

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from faults.scene import MakeScene, Scene

FIND = "Action=DescribeImages.*Filter"
LOOK = "Action=DescribeImages.*ImageId"
LATE = 2
"""Looks after which a registered image is visible."""


def unseen(times: int | None) -> Fault:
    """So many looks for an image by its name find none."""
    answer = Answer(status=400, code="InvalidAMIID.NotFound")
    return Fault(action=answer, method="POST", form=FIND, times=times)


def unwatched() -> Fault:
    """EC2 does not say what became of an image: the job ends with its manifest put and its image registered."""
    return Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form=LOOK, times=None)


async def registered_and_failed(there: Scene, fault: Fault) -> Job:
    """A job that fails after its registration went through, and may be gone on with."""
    job = await there.run()
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("register.unknown", True)
    assert len(there.images()) == 1
    await asyncio.to_thread(there.proxy.mend, fault)
    return job


async def test_a_rival_s_parts_stay(scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two jobs under one name removes nothing of the first, even if it missed that a part was
    refused.
    """
    monkeypatch.setattr(cancel, "SETTLE_S", 0.2)
    refused, unheard = (Fault(action=PauseRequest(), path=part(number)) for number in (0, 1))
    async with scene(refused, unheard) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, refused)
            await hit(there.proxy, unheard)
            rival = {f"{there.root}/x/image.part.{number:02d}": b"the rival's" for number in (0, 1)}
            for key, body in rival.items():
                there.ground.s3.put_object(Bucket=there.ground.bucket, Key=key, Body=body)
            await asyncio.to_thread(there.proxy.let_go, refused)
            await ended(job)
            await asyncio.to_thread(there.proxy.let_go, unheard)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "store.exists")
        assert there.ground.keys(there.root) == ["x/image.part.00", "x/image.part.01"]


async def test_an_image_that_was_there_before_is_not_this_job_s(scene: MakeScene) -> None:
    """An AMI of the same name and place, whose bundle was deleted, stands in the way of a new job and stays."""
    async with scene() as there:
        name = there.image_name()
        stale = there.ground.ec2.register_image(Name=name, ImageLocation=name, Architecture="x86_64")["ImageId"]
        job = await there.run()
        assert job.error is not None
        assert (job.state, job.error.code) == (State.REFUSED, "ami_name.taken")
        assert there.left() == [stale]


async def test_cancelled_before_it_put_the_manifest_again(scene: MakeScene) -> None:
    """A later run that is cancelled while it still checks the parts removes manifest and AMI too."""
    unknown = unwatched()
    async with scene(unknown) as there:
        first = await registered_and_failed(there, unknown)
        held = Fault(action=PauseRequest(), method="HEAD", path=part(1))
        await asyncio.to_thread(there.proxy.add, held)
        async with there.queue() as queue:
            job = await queue.resume(first.id)
            await hit(there.proxy, held)
            await queue.cancel(job.id)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert there.left() == []


async def lost_a_part(there: Scene) -> Job:
    """A job whose manifest is put and image registered, and that found one of its parts missing since."""
    unknown = unwatched()
    await asyncio.to_thread(there.proxy.add, unknown)
    job = await registered_and_failed(there, unknown)
    there.ground.s3.delete_object(Bucket=there.ground.bucket, Key=f"{there.root}/x/image.part.02")
    job = await there.resume(job)
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("store.lost", True)
    return job


async def test_removed_after_a_part_was_lost(scene: MakeScene) -> None:
    """A job that lacks a part of a bundle that was whole is removed with its manifest and its image."""
    async with scene() as there:
        job = await there.cancel(await lost_a_part(there))
        assert job.state is State.CANCELLED
        assert there.left() == []


async def test_stored_again_after_a_part_was_lost(scene: MakeScene) -> None:
    """A part that is missing from a bundle that was whole is stored again, and the image that is there is kept."""
    async with scene() as there:
        job = await lost_a_part(there)
        before = there.images()
        job = await there.resume(job)
        assert job.state is State.DONE, job.error
        assert there.images() == before
        there.fits(thoroughly=True)


async def test_begun_anew_after_the_manifest_was_put(scene: MakeScene) -> None:
    """After a change of the volume the old manifest and AMI are replaced by new ones."""
    async with scene() as there:
        job = await lost_a_part(there)
        (before,) = there.images()
        random_image(there.image, there.image.stat().st_size, seed=5)
        job = await there.resume(job)
        assert job.state is State.DONE, job.error
        assert job.result is not None
        assert there.images() == [job.result.image_id] != [before]
        there.fits(thoroughly=True)


async def test_a_registration_that_was_answered_late_is_removed_by_its_id(scene: MakeScene) -> None:
    """An AMI whose registration is answered after the cancel is removed, even if EC2 does not list its name yet."""
    held = Fault(action=PauseReply(), method="POST", form=REGISTER)
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            await asyncio.to_thread(there.proxy.add, unseen(None))
            await queue.cancel(job.id)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert there.left() == []


async def test_a_registration_that_nobody_heard_of_is_looked_for(
    scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AMI whose registration was never answered is searched for repeatedly and removed."""
    monkeypatch.setattr(cancel, "SETTLE_S", 0.2)
    held = Fault(action=PauseReply(), method="POST", form=REGISTER)
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            await asyncio.to_thread(there.proxy.add, unseen(LATE))
            await queue.cancel(job.id)
            await ended(job)
            await asyncio.to_thread(there.proxy.let_go, held)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert there.left() == []


async def test_an_image_that_shows_late_is_removed_by_another_process(scene: MakeScene) -> None:
    """A later removal of a job searches for its AMI more than once."""
    unknown = unwatched()
    async with scene(unknown) as there:
        job = await registered_and_failed(there, unknown)
        await asyncio.to_thread(there.proxy.add, unseen(LATE))
        job = await there.cancel(job)
        assert job.state is State.CANCELLED
        assert there.left() == []


async def test_an_image_that_shows_late_is_not_registered_twice(scene: MakeScene) -> None:
    """A later run finds the AMI of an earlier one, even if EC2 does not list it at first."""
    unknown = unwatched()
    async with scene(unknown) as there:
        job = await registered_and_failed(there, unknown)
        before = there.images()
        await asyncio.to_thread(there.proxy.add, unseen(LATE))
        job = await there.resume(job)
        assert job.state is State.DONE, job.error
        assert there.images() == before


async def test_a_manifest_that_took_the_place_of_ours_stays(scene: MakeScene) -> None:
    """A manifest that a rival put while ours was on its way is not removed when the job is cancelled."""
    held = Fault(action=PauseRequest(), path=MANIFEST)
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            key = f"{there.root}/x/image.manifest.xml"
            there.ground.s3.put_object(Bucket=there.ground.bucket, Key=key, Body=b"<the rival's/>")
            await queue.cancel(job.id)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert job.state is State.CANCELLED
        assert there.left() == ["x/image.manifest.xml"]
