"""Writes an image to a block device, unless the device is in use.

The device is opened exclusively (open(2), O_EXCL). The kernel refuses this while a file system on it or on one of its
partitions is mounted, and while it is swap or part of a larger device.

Holes are zeroed, by the kernel where it can. The first block, without which the device does not look like a file system
or disk, is written last, once the image is proved; until then it is zeros.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.devices import device_size, is_read_only, zero_range
from amistream.host.mounts import mount_point
from amistream.targets.blocks import ALIGNMENT, BLOCK, ZEROS, BlockTarget, BlockWriter, write_all, write_errors
from amistream.values import MIB

WORTH_ASKING = MIB
"""Bytes of zeros from which the kernel is asked to make them: a discard costs more than a small write."""


class DeviceTarget(BlockTarget):
    """A block device of at least the image's size. Bytes behind the image stay."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._descriptor = -1
        self._head = b""

    def open(self, size: int, least: int) -> None:
        del least
        self._refuse_mounted()
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
            room = device_size(self._descriptor)
            if is_read_only(self._descriptor):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        except OSError as error:
            self._close()
            if error.errno == errno.EBUSY:
                raise self._in_use("the kernel, a file system or another program holds it") from error
            raise RefusedError(
                "target.unwritable",
                f"cannot write {self.name}: {error.strerror}",
                hint=f"see why: blockdev --getro {self.name}; ls -l {self.name}",
                field="destination",
            ) from error
        if room < size:
            self._close()
            raise RefusedError(
                "target.small",
                f"cannot unbundle to {self.name}: it has {room} bytes, the image {size}",
                hint="choose a larger device: lsblk -b",
                field="destination",
            )
        self._opened = BlockWriter(self._descriptor, size, self._zero, direct=False, keep_first=self._keep_head)
        with write_errors(self.name):
            # The first block holds the partition table, or the superblock of a file system without one.
            self._write_zeros(0, min(BLOCK, size))
            os.fsync(self._descriptor)

    def commit(self) -> None:
        with write_errors(self.name):
            self.writer.finish()
            os.fsync(self._descriptor)
            write_all(self._descriptor, 0, self._head)
            os.fsync(self._descriptor)
        self._close()

    def abandon(self) -> str:
        begun = self._descriptor >= 0
        self._close()
        return f"{self.name} was overwritten and holds no image: it begins with zeros" if begun else ""

    def _keep_head(self, block: bytes) -> None:
        self._head = block

    def _zero(self, start: int, end: int) -> None:
        """Zero these bytes."""
        first, last = -(-start // ALIGNMENT) * ALIGNMENT, end // ALIGNMENT * ALIGNMENT
        if last - first < WORTH_ASKING or not zero_range(self._descriptor, first, last - first):
            first = last = end
        self._write_zeros(start, first)
        self._write_zeros(last, end)

    def _write_zeros(self, start: int, end: int) -> None:
        for at in range(start, end, len(ZEROS)):
            write_all(self._descriptor, at, ZEROS[: end - at])

    def _refuse_mounted(self) -> None:
        if place := mount_point(self._path.stat(), writable=False):
            raise self._in_use(f"it is mounted at {place}")

    def _in_use(self, why: str) -> RefusedError:
        return RefusedError(
            "target.in_use",
            f"cannot unbundle to {self.name}: {why}",
            hint="unmount it, or choose another device; `lsblk` shows what is on it",
            field="destination",
        )

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
