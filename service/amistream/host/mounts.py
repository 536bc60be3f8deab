"""Whether somebody may be writing to a volume: the mounts of the machine that stand on it, however indirectly.

A whole disk is written to through its partitions, and through what is made of them (LVM, RAID, encryption); an image
file through a loop device. The kernel tells all of that in /sys. These functions touch files: call them on a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
DEVICES = Path("/sys/dev/block")
BLOCK = Path("/sys/block")


def writable_place(volume: os.stat_result) -> str:
    """Where a file system on the volume, or on anything made of it, is mounted and writable, or ''."""
    devices = _standing_on(volume)
    if not devices:
        return ""
    # Any mount of the machine may have a name that is not UTF-8.
    with MOUNTS.open(encoding="utf-8", errors="backslashreplace") as mounts:
        for line in mounts:
            # After the dash: kind, source and the options of the file system, which hold in every namespace.
            fields, about = line.split(), line.partition(" - ")[2].split()
            if "rw" in about[-1].split(",") and _device_of(fields[2], about[1]) in devices:
                return fields[4]
    return ""


def _device_of(number: str, source: str) -> str:
    """The device of a mount. Some file systems (btrfs) have a number of their own: theirs is told by its path."""
    if number.startswith("0:") and source.startswith("/dev/"):
        try:
            return _number(Path(source).stat().st_rdev)
        except OSError:
            return ""
    return number


def _standing_on(volume: os.stat_result) -> set[str]:
    """The volume's own device, or the loop devices of an image file, and everything made of them, as `MAJOR:MINOR`."""
    found: set[str] = set()
    waiting = [_number(volume.st_rdev)] if stat.S_ISBLK(volume.st_mode) else list(_loops(volume))
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += _made_of(DEVICES / number)
    return found


def _made_of(device: Path) -> Iterator[str]:
    """The partitions of a device, and what holds it: a mapped device, a RAID."""
    folders = [*(told.parent for told in device.glob("*/partition")), *device.glob("holders/*")]
    for folder in folders:
        try:
            yield (folder / "dev").read_text().strip()
        except OSError:
            continue  # gone meanwhile


def _loops(file: os.stat_result) -> Iterator[str]:
    """The loop devices that show an image file."""
    for told in BLOCK.glob("loop*/loop/backing_file"):
        try:
            backing = Path(told.read_text().rstrip("\n")).stat()
            if (backing.st_dev, backing.st_ino) == (file.st_dev, file.st_ino):
                yield (told.parents[1] / "dev").read_text().strip()
        except OSError:
            continue  # detached meanwhile, or its file has no name here


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"
