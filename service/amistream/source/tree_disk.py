"""Finds the disk of a live tree, of which everything but the tree's own partition is to be taken over.

The tree must be all of a file system in a partition; its /boot may be another partition of that disk. The disk is in
use, so its other partitions must not be written to while they are copied: they may be mounted read-only, or be /boot or
the EFI system partition, which hardly ever change.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.mount_table import Mount, mounts
from amistream.host.partitions import NoPartitionError, PlaceOnDisk, partitions_of, place_on_disk
from amistream.source.tree.handles import mount_of
from amistream.values import quoted

_OTHER_WAY = "--partition mbr puts a boot area of its own before the file system"
_DRIVERS = {"ext2": "ext2", "ext3": "ext2", "ext4": "ext2", "xfs": "xfs"}
"""GRUB's core has the one for its own root, and in general no other."""
_BOOT = (b"boot", b"efi")
"""The first step of the directories that boot loaders are in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeDisk:
    kind: str
    """The tree's file system."""
    place: PlaceOnDisk
    mounted: tuple[Path, ...]
    """Where its other partitions are mounted."""

    def write_out(self) -> None:
        """Let the kernel write to the disk all that was written to its other partitions so far. Raises OSError."""
        for point in self.mounted:
            descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(descriptor)


def find_tree_disk(path: Path) -> TreeDisk:
    """The disk of the tree at `path`. Raises `RefusedError` if it cannot be taken over."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise no_clone(path, str(error.strerror), f"ls -ld {quoted(path)}") from error
    try:
        number, real = mount_of(descriptor), Path(f"/proc/self/fd/{descriptor}").readlink()
    finally:
        os.close(descriptor)
    table = mounts()
    mount = next((each for each in table if each.number == number), None)
    if mount is None or (mount.root, mount.point) != (b"/", os.fsencode(real)):
        raise no_clone(path, "it is not the top of a file system", "give the mount point of a root file system")
    if mount.kind not in _DRIVERS:
        raise no_clone(path, f"its file system is {mount.kind}, for which the boot loader needs other drivers")
    try:
        place = place_on_disk(mount.device)
        others = [each for each in partitions_of(place.disk_device) if each.device != place.device]
    except NoPartitionError as error:
        raise no_clone(path, str(error)) from error
    if used := next((each for each in others if each.used_by), None):
        raise no_clone(path, f"partition {used.number} of its disk is used by {' and '.join(used.used_by)}")
    mounted = tuple(_mounted(path, mount, table, {each.device: each for each in others}))
    return TreeDisk(kind=mount.kind, place=place, mounted=mounted)


def check_driver(path: Path, kind: str, becomes: str) -> None:
    """Raise `RefusedError` unless what boots from a file system of one kind boots from what it becomes."""
    becomes = becomes.partition("-")[0]
    if _DRIVERS[kind] != _DRIVERS[becomes]:
        fix = f"--fs xfs, which takes root, and space for a copy of all files; or {_OTHER_WAY}"
        why = f"its file system is {kind}, and the boot loader has no driver for the image's, which is {becomes}"
        raise no_clone(path, why, fix if kind == "xfs" else "give another --fs, or leave it out")


def _mounted(path: Path, root: Mount, table: Sequence[Mount], others: dict[str, PlaceOnDisk]) -> Iterator[Path]:
    """The mount points of the disk's other partitions. Raises `RefusedError` for what does not come with the disk."""
    above = root.point.rstrip(b"/") + b"/"
    for each in table:
        inside = each.point.removeprefix(above) if each.point.startswith(above) else b""
        boots = inside.partition(b"/")[0] in _BOOT
        name = each.point.decode("utf-8", "backslashreplace")
        if each.device in others:
            if each.writable and not boots:
                number = others[each.device].number
                raise no_clone(
                    path,
                    f"partition {number} of its disk is mounted read-write on {name}",
                    f"mount -o remount,ro {quoted(name)}; or {_OTHER_WAY}",
                )
            yield Path(os.fsdecode(each.point))
        elif boots and each.device != root.device and each.kind != "autofs":
            raise no_clone(path, f"{name} is not on the same disk", "bundle the disks that it boots from")


def no_clone(path: Path, why: str, hint: str = _OTHER_WAY) -> RefusedError:
    """The error for a disk that cannot be taken over."""
    return RefusedError(
        "partition.clone",
        f"cannot take over the boot area of the disk of {path}: {why}",
        hint=hint,
        field="partition",
    )
