"""Jobs that freeze a mounted volume: what comes back, and that a writer gets through whatever becomes of the job."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from amistream.events import BundleResult, State
from faults.machine import Machine, kill
from faults.scene import ended, hit, part
from jobs.test_free_blocks import unpacked
from jobs.work import request, run, settings
from support import commands
from support.commands import COMMANDS
from support.deleted_files import MIB, check_file_system, make_file_system
from support.frozen import GENEROUS_S, freezable, has_written, waiting_writer
from support.mounts import mounted, partition
from support.proxy import Answer, Fault, PauseReply
from support.volumes import loop_device, random_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scene import MakeScene
    from support.keys import KeyRing

HELD = Fault(action=PauseReply(), path=part(1))
"""Holds the job while much of the volume is still to be read."""


LIMIT_S = 6
"""A busy machine has sent the first part by then, and the limit is waited for."""
GUARDS = {
    "freezer killed": ("freezer", signal.SIGKILL, 600),
    "watcher killed": ("watcher", signal.SIGKILL, 600),
    "freezer stopped": ("freezer", signal.SIGSTOP, LIMIT_S),
}


def guard_of_this_process(role: str) -> int:
    """The process of a guard that this process has started."""
    children = " ".join(file.read_text() for file in Path("/proc/self/task").glob("*/children"))
    for number in children.split():
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if len(words) > 5 and words[3].endswith(b"freeze_guard.py") and words[5] == role.encode():
            return int(number)
    raise AssertionError(f"there is no {role}")


class Mounted(NamedTuple):
    device: Path
    place: Path


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Mounted]:
    """A mounted ext4 with more noise than fits in the parts in flight."""
    with freezable(tmp_path) as (device, place):
        random_image(place / "more", 4 * MIB)
        yield Mounted(device, place)


@pytest.mark.parametrize(("kind", "size"), [("ext4", 16 * MIB), ("xfs", 304 * MIB)])
async def test_the_last_writes_are_there(kind: str, size: int, tmp_path: Path, key_ring: KeyRing) -> None:
    """A frozen volume comes back with what was written a moment ago, and without its free blocks."""
    image = tmp_path / "disk.img"
    files = make_file_system(image, kind, size)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "data") as place:
        device.read_bytes()  # the kernel keeps what it reads here, as when udev looks at a device
        files["last"] = b"written a moment ago\n" * 10_000
        (place / "last").write_bytes(files["last"])
        job = await run(request(device, tmp_path / "out", key_ring, freeze=True), settings(tmp_path))
        assert job.state is State.DONE, job.error
        (place / "after").write_bytes(b"")
    assert isinstance(job.result, BundleResult)
    assert job.result.left_out is not None
    assert job.result.left_out.free > 4 * MIB
    assert not [notice for notice in job.notices if "mounted" in notice or "with its free blocks" in notice]
    back = unpacked(tmp_path / "out", key_ring, tmp_path / "back")
    with mounted(back, tmp_path / "replayed", "-o", "loop"):
        pass
    check_file_system(back, kind, files)


async def test_a_disk_with_two_mounted_file_systems(tmp_path: Path, key_ring: KeyRing) -> None:
    """All file systems of a disk are frozen, and each comes back with its last writes, without its free blocks."""
    disk, sizes = tmp_path / "disk.img", {"ext4": 16 * MIB, "xfs": 304 * MIB}
    places = {"ext4": (MIB, sizes["ext4"]), "xfs": (MIB + sizes["ext4"], sizes["xfs"])}
    files = {kind: make_file_system(tmp_path / kind, kind, size) for kind, size in sizes.items()}
    with disk.open("wb") as file:
        file.truncate(2 * MIB + sum(sizes.values()))
    table = "".join(f"{start // 512},{size // 512},L\n" for start, size in places.values())
    subprocess.run(["sfdisk", "--quiet", disk], input=f"label: dos\n{table}", text=True, check=True)
    for kind, (start, _) in places.items():
        where = ["bs=1M", f"seek={start // MIB}", "conv=notrunc,sparse", "status=none"]
        subprocess.run(["dd", f"if={tmp_path / kind}", f"of={disk}", *where], check=True)
    with (
        loop_device(disk, read_only=False) as device,
        partition(device, *places["ext4"]) as first,
        partition(device, *places["xfs"], number=2) as second,
        mounted(first, tmp_path / "first") as ext4,
        mounted(second, tmp_path / "second") as xfs,
    ):
        device.read_bytes()
        for kind, place in (("ext4", ext4), ("xfs", xfs)):
            files[kind]["last"] = b"written a moment ago\n" * 10_000
            (place / "last").write_bytes(files[kind]["last"])
        job = await run(request(device, tmp_path / "out", key_ring, freeze=True), settings(tmp_path))
        assert job.state is State.DONE, job.error
        for place in (ext4, xfs):
            (place / "after").write_bytes(b"")
    assert not [notice for notice in job.notices if "with its free blocks" in notice]
    back = unpacked(tmp_path / "out", key_ring, tmp_path / "back")
    for kind, (start, size) in places.items():
        options = f"loop,offset={start},sizelimit={size}"
        with mounted(back, tmp_path / f"replayed-{kind}", "-o", options):
            pass
        check_file_system(back, kind, files[kind], offset=start, size=size)


async def test_thawed_once_all_is_read(scene: MakeScene, data: Mounted) -> None:
    """A writer gets through as soon as all is read, however long the upload then takes."""
    async with scene(part_size="16MiB") as there:
        async with there.queue() as queue:
            held = Fault(action=PauseReply(), path=part(0))
            await asyncio.to_thread(there.proxy.add, held)
            job, _ = await queue.submit(there.request(source=str(data.device), freeze=True))
            await hit(there.proxy, held)
            writer = subprocess.Popen(["touch", data.place / "written"])
            assert await asyncio.to_thread(has_written, writer)
            await asyncio.to_thread(there.proxy.let_go, held)
            await ended(job)
        assert job.state is State.DONE, job.error


async def test_cancelled(scene: MakeScene, data: Mounted) -> None:
    """A cancelled job thaws."""
    async with scene(HELD, upload_concurrency=1) as there, there.queue() as queue:
        job, _ = await queue.submit(there.request(source=str(data.device), freeze=True))
        await hit(there.proxy, HELD)
        writer = await asyncio.to_thread(waiting_writer, data.place)
        await queue.cancel(job.id)
        await asyncio.to_thread(there.proxy.let_go, HELD)
        assert await asyncio.to_thread(has_written, writer)
        await ended(job)
        assert job.state is State.CANCELLED
        assert there.left() == []


async def test_a_failed_upload(scene: MakeScene, data: Mounted) -> None:
    """A job whose upload fails thaws, and its parts are kept; resumed, it starts over with the volume as it is then."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), path=part(2), times=None)
    async with scene(denied, upload_concurrency=1) as there:
        job = await there.run(there.request(source=str(data.device), freeze=True))
        assert job.error is not None
        assert job.resumable
        subprocess.run(["touch", data.place / "written"], check=True, timeout=GENEROUS_S)


async def test_the_limit_passes(scene: MakeScene, data: Mounted) -> None:
    """At the limit a writer gets through, and the job fails with the cause: its image would not be consistent."""
    async with scene(HELD, upload_concurrency=1, freeze_timeout_s=LIMIT_S) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request(source=str(data.device), freeze=True))
            await hit(there.proxy, HELD)
            writer = subprocess.Popen(["touch", data.place / "written"])
            assert await asyncio.to_thread(has_written, writer)
            await asyncio.to_thread(there.proxy.let_go, HELD)
            await ended(job)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "freeze.lost")
        assert "would not be consistent" in job.error.message
        assert "freeze_timeout_s" in job.error.hint
        assert there.left() == []


@pytest.mark.parametrize(("role", "number", "limit_s"), GUARDS.values(), ids=GUARDS)
async def test_a_guard_is_gone(
    role: str, number: signal.Signals, limit_s: float, scene: MakeScene, data: Mounted
) -> None:
    """A writer gets through when a guard is killed, at the limit when it is stopped; the job fails with the cause."""
    async with scene(HELD, upload_concurrency=1, freeze_timeout_s=limit_s) as there:
        async with there.queue() as queue:
            job, _ = await queue.submit(there.request(source=str(data.device), freeze=True))
            await hit(there.proxy, HELD)
            os.kill(guard_of_this_process(role), number)
            writer = subprocess.Popen(["touch", data.place / "written"])
            assert await asyncio.to_thread(has_written, writer)
            await asyncio.to_thread(there.proxy.let_go, HELD)
            await ended(job)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "freeze.lost")
        assert there.left() == []


def test_the_daemon_is_killed(machine: Machine, data: Mounted) -> None:
    """A writer gets through when the daemon is killed, and the job resumes at its next start."""
    held = machine.held(Fault(action=PauseReply(), path=part(1)))
    with machine.daemon() as daemon:
        job_id = daemon.submit(**{**machine.body("x"), "source": str(data.device), "freeze": True})
        machine.proxy.wait_hit(held)
        writer = waiting_writer(data.place)
        kill(daemon)
        assert has_written(writer)
        machine.proxy.let_go(held)
    with machine.daemon() as daemon:
        job = daemon.wait_ended(job_id)
        assert job["state"] == "done", job["error"]
    subprocess.run(["touch", data.place / "again"], check=True, timeout=GENEROUS_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
def test_the_command_is_ended(machine: Machine, data: Mounted, number: signal.Signals) -> None:
    """A writer gets through when the command that bundles in its own process is killed, or told to end."""
    held = machine.held(Fault(action=PauseReply(), path=part(1)))
    words = [data.device if word == machine.image else word for word in machine.words("x")]
    named = {"PART_SIZE": "256KiB", "UPLOAD_CONCURRENCY": "1", "STATE_DIR": str(machine.directory / "own-state")}
    environ = {
        **machine.ground.endpoint.environ(),
        "PATH": os.environ["PATH"],
        "HOME": str(machine.directory),
        **{f"AMISTREAM_{name}": value for name, value in named.items()},
    }
    line = [str(COMMANDS / "amistream"), *map(str, words), "--freeze", "--in-process"]
    with commands.Popen[bytes](line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        machine.proxy.wait_hit(held)
        writer = waiting_writer(data.place)
        process.send_signal(number)
        machine.proxy.let_go(held)
        assert has_written(writer)
        process.communicate(timeout=GENEROUS_S)
