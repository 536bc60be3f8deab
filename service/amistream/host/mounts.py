"""Finds where a volume is mounted: itself, or anything that is made of it.

A whole disk is written to through its partitions, and through the LVM volumes, RAIDs or encrypted devices on them; an
image file through a loop device. The kernel shows all of that in /sys. These functions read files: call them on a
thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from amistream.host.devices import DEVICES, device_number
from amistream.host.mount_table import mounts

BLOCK = Path("/sys/block")
_SECTOR = 512
"""The unit of /sys, whatever the device's sectors are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    place: str
    """The mount point, with surrogates in place of what is not UTF-8."""
    device: str
    """`MAJOR:MINOR` of its file system, as the files on it have it."""
    kind: str

    @property
    def is_plain(self) -> bool:
        """The files on it have the number of a device. Those of btrfs and overlay have numbers that stand for none."""
        return not self.device.startswith("0:")


def mount_point(volume: os.stat_result, *, writable: bool) -> str:
    """The mount point of a file system on the volume, or on anything made of it; '' without one.

    `writable`: only mounts for writing count.
    """
    return next((shown(each.place) for each in _mounts_on(volume, writable=writable)), "")


def writable_mounts(volume: os.stat_result) -> list[Mount]:
    """Every mount for writing of a file system on the volume, or on anything made of it."""
    return list(_mounts_on(volume, writable=True))


def offsets_on(volume: os.stat_result, devices: Collection[str]) -> frozenset[int]:
    """Where the given devices begin on the volume, in bytes: itself and its partitions. Left out: all other kinds."""
    if stat.S_ISBLK(volume.st_mode):
        whole = {device_number(volume.st_rdev): 0}
    else:
        whole = {number: _number(DEVICES / number / "loop/offset") for number in _loops(volume)}
    found = {offset for number, offset in whole.items() if number in devices}
    for number, offset in whole.items():
        for mark in (DEVICES / number).glob("*/partition"):
            if (mark.parent / "dev").read_text().strip() in devices:
                found.add(offset + _number(mark.parent / "start") * _SECTOR)
    return frozenset(found)


def shown(name: str | Path) -> str:
    """The name of a file for messages: any mount of the machine may have one that is not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _mounts_on(volume: os.stat_result, *, writable: bool) -> Iterator[Mount]:
    devices = _devices_on(volume)
    if not devices:
        return
    for each in mounts():
        if writable and not each.writable:
            continue
        if _device_of(each.device, os.fsdecode(each.source)) in devices:
            yield Mount(place=os.fsdecode(each.point), device=each.device, kind=each.kind)


def _device_of(number: str, source: str) -> str:
    """The device of a mount. Some file systems (btrfs) have a number of their own: the source's path finds theirs."""
    if number.startswith("0:") and source.startswith("/dev/"):
        try:
            return device_number(Path(source).stat().st_rdev)
        except OSError:
            return ""
    return number


def _devices_on(volume: os.stat_result) -> set[str]:
    """The volume's own device, or the loop devices of an image file, and everything made of them, as `MAJOR:MINOR`."""
    found: set[str] = set()
    waiting = [device_number(volume.st_rdev)] if stat.S_ISBLK(volume.st_mode) else list(_loops(volume))
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += _made_of(DEVICES / number)
    return found


def _number(file: Path) -> int:
    return int(file.read_text())


def _made_of(device: Path) -> Iterator[str]:
    """The partitions of a device, and the devices that hold it, such as a mapped device or a RAID."""
    folders = [*(mark.parent for mark in device.glob("*/partition")), *device.glob("holders/*")]
    for folder in folders:
        try:
            yield (folder / "dev").read_text().strip()
        except OSError:
            continue  # removed meanwhile


def _loops(file: os.stat_result) -> Iterator[str]:
    """The loop devices that show an image file."""
    for link in BLOCK.glob("loop*/loop/backing_file"):
        try:
            backing = Path(link.read_text().rstrip("\n")).stat()
            if (backing.st_dev, backing.st_ino) == (file.st_dev, file.st_ino):
                yield (link.parents[1] / "dev").read_text().strip()
        except OSError:
            continue  # detached meanwhile, or its file has no name here
