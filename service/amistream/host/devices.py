"""Block devices: their numbers and their size, how much was written to them, and zeroing parts of them.

The figures are those of linux/fs.h, of fallocate(2) and of /sys/dev/block.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

DEVICES = Path("/sys/dev/block")
"""One folder for each block device, named `MAJOR:MINOR`."""

_BLKGETSIZE64 = 0x80081272
_BLKROGET = 0x125E
_SECTORS_WRITTEN = 6
"""Field of a device's `stat` (Linux, Documentation/block/stat.rst)."""
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""Modes of fallocate(2): on a block device both of the latter leave zeros."""


def device_number(device: int) -> str:
    """`MAJOR:MINOR`, as /sys and /proc/self/mountinfo write it."""
    return f"{os.major(device)}:{os.minor(device)}"


def device_size(descriptor: int) -> int:
    """The size of an open block device in bytes."""
    size: int = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
    return size


def is_read_only(descriptor: int) -> bool:
    return any(fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))


def sectors_written(device: int) -> int | None:
    """Sectors written to the device since the machine started; None where the kernel does not show it."""
    try:
        fields = (DEVICES / device_number(device) / "stat").read_text().split()
    except OSError:
        return None
    return int(fields[_SECTORS_WRITTEN])


def sector_size(device: int) -> int | None:
    """The size of the sectors of a disk or partition, in bytes; None where the kernel does not show it."""
    place = (DEVICES / device_number(device)).resolve()
    for folder in (place, place.parent):
        with suppress(OSError):
            return int((folder / "queue" / "logical_block_size").read_text())
    return None


def zero_range(descriptor: int, start: int, length: int) -> bool:
    """Ask the kernel to zero a range of an open device; returns whether it did."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return any(not fallocate(descriptor, mode | _KEEP_SIZE, start, length) for mode in (_PUNCH_HOLE, _ZERO_RANGE))
