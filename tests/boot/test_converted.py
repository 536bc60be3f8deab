"""AMIs on EBS start in a machine with an NVMe drive, as instances of Nitro have: `make boot-test`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from boot.test_boots import SIZE, assert_boots
from boot.way import bundled, converted
from support.boot_disks import boot_disk
from support.live_disks import in_use

if TYPE_CHECKING:
    from pathlib import Path

    from boot.tiny_system import TinySystem
    from support.boot_disks import BootDisk
    from support.ebs_endpoint import EbsEndpoint
    from support.keys import KeyRing

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]
ROOT = "/dev/nvme0n1p1"


def test_a_bundle_boots_from_ebs(
    system: TinySystem, ebs_endpoint: EbsEndpoint, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A volume that is made of the snapshot of a bundle starts the system of the disk that was bundled."""
    disk = boot_disk(tmp_path / "disk.img", system.tree, SIZE, "gpt")
    manifest = bundled(disk.path, tmp_path / "way", key_ring)
    owner = ("--private-key", str(key_ring.user.key), "--cert", str(key_ring.user.certificate))
    volume = converted(manifest, tmp_path / "way", ebs_endpoint, *owner)
    assert_boots(volume, system.booted(device=ROOT), drive="nvme")


def test_a_disk_boots_from_ebs(system: TinySystem, ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """So does one of the snapshot of the disk itself."""
    disk = boot_disk(tmp_path / "disk.img", system.tree, SIZE, "gpt")
    volume = converted(disk.path, tmp_path / "way", ebs_endpoint)
    assert_boots(volume, system.booted(device=ROOT), drive="nvme")


def test_a_live_root_boots_from_ebs(system: TinySystem, ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """So does one of a mounted root, which gets a disk like its own, of another size."""
    disk = boot_disk(tmp_path / "disk.img", system.tree, SIZE, "gpt")
    with in_use(disk, tmp_path / "root") as live:
        (live.root / "etc" / "customised").write_text("since it was started\n")
        options = ("--partition", "clone", "--size", str(2 * SIZE))
        volume = converted(live.root, tmp_path / "way", ebs_endpoint, *options)
    assert_boots(volume, system.booted(device=ROOT), drive="nvme")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_whole_debian_boots_from_ebs(debian: BootDisk, ebs_endpoint: EbsEndpoint, tmp_path: Path) -> None:
    """Debian asks for a login from an NVMe drive, and no check says that it will not boot on Nitro."""
    volume = converted(debian.path, tmp_path / "way", ebs_endpoint, "--ena", "--strict")
    assert_boots(volume, b"localhost login:", memory_mib=1024, drive="nvme")
