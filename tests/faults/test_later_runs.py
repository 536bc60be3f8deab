"""A later run of a job removes all that its earlier runs stored, and nothing that a rival stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from amistream.events import BundleResult, State
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


async def registered_and_failed(there: Scene) -> Job:
    """A job whose image is registered, which EC2 did not say: it fails, and may be continued."""
    unknown = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form=LOOK, times=None)
    await asyncio.to_thread(there.proxy.add, unknown)
    job = await there.run()
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("register.unknown", True)
    assert len(there.images()) == 1
    await asyncio.to_thread(there.proxy.mend, unknown)
    return job


async def lost_a_part(there: Scene) -> Job:
    """A job whose manifest is put and image registered, and that found one of its parts missing since."""
    job = await registered_and_failed(there)
    there.ground.s3.delete_object(Bucket=there.ground.bucket, Key=f"{there.root}/x/image.part.02")
    job = await there.resume(job)
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("store.lost", True)
    return job


def put_another_s(there: Scene, *names: str) -> None:
    for name in names:
        there.ground.s3.put_object(Bucket=there.ground.bucket, Key=f"{there.root}/x/{name}", Body=b"the rival's")


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
            put_another_s(there, "image.part.00", "image.part.01")
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


async def test_an_ami_that_nobody_can_prove_the_job_s(scene: MakeScene) -> None:
    """An AMI made by hand under the job's name, while the job's own is unknown, stays with its bundle."""
    unheard = Fault(action=Answer(status=500, code="InternalError"), method="POST", form=REGISTER, times=None)
    blind = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form=FIND, times=None, nth=2)
    async with scene(unheard, blind) as there:
        job = await there.run()
        assert (job.state, job.resumable) == (State.FAILED, True)
        await asyncio.to_thread(there.proxy.mend, unheard, blind)
        name = there.image_name()
        by_hand = there.ground.ec2.register_image(Name=name, ImageLocation=name, Architecture="x86_64")["ImageId"]
        before = there.left()
        job = await there.cancel(job)
        assert job.resumable
        (notice,) = [each for each in job.notices if "removed" in each]
        assert f"the AMI {by_hand} is registered from it" in notice
        assert there.left() == before
        async with there.queue() as queue:
            await ended(queue.get(job.id))
            job = await queue.resume(job.id)
            await ended(job)
        assert isinstance(job.result, BundleResult), job.error
        assert job.result.image_id == by_hand


async def test_cancelled_before_it_put_the_manifest_again(scene: MakeScene) -> None:
    """A later run that is cancelled while it still checks the parts removes manifest and AMI too."""
    async with scene() as there:
        first = await registered_and_failed(there)
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


@pytest.mark.parametrize("end", ["removed", "continued", "begun anew"])
async def test_after_a_part_of_a_whole_bundle_was_lost(end: str, scene: MakeScene) -> None:
    """The job is removed with manifest and AMI, or stores the part again and keeps the AMI, or makes both anew."""
    async with scene() as there:
        job = await lost_a_part(there)
        before = there.images()
        if end == "removed":
            job = await there.cancel(job)
            assert job.state is State.CANCELLED
            assert there.left() == []
            return
        if end == "begun anew":
            random_image(there.image, there.image.stat().st_size, seed=5)
        job = await there.resume(job)
        assert isinstance(job.result, BundleResult), job.error
        assert there.images() == [job.result.image_id]
        assert (there.images() == before) is (end == "continued")
        there.fits(thoroughly=True)


@pytest.mark.parametrize("answered", [True, False])
async def test_a_registration_that_a_cancel_overtook_is_removed(
    answered: bool, scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An AMI is removed by its id if its registration is answered late, else searched for repeatedly by its name."""
    if not answered:
        monkeypatch.setattr(cancel, "SETTLE_S", 0.2)
    held = Fault(action=PauseReply(), method="POST", form=REGISTER)
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            await asyncio.to_thread(there.proxy.add, unseen(None if answered else LATE))
            await queue.cancel(job.id)
            if not answered:
                await ended(job)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert there.left() == []


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "removed"])
async def test_an_image_that_shows_late(resumed: bool, scene: MakeScene) -> None:
    """A later run finds, or removes, the AMI of an earlier one, even if EC2 does not list it at first."""
    async with scene() as there:
        job = await registered_and_failed(there)
        before = there.images()
        await asyncio.to_thread(there.proxy.add, unseen(LATE))
        job = await (there.resume if resumed else there.cancel)(job)
        if resumed:
            assert job.state is State.DONE, job.error
            assert there.images() == before
        else:
            assert job.state is State.CANCELLED
            assert there.left() == []


async def test_a_manifest_that_took_the_place_of_ours_stays(scene: MakeScene) -> None:
    """A manifest that a rival put while ours was on its way stays when the job is cancelled, with the parts there."""
    held = Fault(action=PauseRequest(), path=MANIFEST)
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            put_another_s(there, "image.manifest.xml")
            await queue.cancel(job.id)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert (job.state, job.resumable) == (State.CANCELLED, True)
        assert {"x/image.manifest.xml", "x/image.part.00"} <= set(there.left())
