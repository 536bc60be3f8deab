"""GRUB's own code finds the kernel on disks that come back from a bundle, and its boot area comes back whole."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from boot.way import bundled_and_unbundled
from support.boot_disks import GRUB_PARTITIONS, BootDisk, Table, bare_file_system, boot_disk
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

KERNEL = "boot/vmlinuz-6.1.0-1-cloud-amd64"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with noise for a kernel."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    random_image(tree / KERNEL, 3 * MIB + 17)
    return tree


def assert_grub_reads(image: Path, table: Table, expected: Path) -> None:
    """Assert that GRUB finds the kernel in partition 1, and reads the expected bytes."""
    words = ["grub-fstest", str(image), "cmp", f"(loop0,{GRUB_PARTITIONS[table]})/{KERNEL}", str(expected)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def around_root(disk: BootDisk, image: Path) -> tuple[bytes, bytes]:
    """Read all that is before the file system and all that is behind it."""
    content = image.read_bytes()
    return content[: disk.root], content[disk.root_end :]


def last_blocks(disk: BootDisk, image: Path) -> bytes:
    """Read the end of the file system, which is free."""
    return image.read_bytes()[disk.root_end - MIB : disk.root_end]


@pytest.mark.parametrize("table", get_args(Table))
def test_a_disk_keeps_kernel_and_boot_area(table: Table, tree: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """Without the free blocks of its file system, a disk has its kernel, and every byte outside of the file system."""
    disk = boot_disk(tmp_path / "disk.img", tree, 16 * MIB, table)
    image = bundled_and_unbundled(disk.path, tmp_path / "way", key_ring)
    assert any(last_blocks(disk, disk.path))
    assert not any(last_blocks(disk, image))
    assert around_root(disk, image) == around_root(disk, disk.path)
    assert_grub_reads(image, table, tree / KERNEL)


@pytest.mark.parametrize("table", get_args(Table))
def test_a_bare_file_system_gets_a_table(table: Table, tree: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """GRUB reads the kernel of a file system in the partition that --partition puts around it."""
    bare = bare_file_system(tmp_path / "bare.img", tree, 16 * MIB)
    image = bundled_and_unbundled(bare, tmp_path / "way", key_ring, "--partition", table)
    assert_grub_reads(image, table, tree / KERNEL)
