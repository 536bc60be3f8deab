"""Several runs of one job: parts are kept, continued from, begun anew or removed, and others' objects never touched."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from amistream.errors import ConflictError
from amistream.events import BundleResult, State
from amistream.jobs import bundle_run
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue
from amistream.jobs.records import NextStep
from jobs.runs import ANEW, DENIED, at_part
from source.images import convert, needs_qemu
from support.volumes import random_image, sparse_image

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud, MakeScene, Scene
    from support.keys import KeyPair, KeyRing

MANIFEST = ".*manifest.xml"


@pytest.mark.parametrize("lost", [(), (1, 6)], ids=["all there", "two lost"])
async def test_kept_with_its_parts_and_continued(lost: tuple[int, ...], scene: Scene) -> None:
    """A job that fails after its first parts keeps them and says how to continue; its next run makes the rest."""
    job = await scene.run(room=7)
    assert job.error is not None
    assert (job.state, job.error.code, job.resumable) == (State.FAILED, "journal.full", True)
    assert f"`amistream resume {job.id}`" in job.error.hint
    assert f"`amistream cancel {job.id}`" in job.error.hint
    assert sorted(scene.files()) == [f"image.part.{number:02d}" for number in range(7)]
    assert job.kept == 7
    for number in lost:
        (scene.out / f"image.part.{number:02d}").unlink()
    times = {path: path.stat().st_mtime_ns for path in scene.out.iterdir()}
    job = await scene.again(job)
    assert (job.state, job.error, job.resumable) == (State.DONE, None, False)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    scene.fits()
    assert isinstance(job.result, BundleResult)
    assert job.result.compression["resumed"] > 0


async def test_the_commands_of_a_hint_can_be_given_as_they_stand(make_scene: MakeScene) -> None:
    """Without a daemon, a failed job's hint, and a refusal to bundle to the same place, give commands that say so."""
    async with make_scene(by_itself=False) as scene:
        job = await scene.run(room=5)
        assert job.error is not None
        queue = JobQueue(
            scene.engine.run, scene.engine.clean, scene.journal, max_jobs=1, max_queued=1, default_prefix="image"
        )
        async with queue:
            await queue.recover(resume=False)
            with pytest.raises(ConflictError) as caught:
                await queue.submit(job.request)
    for hint in (job.error.hint, caught.value.hint):
        assert f"amistream resume {job.id} --in-process" in hint
        assert f"amistream cancel {job.id} --in-process" in hint


@pytest.mark.parametrize("room", [1, 3, 6])
async def test_a_part_that_is_not_recorded_is_not_sent_nor_any_after_it(room: int, make_scene: MakeScene) -> None:
    """No part is sent once one could not be recorded: its number may come to have another content."""
    async with make_scene(upload_concurrency=8, part_size="64KiB") as scene:
        job = await scene.run(room=room)
        assert job.resumable
        assert sorted(scene.files()) == [f"image.part.{number:02d}" for number in range(room)]


async def test_nothing_stored_nothing_kept(scene: Scene) -> None:
    """A job that fails before anything is stored leaves nothing, not even a directory, and nothing to resume."""
    job = await scene.run(room=0)
    assert (job.state, job.resumable) == (State.FAILED, False)
    assert job.error is not None
    assert "amistream resume" not in job.error.hint
    assert not scene.out.exists()
    assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize("confined", [False, True])
async def test_killed_while_a_part_got_its_name(
    confined: bool, make_scene: MakeScene, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A part in a directory that still has its temporary name too is the job's own."""
    async with make_scene(source_roots=[str(tmp_path), str(key_ring.user.key.parent)]) as scene:
        job = await scene.run(room=5, confined=confined)
        token = job.id.rpartition("-")[2]
        (scene.out / f".image.part.04.{token}.partial").hardlink_to(scene.out / "image.part.04")
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert not list(scene.out.glob(".*"))
        scene.fits()


async def test_a_probe_that_an_earlier_run_left(scene: Scene, cloud: Cloud) -> None:
    """A removal deletes the probe object that an earlier run's check left."""
    await cloud.breaks(DENIED, MANIFEST)
    job = await scene.run(cloud.request(scene.image, scene.keys))
    assert job.resumable
    with cloud.endpoint.blocking_client() as s3:
        s3.put_object(Bucket=cloud.bucket, Key=f"x/amistream-probe-{job.id.rpartition('-')[2]}", Body=b"")
    job = await scene.clean(job)
    assert job.state is State.CANCELLED, job.notices
    assert cloud.stored() == []


async def test_removed_on_request(scene: Scene) -> None:
    """A removal of a kept job deletes its parts, and the remains of an unfinished part."""
    job = await scene.run(room=5)
    token = job.id.rpartition("-")[2]
    (scene.out / f".image.part.05.{token}.partial").write_bytes(b"half of i")
    job = await scene.clean(job)
    assert (job.state, job.resumable) == (State.CANCELLED, False)
    assert list(scene.out.glob("*")) == []
    assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "removed"])
async def test_another_s_file_stays(resumed: bool, scene: Scene) -> None:
    """Another's file under a part's name is reported, and no end of the job removes it."""
    job = await scene.run(room=5)
    (scene.out / "image.part.02").unlink()
    (scene.out / "image.part.02").write_bytes(b"somebody else's")
    job = await (scene.again if resumed else scene.clean)(job)
    if resumed:
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "store.exists")
        assert "image.part.02" in job.error.message
    assert scene.files() == {"image.part.02": b"somebody else's"}


@pytest.mark.parametrize("change", ["a byte", "size", "another file", "another file, and its bundle is gone"])
async def test_a_changed_volume_is_begun_anew(change: str, scene: Scene) -> None:
    """Parts of a volume that changed since are removed, and the volume is bundled again under another key."""
    job = await scene.run(room=5)
    entry = await scene.journal.find(job.id)
    assert entry is not None
    assert entry.bundling is not None
    before = scene.files()
    why = r"the first \d+ bytes .* are not what they were"
    match change:
        case "a byte":
            with scene.image.open("r+b") as file:
                file.seek(300_000)
                file.write(b"changed")
        case "size":
            os.truncate(scene.image, 2_500_000)
            why = "it had 3000000 bytes and has 2500000"
        case _:
            random_image(scene.image, 3_000_000, seed=5)
            if "gone" in change:
                shutil.rmtree(scene.out)
                why = ""
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    if why:
        (notice,) = (notice for notice in job.notices if ANEW in notice)
        assert re.search(rf"{scene.image} differs from when this job began \({why}\)", notice)
    scene.fits()
    after = scene.files()
    assert all(after.get(name) != data for name, data in before.items())
    assert entry.bundling.places[0].wrapped.user_key.hex().encode() not in after["image.manifest.xml"]


@needs_qemu
async def test_a_changed_image_that_a_child_reads_is_begun_anew(scene: Scene, tmp_path: Path) -> None:
    """The pass that found the change leaves nothing that keeps the next from reading a compressed qcow2."""
    disk, packed = tmp_path / "disk.img", tmp_path / "disk.qcow2"

    def write_image(seed: int) -> None:
        disk.write_text(random.Random(seed).randbytes(1 << 20).hex())
        packed.write_bytes(convert(disk, tmp_path / f"{seed}.qcow2", "qcow2", "-c").read_bytes())

    write_image(1)
    job = await scene.run(replace(scene, image=packed).request(), room=3)
    write_image(2)
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert any(ANEW in notice for notice in job.notices)
    scene.fits()


@pytest.mark.parametrize("change", ["a copy of it", "a hole grew", "a hole was written into"])
async def test_only_the_bytes_of_a_volume_count(change: str, scene: Scene) -> None:
    """A volume with another time of change, or zeros that became a hole, is the same; data in a hole is a change."""
    sparse_image(scene.image, 3_000_000, [(0, 1_000_000), (2_000_000, 1_000_000)])
    with scene.image.open("r+b") as file:
        file.seek(2_500_000)
        file.write(bytes(500_000))
    job = await scene.run(scene.request(sparse="always"), room=3)
    before, data = scene.files(), scene.image.read_bytes()
    with scene.image.open("r+b") as file:
        match change:
            case "a copy of it":
                copy = scene.image.with_suffix(".copy")
                subprocess.run(["cp", "--sparse=always", scene.image, copy], check=True)
                copy.replace(scene.image)
            case "a hole grew":
                file.truncate(2_500_000)
                file.truncate(3_000_000)
            case _:
                file.seek(1_500_000)
                file.write(b"written into the hole")
    is_same = scene.image.read_bytes() == data
    assert is_same is (change != "a hole was written into")
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    assert any(ANEW in notice for notice in job.notices) is not is_same
    assert all((scene.files()[name] == content) is is_same for name, content in before.items())
    scene.fits()


@pytest.mark.parametrize("lacking", ["the key", "the volume"])
async def test_continued_once_key_and_volume_are_there_again(lacking: str, scene: Scene, tmp_path: Path) -> None:
    """A job whose user key was replaced, or whose volume cannot be opened, reports it and keeps its parts."""
    certificate, private_key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(keys: KeyPair) -> None:
        certificate.write_bytes(keys.certificate.read_bytes())
        private_key.write_bytes(keys.key.read_bytes())
        private_key.chmod(0o600)

    install(scene.keys.user)
    job = await scene.run(scene.request(certificate=str(certificate), private_key=str(private_key)), room=5)
    away = tmp_path / "elsewhere"
    if lacking == "the key":
        install(scene.keys.stranger)
    else:
        scene.image.rename(away)
    job = await scene.again(job)
    assert job.error is not None
    assert job.resumable
    assert lacking == "the volume" or job.error.code == "key.other"
    assert f"amistream resume {job.id}" in job.error.hint
    assert len(scene.files()) == 5
    if lacking == "the key":
        install(scene.keys.user)
    else:
        away.rename(scene.image)
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    scene.fits()


async def test_interrupted_and_continued(scene: Scene) -> None:
    """A job that is interrupted keeps its stored parts, as often as that happens."""
    job = await scene.enter()
    for number in (2, 3, 9):
        with scene.held("seal", at_part(number)) as call:
            await scene.stopped(job, call, keep=True)
        assert (job.state, job.resumable, job.kept) == (State.INTERRUPTED, True, number + 1)
        assert await scene.next_step(job) is NextStep.KEPT
        job = await scene.remembered(job)
    await scene.engine.run(job)
    assert job.state is State.DONE, job.error
    scene.fits()


async def test_a_removal_is_not_cut_short(make_scene: MakeScene) -> None:
    """A removal that is cancelled at any moment ends the job before it returns, and no part is forgotten."""
    for turns in range(0, 40, 4):
        async with make_scene() as scene:
            job = await scene.remembered(await scene.run(room=3))
            running = asyncio.create_task(scene.engine.clean(job))
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait({running})
            assert job.state is State.CANCELLED
            assert await scene.next_step(job) is NextStep.OVER
            assert scene.files() == {}
            assert not scene.out.exists()


@pytest.mark.parametrize("code", ["journal.full", "internal.bug"])
async def test_a_removal_that_fails_can_be_made_later(code: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full journal, or a bug in amistream, ends that removal and not its caller, and the job can be removed later."""

    async def break_down(*_: object) -> None:
        raise ValueError("the secret is sesame")

    first = await scene.run(room=3)
    with monkeypatch.context() as patch:
        if code == "internal.bug":
            patch.setattr(bundle_run, "remove_kept", break_down)
            job = await scene.clean(first)
        else:
            with scene.failing("set_next_step"):
                job = await scene.clean(first)
    assert (job.state, job.resumable) == (State.FAILED, True)
    assert job.error is not None
    assert job.error.code == code
    assert "sesame" not in f"{job.error} {job.notices}"
    job = await scene.clean(first)
    assert job.state is State.CANCELLED
    assert list(scene.out.glob("*")) == []


async def test_a_later_run_without_a_readable_journal(scene: Scene, tmp_path: Path) -> None:
    """A job whose journal cannot be read fails and stays resumable for the next daemon."""
    first = await scene.run(room=3)
    new = await scene.enter(scene.request(tmp_path / "other"))
    for job in (await scene.remembered(first), first.again(), new):
        with scene.failing("find", code="journal.failed"):
            await scene.engine.run(job)
        assert job.error is not None
        assert (job.state, job.error.code, job.resumable) == (State.FAILED, "journal.failed", True)
    job = await scene.again(first)
    assert job.state is State.DONE, job.error
    scene.fits()


async def test_a_removal_that_failed_may_become_a_resume(scene: Scene) -> None:
    """A job that is resumed after a removal began continues from the remaining parts, and the next daemon keeps it."""
    job = await scene.run(room=5)
    await scene.journal.set_next_step(job.id, NextStep.CLEANING)
    (scene.out / "image.part.03").unlink()
    with scene.failing("seal", fits=at_part(7)):
        job = await scene.again(job)
    assert job.resumable
    assert await scene.next_step(job) is NextStep.KEPT
    job = await scene.again(job)
    assert job.state is State.DONE, job.error
    scene.fits()


async def test_a_job_that_is_not_in_the_journal(scene: Scene) -> None:
    """A job that is not in the journal is not run."""
    job = Job(scene.request())
    await scene.engine.run(job)
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, "journal.missing")
    assert not scene.out.exists()


@pytest.mark.parametrize("lost", [False, True])
async def test_only_the_manifest_remains(lost: bool, scene: Scene, cloud: Cloud, tmp_path: Path) -> None:
    """A job with every part stored is finished without its volume, by one PUT; not while one of them is lost."""
    refused = await cloud.breaks(DENIED, MANIFEST)
    job = await scene.run(cloud.request(scene.image, scene.keys))
    assert (job.state, job.resumable) == (State.FAILED, True)
    sent = len(cloud.proxy.seen("PUT"))
    await cloud.mend(refused)
    if lost:
        with cloud.endpoint.blocking_client() as s3:
            s3.delete_object(Bucket=cloud.bucket, Key="x/image.part.02")
        job = await scene.again(job)
        assert job.error is not None
        assert (job.state, job.error.code, job.resumable) == (State.FAILED, "store.lost", True)
        assert "image.part.02" in job.error.message
        assert "x/image.manifest.xml" not in cloud.stored()
        job = await scene.again(job)
    else:
        scene.image.rename(tmp_path / "elsewhere")
        job = await scene.again(job)
        (tmp_path / "elsewhere").rename(scene.image)
        assert len(cloud.proxy.seen("PUT")) == sent + 1
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, BundleResult)
    assert job.result.bundled_size > 3_000_000
    scene.fits(cloud.downloaded(tmp_path / "got"))
