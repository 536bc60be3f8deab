"""Partitions and their disks by /sys: a made one for devices that machines seldom have, and that of a loop device."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.host import partitions
from amistream.host.devices import device_number
from amistream.host.partitions import NoPartitionError, PlaceOnDisk, partitions_of, place_on_disk
from support.mounts import partition
from support.volumes import MIB, loop_device, sparse_image


class Sys:
    """A made /sys: folders of devices, and links to them by number."""

    def __init__(self, folder: Path) -> None:
        self.by_number = folder / "by-number"
        self.by_number.mkdir(parents=True)
        self._devices = folder / "devices"

    def add(self, number: str, name: str, **files: str | int) -> None:
        folder = self._devices / name
        folder.mkdir(parents=True)
        (self.by_number / number).symlink_to(folder)
        files = {"dev": number, "uevent": f"MAJOR=1\nDEVNAME={folder.name}\n", **files}
        for place, text in files.items():
            path = folder / place.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{text}\n")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sys:
    made = Sys(tmp_path)
    monkeypatch.setattr(partitions, "DEVICES", made.by_number)
    return made


def test_a_partition(made: Sys) -> None:
    """Its disk is the folder above it, whatever the names are, and its figures are sectors of 512 bytes."""
    made.add("259:0", "nvme0n1")
    made.add("259:1", "nvme0n1/nvme0n1p1", partition=1, start=2048, size=4096)
    made.add("259:15", "nvme0n1/nvme0n1p15", partition=15, start=34, size=100, holders__dm_0=1, holders__md1=1)
    assert place_on_disk("259:1") == PlaceOnDisk(
        device="259:1",
        disk=Path("/dev/nvme0n1"),
        disk_device="259:0",
        number=1,
        offset=MIB,
        size=2 * MIB,
        used_by=(),
    )
    assert {each.number: each.used_by for each in partitions_of("259:0")} == {1: (), 15: ("dm_0", "md1")}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("253:0", "/dev/dm-0 is an LVM volume"),
        ("253:1", "/dev/dm-1 is an encrypted volume"),
        ("253:2", "/dev/dm-2 is a mapped device"),
        ("9:0", "/dev/md0 is a software RAID"),
        ("259:1", "/dev/md0 is a software RAID"),
        ("8:0", "/dev/sda is a whole disk, not a partition of one"),
        ("8:9", "the device 8:9 has no entry in /sys"),
        ("8:1", "/sys does not describe the device 8:1"),
        ("8:2", "has no name in /dev"),
    ],
)
def test_no_partition(made: Sys, number: str, words: str) -> None:
    """Other devices are refused with what they are, and so is a partition of which /sys says too little."""
    made.add("253:0", "dm-0", dm__uuid="LVM-0123")
    made.add("253:1", "dm-1", dm__uuid="CRYPT-LUKS2-0123")
    made.add("253:2", "dm-2", dm__uuid="")
    made.add("9:0", "md0", md__level="raid1")
    made.add("259:1", "md0/md0p1", partition=1, start=0, size=1)
    made.add("8:0", "sda")
    made.add("8:1", "sda/sda1", partition="one")
    made.add("8:2", "sdb", uevent="")
    with pytest.raises(NoPartitionError) as caught:
        place_on_disk(number)
    assert words in str(caught.value)


def test_a_loop_device(tmp_path: Path) -> None:
    """The kernel's own figures are those of the partition that it was told of."""
    image = sparse_image(tmp_path / "image", 8 * MIB, [])
    with loop_device(image) as device, partition(device, MIB, 2 * MIB, 5) as part:
        number = device_number(part.stat().st_rdev)
        found = place_on_disk(number)
        assert (found.disk, found.number, found.offset, found.size) == (device, 5, MIB, 2 * MIB)
        assert found.disk_device == device_number(device.stat().st_rdev)
        assert list(partitions_of(found.disk_device)) == [found]
