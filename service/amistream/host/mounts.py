"""Finds where a volume is mounted: itself, or anything that is made of it.

A whole disk is written to through its partitions, and through the LVM volumes, RAIDs or encrypted devices on them; an
image file through a loop device. The kernel shows all of that in /sys. These functions read files: call them on a
thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from amistream.host.devices import DEVICES, device_number
from amistream.roots import MOUNTS

BLOCK = Path("/sys/block")


def mount_point(volume: os.stat_result, *, writable: bool) -> str:
    """The mount point of a file system on the volume, or on anything made of it; '' without one.

    `writable`: only mounts for writing count.
    """
    devices = _devices_on(volume)
    if not devices:
        return ""
    # Any mount of the machine may have a name that is not UTF-8.
    with MOUNTS.open(encoding="utf-8", errors="backslashreplace") as mounts:
        for line in mounts:
            # After the dash: kind, source and the options of the file system, which hold in every namespace.
            fields, about = line.split(), line.partition(" - ")[2].split()
            if writable and "rw" not in about[-1].split(","):
                continue
            if _device_of(fields[2], about[1]) in devices:
                return fields[4]
    return ""


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
