"""Later runs that end early, and runs that are cancelled at their very end: no part is forgotten."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from amistream.checks import preflight
from amistream.checks import source as source_checks
from amistream.events import BundleResult, State
from amistream.jobs import bundle_run
from amistream.jobs.records import NextStep
from amistream.source.file import FileVolume
from bundles.made import images, register
from jobs.runs import REGISTER, at_part, at_state
from support.proxy import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud, Fits, Scene

KEEP = pytest.mark.parametrize("keep", [False, True], ids=["cancelled", "interrupted"])


async def break_down(*_: object, **__: object) -> None:
    raise ValueError("the secret is sesame")


@pytest.mark.parametrize("name", ["the job's", "another"])
async def test_a_bundle_that_somebody_registered(name: str, scene: Scene, cloud: Cloud, tmp_path: Path) -> None:
    """No removal touches a bundle that a user registered by hand, as the hint of a failed registration says.

    An AMI with the job's name is taken for the job's own when it continues.
    """
    # The endpoint shows an image's name as its location.
    location = f"{cloud.bucket}/x/image.manifest.xml"
    refused = await cloud.breaks(Answer(status=403, code="UnauthorizedOperation"), method="POST", form=REGISTER)
    ami_name = location if name == "the job's" else f"{cloud.bucket} web"
    job = await scene.run(cloud.request(scene.image, scene.keys, register_image=True, ami_name=ami_name))
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "aws.UnauthorizedOperation")
    assert f"amistream register s3://{location} --ami-name" in job.error.hint
    scene.fits(cloud.downloaded(tmp_path / "got"))
    made = register(cloud.endpoint, location)
    there = cloud.stored()
    job = await scene.clean(job)
    assert (job.state, job.resumable) == (State.FAILED, True)
    assert job.error is not None
    assert job.error.code == "job.registered"
    assert f"{made} is registered from it" in job.error.message
    assert made in images(cloud.endpoint)
    assert cloud.stored() == there
    if name == "the job's":
        await cloud.mend(refused)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert isinstance(job.result, BundleResult)
        assert job.result.image_id == made


async def test_a_bucket_that_is_gone_holds_nothing(scene: Scene, cloud: Cloud) -> None:
    """The job of a bucket that was deleted can be cancelled: there is nothing left to remove."""
    job = await scene.run(cloud.request(scene.image, scene.keys), room=5)
    assert (job.state, job.resumable) == (State.FAILED, True)
    await cloud.breaks(Answer(status=404, code="NoSuchBucket"), method="DELETE")
    job = await scene.clean(job)
    assert job.state is State.CANCELLED
    assert "the bucket does not exist any more" in str(job.notices)


@pytest.mark.parametrize(
    ("status", "code", "removed"),
    [(405, "MethodNotAllowed", True), (403, "AccessDenied", True), (403, "UnauthorizedOperation", False)],
)
async def test_where_ec2_cannot_be_asked(status: int, code: str, removed: bool, scene: Scene, cloud: Cloud) -> None:
    """A job without registration is removed at an endpoint that is S3 only, not where EC2 refuses to answer."""
    hidden = await cloud.breaks(Answer(status=404, code="NoSuchKey"), ".*manifest.xml", method="HEAD")
    job = await scene.run(cloud.request(scene.image, scene.keys))
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("store.lost", True)
    await cloud.mend(hidden)
    await cloud.breaks(Answer(status=status, code=code), method="POST", form="Action=DescribeImages")
    job = await scene.clean(job)
    assert job.state is (State.CANCELLED if removed else State.FAILED), job.error
    assert (cloud.stored() == []) == removed
    if not removed:
        assert f"amistream delete s3://{cloud.bucket}/x/image.manifest.xml --no-ec2" in job.notices[-1]


@KEEP
@pytest.mark.parametrize(
    ("method", "fits", "parts"),
    [("update", at_state(State.CHECKING), 5), ("seal", at_part(8), 9)],
    ids=["checking", "bundling"],
)
async def test_a_later_run_is_stopped(method: str, fits: Fits, parts: int, keep: bool, scene: Scene) -> None:
    """A cancel in a later run, at any step, removes the parts of the first run too; an interrupt keeps them all."""
    job = await scene.remembered(await scene.run(room=5))
    with scene.held(method, fits) as call:
        await scene.stopped(job, call, keep=keep)
    if keep:
        assert (job.state, job.resumable, job.kept) == (State.INTERRUPTED, True, parts)
        assert len(scene.files()) >= 5
    else:
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert scene.files() == {}
        assert await scene.next_step(job) is NextStep.OVER


async def test_another_s_file_stays_when_a_later_run_is_cancelled(scene: Scene) -> None:
    """A cancel removes the job's own parts, and not another's object under a part's name."""
    job = await scene.remembered(await scene.run(room=5))
    (scene.out / "image.part.01").write_bytes(b"somebody else's")
    with scene.held("update", at_state(State.CHECKING)) as call:
        await scene.stopped(job, call)
    assert job.state is State.CANCELLED
    assert scene.files() == {"image.part.01": b"somebody else's"}


async def test_a_removal_at_a_cancel_that_fails_can_be_made_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in amistream during a removal does not keep the job from ending."""
    first = await scene.run(room=5)
    job = await scene.remembered(first)
    with scene.held("update", at_state(State.CHECKING)) as call, monkeypatch.context() as patch:
        patch.setattr(bundle_run, "remove_kept", break_down)
        await scene.stopped(job, call)
    assert "an error in amistream itself (ValueError)" in job.notices[-1]
    assert "sesame" not in f"{job.error} {job.notices}"
    assert (job.state, job.resumable) == (State.CANCELLED, True)
    await scene.clean(first)
    assert scene.files() == {}


async def test_a_removal_at_a_cancel_needs_no_look_into_the_journal(scene: Scene) -> None:
    """A run that is cancelled while the journal cannot be read removes what it knows from its beginning."""
    job = await scene.remembered(await scene.run(room=5))
    with (
        scene.held("update", at_state(State.CHECKING)) as call,
        scene.failing("find", fits=lambda _: call.came.is_set()),
    ):
        await scene.stopped(job, call)
    assert (job.state, job.resumable) == (State.CANCELLED, False)
    assert scene.files() == {}


async def test_a_journal_that_fails_while_a_later_run_checks(scene: Scene) -> None:
    """A later run whose journal fails during the checks keeps all parts, and the next run continues."""
    job = await scene.run(room=5)
    with scene.failing("update", fits=at_state(State.CHECKING)):
        job = await scene.again(job)
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "journal.full")
    assert (job.resumable, job.kept, len(scene.files())) == (True, 5, 5)
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    scene.fits()


async def test_a_bug_while_a_later_run_checks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in amistream removes the parts of earlier runs too: no run may continue after it."""
    job = await scene.run(room=5)
    monkeypatch.setattr(preflight, "check", break_down)
    job = await scene.again(job)
    assert job.error is not None
    assert (job.error.code, job.resumable) == ("internal.bug", False)
    assert scene.files() == {}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "host.no_memory"),
        (OSError(errno.EMFILE, "Too many open files"), "host.no_descriptors"),
        (RuntimeError("can't start new thread"), "host.no_threads"),
    ],
)
async def test_a_shortage_while_a_later_run_checks(
    error: Exception, code: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is too small for a while is no bug: all parts are kept."""
    job = await scene.run(room=5)

    async def fail(*_: object, **__: object) -> NoReturn:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(preflight, "check", fail)
        job = await scene.again(job)
    assert job.error is not None
    assert (job.error.code, job.resumable, len(scene.files())) == (code, True, 5)


@KEEP
@pytest.mark.parametrize("method", ["done", "end"])
async def test_stopped_when_all_is_there(method: str, keep: bool, scene: Scene) -> None:
    """A job that is cancelled or interrupted while its last destination, or its end, is recorded is done."""
    job = await scene.enter()
    with scene.held(method) as call:
        await scene.stopped(job, call, keep=keep)
    assert (job.state, job.resumable, job.error) == (State.DONE, False, None)
    assert isinstance(job.result, BundleResult)
    assert job.result.manifest == str(scene.out / "image.manifest.xml")
    assert await scene.next_step(job) is NextStep.OVER
    scene.fits()


@KEEP
async def test_stopped_while_the_volume_is_closed(keep: bool, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is cancelled or interrupted when only its volume is still open is done."""
    loop, closing, may_close = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    class SlowToClose(FileVolume):
        """A volume whose close waits, as that of an image does which another program converts."""

        def close(self) -> None:
            loop.call_soon_threadsafe(closing.set)
            assert may_close.wait(60)
            super().close()

    def open_slow(source: str, *_: object, **__: object) -> FileVolume:
        return SlowToClose(scene.image, os.open(source, os.O_RDONLY))

    monkeypatch.setattr(source_checks, "open_source", open_slow)
    job = await scene.enter()
    running = asyncio.create_task(scene.engine.run(job))
    await closing.wait()
    job.cancel_requested, job.interrupt_requested = True, keep
    running.cancel()
    await asyncio.sleep(0)
    may_close.set()
    await asyncio.wait({running})
    assert job.state is State.DONE
    assert await scene.next_step(job) is NextStep.OVER
    scene.fits()


@KEEP
async def test_stopped_while_a_failure_is_recorded(keep: bool, scene: Scene) -> None:
    """A job that is cancelled or interrupted while its failure is recorded ends with that failure, resumable."""
    job = await scene.enter()
    with scene.held("update", at_state(State.FAILED)) as call, scene.failing("seal", fits=at_part(3)):
        await scene.stopped(job, call, keep=keep)
    assert job.ended.is_set()
    assert (job.state, job.resumable, len(scene.files())) == (State.FAILED, True, 3)
    job = await scene.again(job)
    assert job.state is State.DONE, job.error


async def test_all_was_done_but_its_end_was_not_recorded(scene: Scene, tmp_path: Path) -> None:
    """A job whose process died between its last destination and its end is done when it is taken up."""
    with scene.failing("end"):
        first = await scene.run()
    assert await scene.next_step(first) is NextStep.KEPT
    scene.image.rename(tmp_path / "elsewhere")
    job = await scene.again(first)
    assert (job.state, job.error) == (State.DONE, None)
    assert isinstance(job.result, BundleResult)
    assert isinstance(first.result, BundleResult)
    assert (job.result.places, job.result.digest) == (first.result.places, first.result.digest)
    assert await scene.next_step(job) is NextStep.OVER
    scene.fits(image=tmp_path / "elsewhere")
