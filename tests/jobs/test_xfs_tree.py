"""Whole jobs whose source is a root that is xfs: it stays one, with the boot area of its disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.checks.inspection import inspect_disk
from amistream.events import State
from jobs.runs import ANEW
from jobs.test_free_blocks import unpacked
from source.tree.nasty import described, make_nasty_tree
from support.boot_disks import boot_disk
from support.live_disks import LiveDisk, in_use
from support.mounts import mounted
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.runs import MakeScene

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
    pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="xfsprogs is not installed"),
]
SIZE, LARGER = 312 * MIB, 400 * MIB
"""mkfs.xfs makes nothing below 300 MiB."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDisk]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "tree" / "boot").mkdir(parents=True)
    random_image(folder / "tree" / "boot" / "vmlinuz-6.1.0-1-amd64", 4 * MIB)
    disk = boot_disk(folder / "disk", folder / "tree", SIZE, "gpt", "xfs")
    with in_use(disk, folder / "root", 1, "-o", "nouuid") as found:
        (found.root / "srv").mkdir()
        make_nasty_tree(found.root / "srv", names=50, longest_link=1023)
        yield found


async def test_made_anew(live: LiveDisk, make_scene: MakeScene, tmp_path: Path) -> None:
    """A job that was broken off starts over, and says why; its disk has the tree, GRUB, and no finding that is new."""
    before = described(live.root)
    async with make_scene() as scene:
        asked = scene.request(source=str(live.root), size=LARGER, partition="clone", clean=["history"])
        job = await scene.run(asked, room=4)
        assert job.resumable, job.error
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert [each for each in job.notices if ANEW in each and "its xfs is made anew in each run" in each]
        disk = unpacked(scene.out, scene.keys, tmp_path / "back")
    assert disk.stat().st_size == LARGER
    alone = tmp_path / "root.xfs"
    with disk.open("rb") as source, alone.open("wb") as target:
        source.seek(live.disk.root)
        shutil.copyfileobj(source, target, MIB)
    subprocess.run(["xfs_repair", "-n", alone], check=True, capture_output=True)
    with mounted(alone, tmp_path / "mnt", "-o", "loop,ro,nouuid") as mount:
        assert described(mount) == before
    found = inspect_disk(str(disk))
    assert (found.boot_loader, found.boot_core_whole) == ("GRUB 2", True)
    assert {each.code for each in found.findings} <= {each.code for each in inspect_disk(str(live.disk.path)).findings}


async def test_ext4_by_default(live: LiveDisk, make_scene: MakeScene) -> None:
    """A job that asks for neither gets no copy of the files: an ext4, and a notice with the way to an xfs."""
    async with make_scene() as scene:
        job = await scene.run(scene.request(source=str(live.root), size=LARGER))
    assert job.state is State.DONE, job.error
    assert [each for each in job.notices if "is xfs, and the boot loader has no driver" in each]


async def test_other_kind(live: LiveDisk, make_scene: MakeScene) -> None:
    """A kind of file system that the boot area does not start is refused."""
    async with make_scene() as scene:
        asked = scene.request(source=str(live.root), size=LARGER, partition="clone", file_system="ext4")
        job = await scene.run(asked)
    assert job.error is not None
    assert job.error.field == "partition"
    assert "--fs xfs" in job.error.hint
