"""Finds writers of a volume: real mounts of devices, of their partitions, and of image files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from amistream.host.devices import device_number
from amistream.host.mounts import mount_point, offsets_on
from support.mounts import mounted, partition
from support.volumes import ext4_image, loop_device, random_image

MIB = 1 << 20


def place_of(path: Path) -> str:
    return mount_point(path.stat(), writable=True)


def test_a_file_that_nobody_shows(tmp_path: Path) -> None:
    """An image file without a loop device is not mounted, whatever file system it lies on."""
    assert place_of(random_image(tmp_path / "image", 4096)) == ""


def test_a_device(tmp_path: Path) -> None:
    """The mount point of a device is found while it is mounted read-write."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device:
        assert place_of(device) == ""
        with mounted(device, tmp_path / "rw"):
            assert place_of(device) == str(tmp_path / "rw")
        with mounted(device, tmp_path / "ro", "-o", "ro"):
            assert place_of(device) == ""


def test_an_image_file_that_a_loop_device_shows(tmp_path: Path) -> None:
    """A mount of a loop device counts for its image file."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device:
        assert place_of(image) == ""
        with mounted(device, tmp_path / "rw"):
            assert place_of(image) == str(tmp_path / "rw")
            os.link(image, tmp_path / "other name")
            assert place_of(tmp_path / "other name") == str(tmp_path / "rw")


def test_a_partition_of_a_disk(tmp_path: Path) -> None:
    """A mount of a partition counts for its disk, and not for the other partitions."""
    file_system = ext4_image(tmp_path / "file-system", 8 * MIB)
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB) + file_system.read_bytes() + bytes(MIB))
    with (
        loop_device(image, read_only=False) as disk,
        partition(disk, MIB, 8 * MIB) as first,
        mounted(first, tmp_path / "rw"),
    ):
        assert place_of(disk) == str(tmp_path / "rw")
        assert place_of(first) == str(tmp_path / "rw")
        assert place_of(image) == str(tmp_path / "rw")


def test_a_file_system_with_a_number_of_its_own(tmp_path: Path) -> None:
    """A btrfs mount, whose number is not the device's, is found by the device's path."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("mkfs.btrfs is not installed (Debian package btrfs-progs)")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "rw"):
        assert place_of(device) == str(tmp_path / "rw")


def test_the_disk_of_this_machine() -> None:
    """The device of this machine's root, where it has one, is found in use."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, about = line.split(), line.partition(" - ")[2].split()
        device = Path(about[1])
        if fields[4] == "/" and device.is_block_device() and "rw" in about[-1].split(","):
            assert place_of(device)
            return
    pytest.skip("the root of this machine is on no device that can be seen")


def test_offsets(tmp_path: Path) -> None:
    """A device begins at 0 of itself, and its partition where the kernel says, on the device and in its image file."""
    image = random_image(tmp_path / "image", 8 * MIB)
    with loop_device(image) as device, partition(device, 2 * MIB, MIB) as part:
        numbers = {each: device_number(each.stat().st_rdev) for each in (device, part)}
        assert offsets_on(device.stat(), {numbers[device]}) == {0}
        assert offsets_on(part.stat(), {numbers[part]}) == {0}
        assert offsets_on(device.stat(), set(numbers.values())) == {0, 2 * MIB}
        assert offsets_on(image.stat(), {numbers[part]}) == {2 * MIB}
        assert offsets_on(part.stat(), {numbers[device]}) == set()
    assert offsets_on(image.stat(), set(numbers.values())) == set()
