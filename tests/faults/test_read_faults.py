"""Volumes that cannot be read, end early, or change under the reader: never a torn image, always a clear message.

Counts: bad sectors at three places, short reads, and fourteen ways to change a volume while it is read, three of which
are none; three ways to change it between two runs of a job.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.settings import OnStop
from faults.scene import MANIFEST, ended, hit, part
from support.proxy import Fault, PauseReply
from support.volumes import loop_device, random_image

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from faults.scene import MakeScene, Scene

MIB = 1 << 20
BLOCK = 64 * 1024
HELD = Fault(action=PauseReply(), path=part(1))
"""Holds the job while some of the volume is read and some is not."""


def failed(job: Job, code: str, *says: str) -> None:
    assert job.error is not None
    assert (job.state, job.error.code) == (State.FAILED, code), job.error
    for words in says:
        assert words in job.error.message
    assert "\n" not in job.error.message
    assert job.error.hint
    assert not job.resumable


@pytest.mark.parametrize("good", [4096, 3 * MIB, 4 * MIB - 4096], ids=["at the start", "midway", "at the end"])
async def test_bad_sectors_fail_the_job(good: int, scene: MakeScene, tmp_path: Path) -> None:
    """A block device that gives I/O errors from a byte on: the message names that byte, and nothing is left."""
    backing = random_image(tmp_path / "backing.img", 4 * MIB)
    with loop_device(backing) as device:
        os.truncate(backing, good)
        async with scene(part_size="1MiB") as there:
            job = await there.run(there.request(source=str(device)))
            failed(job, "source.read_error", f"cannot read {device} at byte", os.strerror(errno.EIO))
            assert job.error is not None
            offset = int(job.error.message.partition(" at byte ")[2].partition(":")[0])
            # A read that is cut off by the error may be given up as a whole.
            assert good - BLOCK <= offset <= good
            assert there.left() == []


async def test_short_reads_are_gone_on_with(scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is read once and in its place, however short the kernel's reads are."""
    dice = random.Random(7)
    whole = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        return whole(descriptor, [buffers[0][: dice.choice([1, 511, 4096, 70_000])]], offset, *flags)

    monkeypatch.setattr(os, "preadv", short)
    async with scene() as there:
        job = await there.run()
        monkeypatch.undo()
        assert job.state is State.DONE, job.error
        there.fits()


async def changed(there: Scene, change: Callable[[], object], held: Fault = HELD, source: Path | None = None) -> Job:
    """Run a job, and change the volume while it is held."""
    async with there.queue() as queue:
        job, _ = await queue.submit(there.request(source=str(source or there.image)))
        await hit(there.proxy, held)
        change()
        await asyncio.to_thread(there.proxy.let_go, held)
        await ended(job)
    return job


async def test_a_file_that_shrinks(scene: MakeScene) -> None:
    """The error gives the file's present end and its earlier length."""
    async with scene(HELD, size=8 * MIB) as there:
        job = await changed(there, lambda: os.truncate(there.image, 7 * MIB))
        failed(job, "source.shrunk", str(there.image), f"ends at byte {7 * MIB} and had {8 * MIB} bytes")
        assert there.left() == []


async def test_a_file_that_shrinks_within_what_was_read(scene: MakeScene) -> None:
    """Bytes that were read already and are gone now tear the image as well."""
    held = Fault(action=PauseReply(), path=part(4))
    async with scene(held) as there:
        job = await changed(there, lambda: os.truncate(there.image, 100_000), held)
        failed(job, "source.changed", str(there.image))
        assert there.left() == []


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _write(path: Path, offset: int, data: bytes = b"changed") -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _write_and_put_time_back(path: Path) -> None:
    before = path.stat()
    _write(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _grow_and_shrink_back(path: Path) -> None:
    before = path.stat()
    _append(path)
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _punch(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        size = before.st_size
        file.truncate(0)
        file.truncate(size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": _append,
    "is written to where it was read": lambda path: _write(path, 0),
    "is written to where it is read next": lambda path: _write(path, path.stat().st_size - 100),
    "gets the same bytes again": lambda path: _write(path, 0, path.read_bytes()[:100]),
    "is written to, its time put back": _write_and_put_time_back,
    "grows and shrinks back, its time put back": _grow_and_shrink_back,
    "becomes a hole, its time put back": _punch,
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_file_that_changes(name: str, scene: MakeScene) -> None:
    """A write to an image file while it is read fails the job, at any place and with any file times."""
    held = Fault(action=PauseReply(), path=part(2))
    async with scene(held) as there:
        job = await changed(there, lambda: CHANGES[name](there.image), held)
        failed(job, "source.changed", str(there.image), "was written to")
        assert there.left() == []


async def test_a_file_that_changes_after_the_last_read(scene: MakeScene) -> None:
    """A write after every part is stored does not matter: the bundle holds the earlier state."""
    held = Fault(action=PauseReply(), path=MANIFEST)
    async with scene(held) as there:
        copy = there.directory / "copy.img"
        copy.write_bytes(there.image.read_bytes())
        job = await changed(there, lambda: _write(there.image, 0), held)
        assert job.state is State.DONE, job.error
        there.fits(image=copy)


@pytest.mark.parametrize("name", ["grows", "shrinks", "is written to where it was read"])
async def test_a_file_that_changes_between_two_runs(name: str, scene: MakeScene) -> None:
    """A volume that changed between two runs is bundled anew, with a notice; nothing of the first run stays."""
    held = Fault(action=PauseReply(), path=part(2))
    async with scene(held) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request())
            await hit(there.proxy, held)
            stopping = asyncio.create_task(queue.drain(OnStop.INTERRUPT))
            await asyncio.sleep(0)
            await asyncio.to_thread(there.proxy.let_go, held)
            await stopping
        assert job.kept >= 3
        if name == "shrinks":
            os.truncate(there.image, 300_000)
        else:
            CHANGES[name](there.image)
        async with there.queue() as queue:
            again = queue.get(job.id)
            await ended(again)
        assert again.state is State.DONE, again.error
        assert any("starting over under a new key" in notice for notice in again.notices)
        there.fits()


@pytest.mark.parametrize("how", ["renamed over", "deleted", "made read-only"])
async def test_a_change_of_the_name_or_mode_changes_nothing(how: str, scene: MakeScene) -> None:
    """The opened file is read, whatever its path names later and whatever its mode."""
    async with scene(HELD) as there:
        copy = there.directory / "copy.img"
        copy.write_bytes(there.image.read_bytes())

        def swap() -> None:
            other = random_image(there.directory / "other.img", 100_000, seed=9)
            if how == "deleted":
                there.image.unlink()
            elif how == "made read-only":
                there.image.chmod(0o400)
            else:
                other.rename(there.image)

        job = await changed(there, swap)
        assert job.state is State.DONE, job.error
        there.fits(image=copy)


async def test_a_device_that_is_written_to(scene: MakeScene, tmp_path: Path) -> None:
    """A device has no time of its last change, but it counts what is written to it."""
    backing = random_image(tmp_path / "backing.img", 1_200_128)
    with loop_device(backing, read_only=False) as device:
        async with scene(HELD) as there:

            def write() -> None:
                with device.open("r+b", buffering=0) as disk:
                    disk.write(b"x" * 4096)

            job = await changed(there, write, source=device)
            failed(job, "source.changed", str(device), "was written to")
            assert there.left() == []


async def test_a_device_that_shrinks(scene: MakeScene, tmp_path: Path) -> None:
    """A device of which less is left than was promised fails the job."""
    backing = random_image(tmp_path / "backing.img", 4 * MIB)
    with loop_device(backing, read_only=False) as device:
        async with scene(HELD, size=1) as there:

            def shrink() -> None:
                os.truncate(backing, 2 * MIB)
                subprocess.run(["losetup", "--set-capacity", str(device)], check=True)

            job = await changed(there, shrink, source=device)
            assert job.error is not None
            assert job.state is State.FAILED
            assert job.error.code in {"source.shrunk", "source.read_error"}
            assert str(device) in job.error.message
            assert there.left() == []
