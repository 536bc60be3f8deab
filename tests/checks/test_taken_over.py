"""The other partitions of a live tree's disk come along with their files, but not with what was deleted there."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.boot_disks import BootDisk, ext4, write_loader
from support.live_disks import LiveDisk, in_use
from support.mounts import mounted, partition
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from amistream.checks.preflight import Ready
    from checks.scene import Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
FIRST, END, ROOT = 2048 * 512, 13 * MIB, 14 * MIB
DELETED = b"a deleted secret"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[LiveDisk, Path]]:
    """A live disk with an ext4 before its root, on which something was deleted, and swap space; and the ext4."""
    path, root, first = random_image(tmp_path / "disk", 32 * MIB), tmp_path / "tree", tmp_path / "first"
    with path.open("r+b") as file:
        file.seek(FIRST)
        file.write(DELETED * ((ROOT - FIRST) // len(DELETED)))
        file.seek(END + 4096 - 10)
        file.write(b"SWAPSPACE2")
    script = (
        f"label: dos\nstart=2048, size={(END - FIRST) // 512}\nstart={ROOT // 512}\nstart={END // 512}, size=2048\n"
    )
    subprocess.run(["sfdisk", "--quiet", path], input=script, text=True, check=True)
    disk = BootDisk(path=path, table="mbr", root=ROOT, root_size=18 * MIB, core=512, core_room=MIB - 512)
    write_loader(disk)
    (root / "boot").mkdir(parents=True)
    first.mkdir()
    random_image(first / "kept", MIB)
    ext4(path, first, FIRST, END - FIRST)
    ext4(path, root, disk.root, disk.root_size)
    with in_use(disk, tmp_path / "root", 2) as found, partition(found.device, FIRST, END - FIRST) as device:
        yield found, device


def image_of(ready: Ready) -> bytes:
    """The image that comes back: the ranges that are read, and zeros."""
    image = bytearray(ready.volume.size)
    for extent in ready.plan.used or ready.plan.extents or ():
        ready.volume.read_into(extent.offset, memoryview(image)[extent.offset : extent.end])
    return bytes(image)


async def test_not_mounted(scene: Scene, live: tuple[LiveDisk, Path], tmp_path: Path) -> None:
    """A partition that nothing writes to comes along without its free blocks, and is named."""
    async with scene.ready(scene.out, source=str(live[0].root), partition="clone") as ready:
        image = image_of(ready)
    assert DELETED * 256 not in image  # of the swap space the header comes along
    part = tmp_path / "part"
    part.write_bytes(image[FIRST:END])
    subprocess.run(["e2fsck", "-fn", part], check=True)
    content = subprocess.run(["debugfs", "-R", "cat /kept", part], check=True, capture_output=True).stdout
    assert content == (tmp_path / "first" / "kept").read_bytes()
    (notice,) = (notice for notice in scene.notices if "boot area" in notice and "gets more of" in notice)
    assert f"gets more of {live[0].device} than its boot area: partition 1 (ext4), 12.0 MiB: " in notice
    assert not [notice for notice in scene.notices if "swap" in notice]


async def test_mounted(scene: Scene, live: tuple[LiveDisk, Path]) -> None:
    """A /boot that may be written to comes along whole, and a notice says so."""
    with mounted(live[1], live[0].root / "boot"):
        async with scene.ready(scene.out, source=str(live[0].root), partition="clone") as ready:
            image = image_of(ready)
    assert DELETED * 256 in image
    why = "partition 1 (ext4) is taken with its free blocks, because it is mounted read-write"
    assert [notice for notice in scene.notices if why in notice]
