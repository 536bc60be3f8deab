"""A directory whose image is an xfs gets a new boot area: GRUB's own code is the referee."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.boot_opening import open_with_boot_area
from amistream.source.tree.opening import TreeWishes
from source.tree.images import write_image
from source.xfs_tree.images import SIZE
from support.boot_disks import need_grub
from support.volumes import MIB, random_image

KERNEL = "boot/vmlinuz-6.1.0-1-cloud-amd64"


@pytest.mark.parametrize("wish", [Partitioning.AUTO, Partitioning.MBR])
def test_a_new_boot_area(wish: Partitioning, tree: Path, scratch: Path, tmp_path: Path) -> None:
    """GRUB finds the kernel behind its core, in a disk of the wished size."""
    need_grub()
    (tree / "boot").mkdir()
    random_image(tree / KERNEL, MIB + 17)
    choice = BootAreaChoice(wish)
    volume = open_with_boot_area(
        choice, tree, TreeWishes(most=1 << 30, size=SIZE + MIB, profile="xfs", scratch=scratch)
    )
    try:
        assert (volume.size, choice.is_new) == (SIZE + MIB, True)
        image = write_image(volume, tmp_path / "image")
    finally:
        volume.close()
    words = ["cmp", f"(loop0,msdos1)/{KERNEL}", str(tree / KERNEL)]
    subprocess.run(["grub-fstest", str(image), *words], capture_output=True, check=True)
    assert not list(scratch.iterdir())
