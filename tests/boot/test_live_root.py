"""A live root, bundled with --partition, starts in a machine: `make boot-test`.

The root is mounted from a partition of a loop device, and is written to before.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, get_args

import pytest

from boot.test_boots import XFS_SIZE, assert_boots
from boot.way import bundled_and_unbundled, inspected
from support.boot_disks import BootDisk, Table, bare_file_system, boot_disk
from support.live_disks import in_use
from support.mounts import mounted
from support.volumes import MIB, xfs_image

if TYPE_CHECKING:
    from pathlib import Path

    from boot.tiny_system import TinySystem
    from support.keys import KeyRing

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
]
SIZE = 64 * MIB
SMALLER, LARGER = 52 * MIB, 160 * MIB
XFS_LARGER = 400 * MIB


def ids(disk: Path) -> list[str]:
    """The ids of a disk and of its partitions."""
    lines = subprocess.run(["sfdisk", "--dump", disk], capture_output=True, text=True, check=True).stdout.splitlines()
    return [word.strip() for line in lines for word in line.split(",") if "uuid=" in word or "label-id" in word]


def bundled_live(disk: BootDisk, folder: Path, keys: KeyRing, *options: str) -> Path:
    """Mount the root of a disk, write to it, bundle it, and return the image that comes back."""
    with in_use(disk, folder / "root") as live:
        (live.root / "etc").mkdir(exist_ok=True)
        (live.root / "etc" / "customised").write_text("since it was started\n")
        return bundled_and_unbundled(live.root, folder / "way", keys, *options)


@pytest.mark.parametrize("size", [SMALLER, LARGER], ids=["smaller", "larger"])
@pytest.mark.parametrize("table", get_args(Table))
def test_a_live_root_boots_on_a_disk_like_its_own(
    table: Table, size: int, system: TinySystem, tmp_path: Path, key_ring: KeyRing
) -> None:
    """With its disk's boot area and ids a root of another size starts, by the UUID in its root=."""
    disk = boot_disk(tmp_path / f"{table}.img", system.tree, SIZE, table)
    image = bundled_live(disk, tmp_path, key_ring, "--partition", "clone", "--size", str(size))
    assert image.stat().st_size == size
    assert ids(image) == ids(disk.path) != []
    assert_boots(image, system.booted())


@pytest.mark.parametrize("table", get_args(Table))
def test_a_live_xfs_boots_on_a_disk_like_its_own(
    table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing
) -> None:
    """So does a root that is xfs, and stays one."""
    disk = boot_disk(tmp_path / f"{table}.img", system.tree, XFS_SIZE, table, "xfs")
    image = bundled_live(
        disk, tmp_path, key_ring, "--partition", "clone", "--size", str(XFS_LARGER), "--fstab", "generate"
    )
    assert image.stat().st_size == XFS_LARGER
    assert ids(image) == ids(disk.path) != []
    assert not [each for each in inspected(image, tmp_path)["findings"] if each["status"] == "failed"]
    assert_boots(image, system.booted("xfs"))


@pytest.mark.parametrize("table", get_args(Table))
def test_a_live_root_boots_with_a_new_boot_area(
    table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing
) -> None:
    """So does the root of a bare file system, with this machine's GRUB."""
    bare = bare_file_system(tmp_path / "bare.img", system.tree, SIZE)
    with mounted(bare, tmp_path / "root", "-o", "loop") as root:
        image = bundled_and_unbundled(root, tmp_path / "way", key_ring, "--partition", table)
    assert_boots(image, system.booted())


@pytest.mark.parametrize("table", get_args(Table))
def test_a_live_xfs_boots_with_a_new_boot_area(
    table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing
) -> None:
    """And that of a bare xfs."""
    bare = xfs_image(tmp_path / "bare.img", XFS_SIZE, system.tree)
    with mounted(bare, tmp_path / "root", "-o", "loop") as root:
        image = bundled_and_unbundled(root, tmp_path / "way", key_ring, "--partition", table, "--fs", "xfs")
    assert_boots(image, system.booted("xfs"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_live_debian_boots_on_a_disk_like_its_own(debian: BootDisk, tmp_path: Path, key_ring: KeyRing) -> None:
    """Debian, whose root= and fstab name the partition by its PARTUUID, asks for a login from a smaller disk."""
    image = bundled_live(debian, tmp_path, key_ring, "--partition", "clone", "--size", str(900 * MIB))
    assert ids(image) == ids(debian.path)
    assert_boots(image, b"localhost login:", memory_mib=1024)
