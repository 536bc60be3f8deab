"""Later runs that end early, and runs that are cancelled at their very end: no part is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.checks import preflight
from amistream.errors import JournalError
from amistream.events import JobView, State
from amistream.jobs import bundle_run
from amistream.jobs.job import Job
from amistream.jobs.records import NextStep
from amistream.settings import Settings
from bundles.made import images, register
from jobs.lives import Scene, files, scene_with
from jobs.work import request, settings, use_endpoint
from support.buckets import list_keys
from support.proxy import Answer, Fault, dry_run_answered
from support.referee import check_bundle
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

SIZE = 3_000_000
ENDS = {"cancelled": False, "interrupted": True}


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    """About 12 parts of the image, a few at a time."""
    return settings(tmp_path, upload_concurrency=2, block_size="64KiB")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", SIZE)


@pytest.mark.parametrize("name", ["the job's", "another"])
async def test_a_bundle_that_somebody_registered(
    name: str,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
    image: Path,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """No removal touches a bundle that a user registered by hand, as the hint of a failed registration says.

    An AMI with the job's name is taken for the job's own when it continues.
    """
    use_endpoint(ministack, monkeypatch)
    bucket = make_bucket(ministack)
    # The endpoint shows an image's name as its location.
    location = f"{bucket}/x/image.manifest.xml"
    refused = Fault(
        action=Answer(status=403, code="UnauthorizedOperation"),
        method="POST",
        form="Action=RegisterImage&(?!.*DryRun)",
        times=None,
    )
    proxy = make_proxy(ministack, dry_run_answered(), refused)
    planned = location if name == "the job's" else f"{bucket} web"
    asked = request(image, f"s3://{bucket}/x", key_ring, endpoint_url=proxy.url, ami_name=planned)
    async with scene_with(settings(tmp_path)) as scene:
        job = await scene.run(asked)
        assert job.error is not None
        assert "amistream register" in job.error.hint
        made = register(ministack, location)
        there = list_keys(ministack, bucket)
        job = await scene.remembered(job)
        await scene.engine.clean(job)
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert job.error is not None
        assert job.error.code == "job.registered"
        assert f"{made} is registered from it" in job.error.message
        assert made in images(ministack)
        assert list_keys(ministack, bucket) == there
        if name == "the job's":
            await asyncio.to_thread(proxy.mend, refused)
            job = await scene.again(job)
            assert job.state is State.DONE, job.error
            assert job.result is not None
            assert job.result.image_id == made


class Held:
    """Wraps a method of the journal: the first call that `fits` sets `came` and waits for `go`."""

    def __init__(self, method: Callable[..., Awaitable[Any]], fits: Callable[..., bool] = lambda *_: True) -> None:
        self._method = method
        self._fits = fits
        self.came, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, *values: Any) -> Any:
        if not self.came.is_set() and self._fits(*values):
            self.came.set()
            await self.go.wait()
        return await self._method(*values)


def told(state: State) -> Callable[[JobView], bool]:
    return lambda view: view.state is state


async def stopped(scene: Scene, job: Job, held: Held, *, keep: bool = False) -> None:
    """Run the job, stop it at the held call as the queue does, and let that call continue."""
    running = asyncio.create_task(scene.engine.run(job))
    await held.came.wait()
    job.cancel_requested, job.interrupt_requested = True, keep
    running.cancel()
    await asyncio.sleep(0)
    held.go.set()
    await asyncio.wait({running})
    assert running.cancelled()


async def test_cancelled_before_it_looked_at_what_is_stored(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A later run that is cancelled during its checks removes the parts of the first run."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.remembered(await scene.run(request(image, out, key_ring), room=5))
        held = Held(scene.journal.update, told(State.CHECKING))
        scene.journal.update = held  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        await stopped(scene, job, held)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert files(out) == {}
        assert await scene.next_step(job) is NextStep.OVER


async def test_interrupted_before_it_looked_at_what_is_stored(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A later run that is interrupted during its checks keeps, and shows, all stored parts."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.remembered(await scene.run(request(image, out, key_ring), room=5))
        held = Held(scene.journal.update, told(State.CHECKING))
        scene.journal.update = held  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        await stopped(scene, job, held, keep=True)
        assert (job.state, job.resumable, job.kept_parts) == (State.INTERRUPTED, True, 5)
        assert len(files(out)) == 5


async def test_what_cannot_be_removed_at_a_cancel_is_kept(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A later run that is cancelled while the journal is unreadable leaves a job that can be removed later."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=5)
        job = await scene.remembered(first)
        held = Held(scene.journal.update, told(State.CHECKING))
        scene.journal.update = held  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        running = asyncio.create_task(scene.engine.run(job))
        await held.came.wait()
        scene.journal.is_unreadable = True
        running.cancel()
        held.go.set()
        await asyncio.wait({running})
        scene.journal.is_unreadable = False
        assert (job.state, job.resumable) == (State.CANCELLED, True)
        job = await scene.remembered(first)
        await scene.engine.clean(job)
        assert files(out) == {}


async def test_a_removal_at_a_cancel_that_stumbles_over_a_bug(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in amistream during an undo does not keep the job from ending, or from being removed later."""
    out = tmp_path / "out"

    async def stumble(*_: object, **__: object) -> None:
        raise ValueError("the secret is 42")

    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=5)
        job = await scene.remembered(first)
        held = Held(scene.journal.update, told(State.CHECKING))
        scene.journal.update = held  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        with monkeypatch.context() as patch:
            patch.setattr(bundle_run, "remove_kept", stumble)
            await stopped(scene, job, held)
        assert (job.state, job.resumable) == (State.CANCELLED, True)
        assert "what an earlier run stored: ValueError" in job.notices[-1]
        assert "42" not in f"{job.error} {job.notices}"
        job = await scene.remembered(first)
        await scene.engine.clean(job)
        assert files(out) == {}


async def test_a_journal_that_fails_while_a_later_life_checks(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A later run whose journal fails during the checks keeps all parts, and the next run continues."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.remembered(await scene.run(request(image, out, key_ring), room=5))
        update = scene.journal.update

        async def full(view: JobView) -> None:
            if view.state is State.CHECKING:
                raise JournalError("journal.full", "cannot keep the journal: database or disk is full")
            await update(view)

        scene.journal.update = full  # type: ignore[method-assign]  # the test's own grip on the job
        await scene.engine.run(job)
        scene.journal.update = update  # type: ignore[method-assign]
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "journal.full")
        assert (job.resumable, job.kept_parts, len(files(out))) == (True, 5, 5)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)


async def test_a_bug_while_a_later_life_checks(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in amistream removes the parts of earlier runs too: no run may continue after it."""
    out = tmp_path / "out"

    async def stumble(*_: object, **__: object) -> None:
        raise ValueError

    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=5)
        with monkeypatch.context() as patch:
            patch.setattr(preflight, "check", stumble)
            job = await scene.again(first)
        assert job.error is not None
        assert (job.error.code, job.resumable) == ("internal.bug", False)
        assert files(out) == {}


async def test_a_hole_that_was_written_into(tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """Data that was written into a hole since the first run begins the bundle anew, with that data."""
    out = tmp_path / "out"
    image = sparse_image(tmp_path / "disk.img", SIZE, [(0, 1_000_000), (2_000_000, 1_000_000)])
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring, sparse="always"), room=3)
        with image.open("r+b") as file:
            file.seek(1_500_000)
            file.write(b"written into the hole")
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert any("starting over under a new key" in notice for notice in job.notices)
    check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)


async def test_a_hole_that_grew(tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """Zeros that became a hole are the same bytes: the job continues with its stored parts."""
    out = tmp_path / "out"
    image = sparse_image(tmp_path / "disk.img", SIZE, [(0, 1_000_000), (2_000_000, 1_000_000)])
    with image.open("r+b") as file:
        file.seek(2_500_000)
        file.write(bytes(500_000))
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring, sparse="always"), room=3)
        first = files(out)
        data = image.read_bytes()
        with image.open("r+b") as file:
            file.truncate(2_500_000)
            file.truncate(SIZE)
        assert image.read_bytes() == data
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    assert {name: content for name, content in files(out).items() if name in first} == first
    check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)


@pytest.mark.parametrize("keep", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("entry", ["done", "end"])
async def test_stopped_when_all_is_there(
    entry: str, keep: bool, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job that is cancelled or interrupted while its last destination, or its end, is entered is done."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        held = Held(getattr(scene.journal, entry))
        setattr(scene.journal, entry, held)
        job = Job(request(image, out, key_ring))
        await scene.engine.enter(job)
        await stopped(scene, job, held, keep=keep)
        assert (job.state, job.resumable, job.error) == (State.DONE, False, None)
        assert job.result is not None
        assert job.result.manifest == str(out / "image.manifest.xml")
        assert await scene.next_step(job) is NextStep.OVER
    check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)


@pytest.mark.parametrize("keep", ENDS.values(), ids=ENDS)
async def test_stopped_while_the_volume_is_closed(
    keep: bool, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is cancelled or interrupted when only its volume is still open is done."""
    out = tmp_path / "out"
    held = Held(preflight.Ready.close)

    async def close(ready: preflight.Ready) -> None:
        await held(ready)

    monkeypatch.setattr(preflight.Ready, "close", close)
    async with scene_with(chosen) as scene:
        job = Job(request(image, out, key_ring))
        await scene.engine.enter(job)
        running = asyncio.create_task(scene.engine.run(job))
        await held.came.wait()
        job.cancel_requested, job.interrupt_requested = True, keep
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        assert job.state is State.DONE
        assert await scene.next_step(job) is NextStep.OVER
    check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)


@pytest.mark.parametrize("keep", ENDS.values(), ids=ENDS)
async def test_stopped_while_a_failure_is_entered(
    keep: bool, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job that is cancelled or interrupted while its failure is entered ends with that failure, resumable."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        scene.journal.room = 3
        held = Held(scene.journal.update, told(State.FAILED))
        scene.journal.update = held  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        job = Job(request(image, out, key_ring))
        await scene.engine.enter(job)
        await stopped(scene, job, held, keep=keep)
        assert job.ended.is_set()
        assert (job.state, job.resumable, len(files(out))) == (State.FAILED, True, 3)
        scene.journal.room = None
        job = await scene.again(job)
        assert job.state is State.DONE, job.error


async def test_all_was_done_but_its_end_was_not_entered(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job whose process died between its last destination and its end is done when it is taken up."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        end = scene.journal.end

        async def full(_: JobView) -> None:
            raise JournalError("journal.full", "cannot keep the journal: database or disk is full")

        scene.journal.end = full  # type: ignore[assignment,method-assign]  # the test's own grip on the job
        first = await scene.run(request(image, out, key_ring))
        scene.journal.end = end  # type: ignore[method-assign]
        assert await scene.next_step(first) is NextStep.KEPT
        image.rename(tmp_path / "elsewhere")
        job = await scene.again(first)
        assert (job.state, job.error) == (State.DONE, None)
        assert job.result is not None
        assert first.result is not None
        assert (job.result.places, job.result.digest) == (first.result.places, first.result.digest)
        assert await scene.next_step(job) is NextStep.OVER
    check_bundle(out, tmp_path / "elsewhere", key_ring.user.key, key_ring.user.certificate)
