"""A live root comes back from a bundle as a disk like its own, in which GRUB's own code finds the kernel."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, get_args

import pytest

from boot.test_grub_reads import KERNEL, assert_grub_reads
from boot.way import bundled_and_unbundled, inspected
from support.boot_disks import Table, boot_disk
from support.live_disks import in_use
from support.volumes import MIB, random_image

if TYPE_CHECKING:
    from pathlib import Path

    from support.keys import KeyRing

SIZE, LARGER = 32 * MIB, 48 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("table", get_args(Table))
def test_a_live_root(table: Table, tmp_path: Path, key_ring: KeyRing) -> None:
    """Without a wish for one a root keeps its boot area and ids, while it is in use and in another size."""
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    random_image(tree / KERNEL, 2 * MIB + 17)
    disk = boot_disk(tmp_path / "disk", tree, SIZE, table)
    with in_use(disk, tmp_path / "root") as live:
        (live.root / "since").write_text("it was started\n")
        image = bundled_and_unbundled(live.root, tmp_path / "way", key_ring, "--size", str(LARGER))
    assert image.stat().st_size == LARGER
    assert_grub_reads(image, table, tree / KERNEL)
    before, after = (inspected(each, tmp_path / "way") for each in (disk.path, image))
    for same in ("disk_id", "boot_loader", "boot_core", "boot_core_whole", "efi_partition"):
        assert after[same] == before[same], same
    assert [each["partition_uuid"] for each in after["areas"]] == [each["partition_uuid"] for each in before["areas"]]
    root = tmp_path / "root.img"
    root.write_bytes(image.read_bytes()[disk.root : LARGER - (33 * 512 if table == "gpt" else 0)])
    subprocess.run(["e2fsck", "-fn", root], capture_output=True, check=True)
    shown = subprocess.run(["debugfs", "-R", "cat /since", root], capture_output=True, text=True, check=True)
    assert shown.stdout == "it was started\n"
