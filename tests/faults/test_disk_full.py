"""Disks that fill up, or take no writes: the destination's and the state directory's.

Counts: a destination full at two places, one that is full at the start, and one that stays full while it is cleaned; a
journal full at three places; a state directory that is read-only, for the journal alone and for the daemon.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.errors import JobError
from amistream.events import BundleResult, State
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from faults.scene import Scene, ended, hit, part
from jobs.work import request
from support import commands
from support.commands import COMMANDS
from support.proxy import Fault, PauseReply
from support.referee import check_bundle

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from amistream.request import BundleRequest
    from faults.scene import MakeScene

KIB = 1024
MIB = 1024 * KIB


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own on `place`, with room for `size` bytes."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    """Write a file that takes all the room there is."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def asked_into(there: Scene, directory: Path) -> BundleRequest:
    return request(there.image, directory, there.keys)


def failed(job: Job, code: str, *says: str) -> None:
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, code), job.error
    for words in says:
        assert words in job.error.message
    assert "\n" not in job.error.message
    assert job.error.hint


@pytest.mark.parametrize("room", [600 * KIB, 1176 * KIB], ids=["midway", "before the manifest"])
async def test_a_destination_that_fills_up(room: int, scene: MakeScene, tmp_path: Path) -> None:
    """The job fails and keeps its parts; when there is room again, `resume` writes only the rest."""
    with small_disk(tmp_path / "out", room) as out:
        async with scene(upload_concurrency=1) as there:
            job = await there.run(asked_into(there, out))
            failed(job, "directory.full", str(out), "No space left on device")
            assert job.error is not None
            assert f"df -h {out}" in job.error.hint
            assert job.resumable
            kept = {path: path.stat().st_mtime_ns for path in out.glob("image.part.*")}
            assert kept
            subprocess.run(["mount", "-o", f"remount,size={4 * MIB}", str(out)], check=True)
            again = await there.resume(job)
            assert again.state is State.DONE, again.error
            assert isinstance(again.result, BundleResult)
            check_bundle(out, there.image, there.keys.user.key, there.keys.user.certificate)
            assert {path: path.stat().st_mtime_ns for path in kept} == kept
            assert len(list(out.iterdir())) == again.result.parts + 1


async def test_a_full_destination_is_left_as_it_was(scene: MakeScene, tmp_path: Path) -> None:
    """A job that cannot even write one part fails, and what it began is gone."""
    with small_disk(tmp_path / "out", 100 * KIB) as out:
        async with scene() as there:
            job = await there.run(asked_into(there, out))
            failed(job, "directory.full", str(out))
            assert not job.resumable
            assert list(out.iterdir()) == []


async def test_cancelling_what_a_full_destination_kept(scene: MakeScene, tmp_path: Path) -> None:
    """Parts are removed even when the disk has no room at all."""
    with small_disk(tmp_path / "out", 600 * KIB) as out:
        async with scene() as there:
            job = await there.run(asked_into(there, out))
            assert job.resumable
            ballast = fill(out)
            assert (await there.cancel(job)).state is State.CANCELLED
            assert list(out.iterdir()) == [ballast]


@pytest.mark.parametrize("number", [0, 3], ids=["at the first part", "midway"])
async def test_a_journal_without_room(number: int, scene: MakeScene, tmp_path: Path) -> None:
    """No part is sent that cannot be entered: the job fails; with room again it goes on, asked or by itself."""
    held = Fault(action=PauseReply(), path=part(number))
    with small_disk(tmp_path / "state", 8 * MIB) as state:
        async with scene(held, upload_concurrency=1, part_size="64KiB") as there:
            async with there.queue() as queue:
                job, _ = await queue.submit(there.request())
                await hit(there.proxy, held)
                ballast = fill(state)
                await asyncio.to_thread(there.proxy.let_go, held)
                await ended(job)
            # A failure that could not be recorded either is an interruption, which the next process goes on with.
            assert job.state in {State.FAILED, State.INTERRUPTED}
            assert job.error is not None
            assert (job.error.code, job.resumable) == ("journal.full", True)
            assert str(state / FILE) in job.error.message
            assert f"df -h {state}" in job.error.hint
            ballast.unlink()
            async with there.queue() as queue:
                again = queue.get(job.id)
                if again.resumable:
                    again = await queue.resume(job.id)
                await ended(again)
            assert again.state is State.DONE, again.error
            there.fits()
            there.parts_stored_once()


async def test_a_job_that_cannot_be_entered_is_not_taken(scene: MakeScene, tmp_path: Path) -> None:
    """A request that does not fit on the disk is refused without effect, and accepted once there is space."""
    with small_disk(tmp_path / "state", 8 * MIB) as state:
        async with scene() as there, there.queue() as queue:

            async def submit_many() -> None:
                for number in range(100):  # what the log has room for may still be entered
                    job, _ = await queue.submit(there.request(f"{number}"))
                    await ended(job)

            ballast = fill(state)
            with pytest.raises(JobError) as caught:
                await submit_many()
            assert caught.value.code == "journal.full"
            ballast.unlink()
            job, _ = await queue.submit(there.request("later"))
            await ended(job)
            assert job.state is State.DONE, job.error


async def test_a_state_directory_that_cannot_be_written(scene: MakeScene, tmp_path: Path) -> None:
    """A journal on a read-only file system is an error with a hint, not a crash."""
    with small_disk(tmp_path / "state", 256 * KIB) as state:
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        with pytest.raises(JobError) as caught:
            async with Journal(state, by_itself=True):
                pass
        assert caught.value.code == "journal.failed"
        assert str(state) in caught.value.message
        assert "\n" not in caught.value.message
        assert f"ls -la {state}" in caught.value.hint


def test_a_daemon_without_a_journal_does_not_start(tmp_path: Path) -> None:
    """The daemon gives the reason in one message and ends; no socket stays."""
    with small_disk(tmp_path / "state", 256 * KIB) as state:
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        done = commands.run(
            [COMMANDS / "amistreamd", "--socket", tmp_path / "socket", "--state-dir", state], timeout=60
        )
    assert done.returncode == JobError.exit_status
    assert done.stderr.startswith(f"amistreamd: cannot keep the journal {state / FILE}: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "socket").exists()
