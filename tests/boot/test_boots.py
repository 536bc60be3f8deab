"""Disks that come back from a bundle start in a machine: `make boot-test`, which takes minutes.

The log has the time of each.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from boot.machine import HANDED_OVER, Drive, machine
from boot.tiny_system import LOADED, TinySystem
from boot.way import bundled_and_unbundled, inspected
from support.boot_disks import BootDisk, Table, bare_file_system, boot_disk
from support.mounts import mounted
from support.volumes import MIB, xfs_image

if TYPE_CHECKING:
    from support.keys import KeyRing

LOG = logging.getLogger(__name__)
pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

SIZE, XFS_SIZE = 48 * MIB, 312 * MIB
"""mkfs.xfs makes nothing below 300 MiB."""
PATIENCE_S = 600
"""A machine boots in 5 s on an idle core, and in 20 times as long on a busy one."""


def assert_boots(disk: Path, printed: bytes, memory_mib: int = 512, drive: Drive = "virtio") -> tuple[float, bytes]:
    """Assert that a machine with this disk prints a text; return the seconds until then, and all that was printed."""
    begun = time.monotonic()
    with machine(disk, memory_mib, drive) as running:
        assert running.prints(printed, PATIENCE_S), running.printed[-4000:].decode(errors="replace")
    took = time.monotonic() - begun
    LOG.info("%s after %.1f s, at a load of %.1f", printed.decode(), took, os.getloadavg()[0])
    return took, running.printed


@pytest.mark.parametrize("table", get_args(Table))
def test_a_disk_boots_after_its_way(table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing) -> None:
    """The system on a disk that came back starts from its file system."""
    disk = boot_disk(tmp_path / f"{table}.img", system.tree, SIZE, table)
    image = bundled_and_unbundled(disk.path, tmp_path / "way", key_ring)
    assert_boots(image, system.booted())


def test_a_disk_with_xfs_boots_after_its_way(system: TinySystem, tmp_path: Path, key_ring: KeyRing) -> None:
    """So does the system on one with xfs."""
    disk = boot_disk(tmp_path / "xfs.img", system.tree, XFS_SIZE, "gpt", "xfs")
    image = bundled_and_unbundled(disk.path, tmp_path / "way", key_ring)
    assert_boots(image, system.booted("xfs"))


@pytest.mark.parametrize("table", get_args(Table))
@pytest.mark.parametrize("menu", [True, False], ids=["menu", "no_menu"])
def test_a_bare_file_system_boots_as_a_disk(
    table: Table, menu: bool, system: TinySystem, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A file system without a table starts from the disk that --partition makes of it, with or without grub.cfg."""
    without = shutil.ignore_patterns(*([] if menu else ["grub"]))
    tree = shutil.copytree(system.tree, tmp_path / "tree", symlinks=True, ignore=without)
    bare = bare_file_system(tmp_path / "bare.img", tree, SIZE)
    image = bundled_and_unbundled(bare, tmp_path / "way", key_ring, "--partition", table)
    _, printed = assert_boots(image, system.booted())
    assert (LOADED in printed) is menu


@pytest.mark.parametrize("table", get_args(Table))
def test_a_bare_xfs_boots_as_a_disk(table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing) -> None:
    """So does an xfs without a table."""
    bare = xfs_image(tmp_path / "bare.img", XFS_SIZE, system.tree)
    image = bundled_and_unbundled(bare, tmp_path / "way", key_ring, "--partition", table)
    assert_boots(image, system.booted("xfs"))


@pytest.mark.parametrize("table", get_args(Table))
def test_a_mounted_tree_boots_as_a_disk(table: Table, system: TinySystem, tmp_path: Path, key_ring: KeyRing) -> None:
    """A file system that is mounted read-write starts from the disk that is made of its files, of another size."""
    bare = bare_file_system(tmp_path / "bare.img", system.tree, SIZE)
    with mounted(bare, tmp_path / "mount", "-o", "loop") as root:
        options = ("--partition", table, "--size", f"{2 * SIZE}")
        image = bundled_and_unbundled(root, tmp_path / "way", key_ring, *options)
    assert image.stat().st_size == 2 * SIZE
    assert_boots(image, system.booted())


@pytest.mark.parametrize("table", get_args(Table))
def test_a_disk_without_core_img_does_not_boot(table: Table, system: TinySystem, tmp_path: Path) -> None:
    """`inspect` reports zeros for core.img, and no kernel is loaded in many times the time that a whole disk takes."""
    disk = boot_disk(tmp_path / f"{table}.img", system.tree, SIZE, table)
    assert inspected(disk.path, tmp_path)["boot_core_whole"] is True
    took, _ = assert_boots(disk.path, LOADED)
    with disk.path.open("r+b") as file:
        file.seek(disk.core)
        file.write(bytes(disk.core_room))
    assert inspected(disk.path, tmp_path)["boot_core_whole"] is False
    with machine(disk.path) as running:
        assert running.prints(HANDED_OVER, PATIENCE_S)
        assert not running.prints(LOADED, 20 + 4 * took)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_whole_debian_boots_after_its_way(debian: BootDisk, tmp_path: Path, key_ring: KeyRing) -> None:
    """Debian asks for a login before and after the way of its disk, and no check says that it will not boot."""
    assert_boots(debian.path, b"localhost login:", memory_mib=1024)
    image = bundled_and_unbundled(debian.path, tmp_path / "way", key_ring, "--strict")
    assert_boots(image, b"localhost login:", memory_mib=1024)
