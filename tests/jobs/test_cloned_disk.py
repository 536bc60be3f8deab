"""Whole jobs whose source is the root of a disk that is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.events import BundleResult, State
from amistream.source.clone import open_clone
from amistream.source.tree.opening import TreeWishes
from jobs.runs import ANEW
from support.boot_disks import boot_disk
from support.live_disks import LiveDisk, in_use
from support.referee import check_bundle
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.runs import MakeScene, Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
SIZE, SMALLER = 32 * MIB, 28 * MIB


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDisk]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "tree" / "boot").mkdir(parents=True)
    random_image(folder / "tree" / "boot" / "vmlinuz-6.1.0-1-amd64", 4 * MIB)
    disk = boot_disk(folder / "disk", folder / "tree", SIZE, "gpt")
    with in_use(disk, folder / "root") as found:
        yield found


def check(scene: Scene, live: LiveDisk, to: Path) -> None:
    """The bundle holds the disk that is made of the root now."""
    volume = open_clone(live.root, TreeWishes(most=10 << 30, size=SMALLER))
    data = bytearray(volume.size)
    volume.read_into(0, memoryview(data))
    volume.close()
    to.write_bytes(data)
    check_bundle(scene.out, to, scene.keys.user.key, scene.keys.user.certificate)


def write(device: Path, offset: int) -> None:
    """Change one byte of a device."""
    with device.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), offset)
        os.fsync(file.fileno())


async def test_resumed(live: LiveDisk, make_scene: MakeScene, tmp_path: Path) -> None:
    """A job that was broken off goes on behind what it stored, and its notice says where the boot area is from."""
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(live.root), size=SMALLER), room=4)
        assert job.resumable, job.error
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert isinstance(job.result, BundleResult)
        assert job.result.compression["resumed"] > 0
        assert not [notice for notice in job.notices if ANEW in notice]
        assert [notice for notice in job.notices if f"gets the boot area of {live.device} (GRUB 2)" in notice]
        check(scene, live, tmp_path / "disk")


async def test_resumed_with_another_boot_area(live: LiveDisk, make_scene: MakeScene, tmp_path: Path) -> None:
    """A job whose disk got another boot loader between two runs starts over, so that no image has two halves."""
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(live.root), size=SMALLER, partition="clone"), room=4)
        assert job.resumable, job.error
        write(live.device, MIB // 2)
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert [notice for notice in job.notices if ANEW in notice]
        check(scene, live, tmp_path / "disk")
