"""Several runs of one job: parts are kept, continued from, begun anew or removed, and others' objects never touched."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.errors import ConflictError
from amistream.events import State
from amistream.jobs import bundle_run
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import NextStep, SealedPart
from amistream.settings import Settings
from jobs.lives import files, scene_with
from jobs.work import request, settings, use_endpoint
from source.images import convert, needs_qemu
from support.buckets import download_bundle, list_keys, open_uploads
from support.proxy import Answer, Fault
from support.referee import check_bundle, read_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from amistream.request import JobRequest
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    """About 12 parts of the image, a few at a time."""
    return settings(tmp_path, upload_concurrency=2, block_size="64KiB")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 3_000_000)


@dataclass(frozen=True, kw_only=True)
class FaultyBucket:
    """A bucket behind a proxy that injects faults until it is mended."""

    endpoint: Endpoint
    name: str
    proxy: FaultProxy
    fault: Fault

    def asked(self, image: Path, keys: KeyRing) -> JobRequest:
        """A bundle of the image in it."""
        return request(image, f"s3://{self.name}/x", keys, endpoint_url=self.proxy.url, register_image=False)

    async def mend(self) -> None:
        await asyncio.to_thread(self.proxy.mend, self.fault)

    def got(self, folder: Path) -> Path:
        """The bundle, downloaded into the folder."""
        download_bundle(self.endpoint, self.name, "x/", folder)
        return folder


@pytest.fixture
def faulty_bucket(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Fault], FaultyBucket]:
    use_endpoint(ministack, monkeypatch)

    def made(fault: Fault) -> FaultyBucket:
        return FaultyBucket(
            endpoint=ministack, name=make_bucket(ministack), proxy=make_proxy(ministack, fault), fault=fault
        )

    return made


def manifest_refused() -> Fault:
    return Fault(action=Answer(status=403, code="AccessDenied"), method="PUT", path=".*manifest.xml", times=None)


def fits(folder: Path, image: Path, keys: KeyRing) -> tuple[str, str]:
    """Check the bundle; returns its key and IV."""
    check_bundle(folder, image, keys.user.key, keys.user.certificate)
    bundle = read_bundle(folder, keys.user.key)
    return bundle.aes_key, bundle.aes_iv


async def test_kept_with_its_parts_and_gone_on_with(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job that fails after its first parts keeps them and says how to continue; its next run makes the rest."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        assert job.error is not None
        assert (job.state, job.error.code, job.resumable) == (State.FAILED, "journal.full", True)
        assert f"`amistream resume {job.id}`" in job.error.hint
        assert f"`amistream cancel {job.id}`" in job.error.hint
        first = files(out)
        assert sorted(first) == [f"image.part.{number:02d}" for number in range(5)]
        assert job.kept_parts == 5
        times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        later = await scene.again(job)
        assert later.state is State.DONE, later.error
        assert (later.error, later.resumable) == (None, False)
        assert {name: (out / name).stat().st_mtime_ns for name in first} == times
        fits(out, image, key_ring)
        assert later.result is not None
        assert later.result.compression["resumed"] > 0


async def test_begun_anew_in_a_directory_that_was_removed(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A later run makes a deleted directory anew for a changed volume; a run that is undone leaves no directory."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        shutil.rmtree(out)
        random_image(image, 3_000_000, seed=5)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        fits(out, image, key_ring)
        gone = await scene.run(request(image, tmp_path / "other", key_ring), room=0)
    assert gone.state is State.FAILED
    assert not (tmp_path / "other").exists()


async def test_without_a_daemon_the_words_to_go_on_say_so(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """The commands of the hint, and of a refusal to bundle to the same place, can be given as they stand."""
    asked = request(image, tmp_path / "out", key_ring)
    async with scene_with(chosen, by_itself=False) as scene:
        job = await scene.run(asked, room=5)
        assert job.error is not None
        queue = JobQueue(
            scene.engine.run, scene.engine.clean, scene.journal, max_jobs=1, max_queued=1, default_prefix="image"
        )
        async with queue:
            await queue.recover(resume=False)
            with pytest.raises(ConflictError) as caught:
                await queue.submit(asked)
    for hint in (job.error.hint, caught.value.hint):
        assert f"amistream resume {job.id} --in-process" in hint
        assert f"amistream cancel {job.id} --in-process" in hint


async def test_a_part_that_cannot_be_entered_is_not_sent_nor_any_after_it(
    image: Path, tmp_path: Path, key_ring: KeyRing, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No part is sent once one could not be entered: its number may come to have another content."""
    for room in (1, 3, 6):
        folder = tmp_path_factory.mktemp("out")
        async with scene_with(settings(tmp_path, upload_concurrency=8, part_size="64KiB")) as scene:
            job = await scene.run(request(image, folder / "out", key_ring), room=room)
        assert job.resumable
        assert sorted(files(folder / "out")) == [f"image.part.{number:02d}" for number in range(room)]


async def test_nothing_stored_nothing_kept(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A job that fails before anything is stored leaves nothing, and nothing to resume."""
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, tmp_path / "out", key_ring), room=0)
        assert (job.state, job.resumable) == (State.FAILED, False)
        assert job.error is not None
        assert "amistream resume" not in job.error.hint
        assert not (tmp_path / "out").exists()
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize("confined", [False, True])
async def test_killed_while_a_part_got_its_name(
    confined: bool, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A part in a directory that still has its temporary name too is the job's own."""
    out = tmp_path / "out"
    roots = [str(tmp_path), str(key_ring.user.key.parent)]
    async with scene_with(chosen.model_copy(update={"source_roots": roots})) as scene:
        job = await scene.run(request(image, out, key_ring), room=5, confined=confined)
        token = job.id.rpartition("-")[2]
        (out / f".image.part.04.{token}.partial").hardlink_to(out / "image.part.04")
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    assert not list(out.glob(".*"))
    fits(out, image, key_ring)


async def test_a_probe_that_a_later_life_left(
    faulty_bucket: Callable[[Fault], FaultyBucket], image: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A removal deletes the probe object that an earlier run's check left."""
    bucket = faulty_bucket(manifest_refused())
    async with scene_with(chosen) as scene:
        job = await scene.run(bucket.asked(image, key_ring))
        assert job.resumable
        with bucket.endpoint.blocking_client() as s3:
            s3.put_object(Bucket=bucket.name, Key=f"x/amistream-probe-{job.id.rpartition('-')[2]}", Body=b"")
        job = await scene.remembered(job)
        await scene.engine.clean(job)
        assert job.state is State.CANCELLED, job.notices
    assert list_keys(bucket.endpoint, bucket.name) == []


async def test_removed_on_request(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A removal of a kept job deletes its parts, the remains of an unfinished part, and the folder that it made."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        token = job.id.rpartition("-")[2]
        (out / f".image.part.05.{token}.partial").write_bytes(b"half of i")
        job = await scene.remembered(job)
        await scene.engine.clean(job)
        assert (job.state, job.resumable) == (State.CANCELLED, False)
        assert list(out.glob("*")) == []
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize("end", ["resumed", "removed"])
async def test_what_is_somebody_else_s_stays(
    end: str, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """Another's file under a part's name is reported, and no end of the job removes it."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        (out / "image.part.02").unlink()
        (out / "image.part.02").write_bytes(b"somebody else's")
        if end == "resumed":
            job = await scene.again(job)
            assert job.error is not None
            assert (job.state, job.error.code) == (State.FAILED, "store.exists")
            assert "image.part.02" in job.error.message
        else:
            job = await scene.remembered(job)
            await scene.engine.clean(job)
        assert (out / "image.part.02").read_bytes() == b"somebody else's"


async def test_what_is_somebody_else_s_stays_when_a_later_life_is_cancelled(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A cancel before the manifest is put removes the job's own parts, and not another's object under a part's name."""
    out = tmp_path / "out"
    manifest = out / "image.manifest.xml"
    async with scene_with(chosen) as scene:
        manifest.parent.mkdir()
        job = await scene.run(request(image, out, key_ring), room=5)
        (out / "image.part.01").write_bytes(b"somebody else's")
        again = await scene.remembered(job)
        running = asyncio.create_task(scene.engine.run(again))
        while again.state is not State.CHECKING:  # noqa: ASYNC110 - the job tells no one else
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        assert again.state in {State.CANCELLED, State.FAILED}
        assert (out / "image.part.01").read_bytes() == b"somebody else's"


async def test_lost_parts_are_made_again(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """Parts that were deleted meanwhile are stored once more; the others are not touched."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=7)
        times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
        for name in ("image.part.01", "image.part.06"):
            (out / name).unlink()
            del times[name]
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    fits(out, image, key_ring)


@pytest.mark.parametrize("change", ["a byte", "size", "another file"])
async def test_a_changed_volume_is_begun_anew(
    change: str, image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """Parts of a volume that changed since are removed, and the volume is bundled again under another key."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        kept = await scene.journal.find(job.id)
        assert kept is not None
        assert kept.bundling is not None
        before = kept.bundling.places[0].wrapped
        first = files(out)
        match change:
            case "a byte":
                with image.open("r+b") as file:
                    file.seek(300_000)
                    file.write(b"changed")
            case "size":
                os.truncate(image, 2_500_000)
            case _:
                random_image(image, 3_000_000, seed=5)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        (notice,) = (notice for notice in job.notices if "starting over under a new key" in notice)
        why = (
            "it had 3000000 bytes and has 2500000"
            if change == "size"
            else r"the first \d+ bytes .* are not what they were"
        )
        assert re.search(rf"{image} differs from when this job began \({why}\)", notice)
    fits(out, image, key_ring)
    after = files(out)
    assert all(after.get(name) != data for name, data in first.items())
    assert before.user_key.hex().encode() not in after["image.manifest.xml"]


@needs_qemu
async def test_a_changed_image_that_a_child_reads_is_begun_anew(
    tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """The pass that found the change leaves nothing that keeps the next from reading a compressed qcow2."""
    out, disk, packed = tmp_path / "out", tmp_path / "disk.img", tmp_path / "disk.qcow2"

    def write_image(seed: int) -> None:
        disk.write_text(random.Random(seed).randbytes(1 << 20).hex())
        packed.write_bytes(convert(disk, tmp_path / f"{seed}.qcow2", "qcow2", "-c").read_bytes())

    async with scene_with(chosen) as scene:
        write_image(1)
        job = await scene.run(request(packed, out, key_ring), room=3)
        write_image(2)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert any("starting over under a new key" in notice for notice in job.notices)
    fits(out, disk, key_ring)


async def test_a_touched_volume_is_the_same(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """Only the bytes count: a volume with another time of change, or a copy of it, is the same volume."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        first = files(out)
        copy = tmp_path / "copy"
        copy.write_bytes(image.read_bytes())
        copy.replace(image)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert job.notices == tuple(notice for notice in job.notices if "starting over" not in notice)
    assert {name: data for name, data in files(out).items() if name in first} == first
    fits(out, image, key_ring)


async def test_another_key_pair_cannot_go_on(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A job whose user key was replaced reports it and keeps its parts; with the old key it continues."""
    out = tmp_path / "out"
    pair = tmp_path / "pair"
    pair.mkdir()

    def install(keys: Any) -> None:
        (pair / "cert.pem").write_bytes(keys.certificate.read_bytes())
        (pair / "key.pem").write_bytes(keys.key.read_bytes())
        (pair / "key.pem").chmod(0o600)

    install(key_ring.user)
    asked = request(image, out, key_ring, certificate=str(pair / "cert.pem"), private_key=str(pair / "key.pem"))
    async with scene_with(chosen) as scene:
        job = await scene.run(asked, room=5)
        install(key_ring.stranger)
        job = await scene.again(job)
        assert job.error is not None
        assert (job.error.code, job.resumable) == ("key.other", True)
        assert len(files(out)) == 5
        install(key_ring.user)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    fits(out, image, key_ring)


async def test_a_volume_that_is_not_there_at_the_moment(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A resumed job whose volume cannot be opened keeps its parts: the disk may be plugged in again."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        image.rename(tmp_path / "elsewhere")
        job = await scene.again(job)
        assert job.error is not None
        assert job.resumable
        assert f"amistream resume {job.id}" in job.error.hint
        assert len(files(out)) == 5
        (tmp_path / "elsewhere").rename(image)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    fits(out, image, key_ring)


async def test_a_later_life_is_cancelled(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A cancel in the second run removes the parts of the first run too."""
    out = tmp_path / "out"

    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        again = await scene.remembered(job)
        held = asyncio.Event()
        seal = scene.journal.seal

        async def hold(job_id: str, part: SealedPart) -> None:
            await seal(job_id, part)
            if part.digest.index == 8:
                held.set()
                await asyncio.Event().wait()

        scene.journal.seal = hold  # type: ignore[method-assign]  # the test's own grip on the job
        running = asyncio.create_task(scene.engine.run(again))
        await held.wait()
        assert len(list(out.glob("*.part.*"))) >= 5
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (again.state, again.resumable) == (State.CANCELLED, False)
        assert not out.exists() or files(out) == {}
        assert await scene.next_step(again) is NextStep.OVER


async def test_interrupted_and_gone_on_with(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A job that is interrupted keeps its stored parts, as often as that happens."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        seal = scene.journal.seal
        held: asyncio.Queue[int] = asyncio.Queue()
        stops = {2, 3, 9}

        async def hold(job_id: str, part: SealedPart) -> None:
            await seal(job_id, part)
            if part.digest.index in stops:
                stops.remove(part.digest.index)
                held.put_nowait(part.digest.index)
                await asyncio.Event().wait()

        scene.journal.seal = hold  # type: ignore[method-assign]  # the test's own grip on the job
        job = Job(request(image, out, key_ring))
        await scene.engine.enter(job)
        for number in (2, 3, 9):
            running = asyncio.create_task(scene.engine.run(job))
            assert await held.get() == number
            job.cancel_requested = job.interrupt_requested = True
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert (job.state, job.resumable, job.kept_parts) == (State.INTERRUPTED, True, number + 1)
            assert await scene.next_step(job) is NextStep.KEPT
            job = await scene.remembered(job)
        await scene.engine.run(job)
        assert job.state is State.DONE, job.error
    fits(out, image, key_ring)


async def test_a_removal_is_not_cut_short(image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings) -> None:
    """A removal that is cancelled at any moment ends the job before it returns, and no part is forgotten."""
    out = tmp_path / "out"
    for turns in range(0, 40, 4):
        async with scene_with(chosen) as scene:
            job = await scene.run(request(image, out, key_ring), room=3)
            job = await scene.remembered(job)
            running = asyncio.create_task(scene.engine.clean(job))
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait({running})
            assert job.state is State.CANCELLED
            assert await scene.next_step(job) is NextStep.OVER
            assert files(out) == {}
            out.rmdir()


async def test_a_removal_that_cannot_be_entered(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A removal fails while the journal is full, and is possible later."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=3)
        job = await scene.remembered(first)
        scene.journal.is_full = True
        await scene.engine.clean(job)
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert job.error is not None
        assert job.error.code == "journal.full"
        scene.journal.is_full = False
        job = await scene.remembered(first)
        await scene.engine.clean(job)
        assert job.state is State.CANCELLED
        assert list(out.glob("*")) == []


async def test_a_removal_that_stumbles_over_a_bug(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in amistream ends that removal and not its caller, and the job can be removed later."""
    out = tmp_path / "out"

    async def stumble(*_: object) -> None:
        raise ValueError("the secret is 42")

    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=3)
        job = await scene.remembered(first)
        with monkeypatch.context() as patch:
            patch.setattr(bundle_run, "remove_kept", stumble)
            await scene.engine.clean(job)
        assert (job.state, job.resumable) == (State.FAILED, True)
        assert job.error is not None
        assert job.error.code == "internal.bug"
        assert "42" not in f"{job.error} {job.notices}"
        job = await scene.remembered(first)
        await scene.engine.clean(job)
        assert job.state is State.CANCELLED


async def test_a_later_life_that_cannot_be_looked_up(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job whose journal cannot be read fails and stays resumable for the next daemon."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        first = await scene.run(request(image, out, key_ring), room=3)
        new = Job(request(image, tmp_path / "other", key_ring))
        await scene.engine.enter(new)
        for job in (await scene.remembered(first), first.again(), new):
            scene.journal.is_unreadable = True
            await scene.engine.run(job)
            scene.journal.is_unreadable = False
            assert job.error is not None
            assert (job.state, job.error.code, job.resumable) == (State.FAILED, "journal.failed", True)
        job = await scene.again(first)
        assert job.state is State.DONE, job.error
    fits(out, image, key_ring)


async def test_a_removal_that_failed_may_become_a_resume(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job that is resumed after a removal began continues from the remaining parts, and the next daemon keeps it."""
    out = tmp_path / "out"
    async with scene_with(chosen) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        await scene.journal.set_next_step(job.id, NextStep.CLEANING)
        (out / "image.part.03").unlink()
        scene.journal.room = 7
        later = await scene.again(job)
        scene.journal.room = None
        assert later.resumable
        assert await scene.next_step(later) is NextStep.KEPT
        later = await scene.again(later)
        assert later.state is State.DONE, later.error
    fits(out, image, key_ring)


async def test_a_job_that_is_not_in_the_journal(
    image: Path, tmp_path: Path, key_ring: KeyRing, chosen: Settings
) -> None:
    """A job that is not in the journal is not run."""
    async with scene_with(chosen) as scene:
        job = Job(request(image, tmp_path / "out", key_ring))
        await scene.engine.run(job)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "journal.missing")
        assert not (tmp_path / "out").exists()


async def test_chunks_of_another_size_in_a_later_life(
    faulty_bucket: Callable[[Fault], FaultyBucket], tmp_path: Path, key_ring: KeyRing
) -> None:
    """A job continues under a setting that changes how parts are uploaded, and so their checksums."""
    chunk = Fault(action=Answer(status=403, code="AccessDenied"), path=".*part.01", query="partNumber", times=None)
    bucket = faulty_bucket(chunk)
    image = random_image(tmp_path / "disk.img", 20_000_000)
    figures = {"part_size": "7MiB", "upload_concurrency": 1, "multipart_threshold": "5MiB"}
    async with scene_with(settings(tmp_path, multipart_chunk="5MiB", **figures)) as scene:
        job = await scene.run(bucket.asked(image, key_ring))
        assert (job.state, job.resumable) == (State.FAILED, True)
    await bucket.mend()
    async with scene_with(settings(tmp_path, multipart_chunk="6MiB", **figures)) as scene:
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    assert open_uploads(bucket.endpoint, bucket.name) == []
    assert len(bucket.proxy.seen("POST", ".*part.00", "uploads")) == 1
    fits(bucket.got(tmp_path / "got"), image, key_ring)


async def test_all_that_is_left_is_the_manifest(
    faulty_bucket: Callable[[Fault], FaultyBucket], tmp_path: Path, key_ring: KeyRing, image: Path, chosen: Settings
) -> None:
    """A job with every part stored is finished without its volume: only the manifest is put."""
    bucket = faulty_bucket(manifest_refused())
    async with scene_with(chosen) as scene:
        job = await scene.run(bucket.asked(image, key_ring))
        assert (job.state, job.resumable) == (State.FAILED, True)
        sent = len(bucket.proxy.seen("PUT"))
        image.rename(tmp_path / "elsewhere")
        await bucket.mend()
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert len(bucket.proxy.seen("PUT")) == sent + 1
        assert job.result is not None
        assert job.result.bundled_size > 3_000_000
    fits(bucket.got(tmp_path / "got"), tmp_path / "elsewhere", key_ring)


async def test_a_part_is_lost_before_the_manifest_is_put(
    faulty_bucket: Callable[[Fault], FaultyBucket], tmp_path: Path, key_ring: KeyRing, image: Path, chosen: Settings
) -> None:
    """No manifest is put while a part is lost: the job names it, and its next run stores it again."""
    bucket = faulty_bucket(manifest_refused())
    async with scene_with(chosen) as scene:
        job = await scene.run(bucket.asked(image, key_ring))
        await bucket.mend()
        with bucket.endpoint.blocking_client() as s3:
            s3.delete_object(Bucket=bucket.name, Key="x/image.part.02")
        job = await scene.again(job)
        assert job.error is not None
        assert (job.state, job.error.code, job.resumable) == (State.FAILED, "store.lost", True)
        assert "image.part.02" in job.error.message
        assert "x/image.manifest.xml" not in list_keys(bucket.endpoint, bucket.name)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    fits(bucket.got(tmp_path / "got"), image, key_ring)
