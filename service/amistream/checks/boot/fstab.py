"""Parses fstab, and finds its lines that stop the boot or do not mount."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from amistream.checks.boot.devices import Form, find_device, is_instance_store, why_unknown
from amistream.checks.boot.disk import Disk
from amistream.checks.boot.faults import failed, noted, shown, unknown
from amistream.checks.findings import Observation

PATH = "/etc/fstab"
_MOST_LINES = 200
_DEFAULTS = ("none", "none", "auto", "defaults", "0", "0")
"""The fields of a line, where they are not written."""
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "sshfs", "fuse.sshfs"}
_WAITS_IN_VAIN = "systemd waits 90 seconds for the device, then stops the boot in emergency mode"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of fstab."""

    device: str
    path: str
    kind: str
    options: frozenset[str]
    line: tuple[str, ...] = ()
    """Its fields as they are written."""

    @property
    def is_optional(self) -> bool:
        """The boot does not wait for it long."""
        return any(
            each in ("noauto", "nofail", "_netdev") or each.startswith("x-systemd.device-timeout=")
            for each in self.options
        )

    @property
    def is_device(self) -> bool:
        """It names a device, and no directory, network or part of the kernel."""
        return "=" in self.device.partition("/")[0] or self.device.startswith("/dev/")

    def mended(self, *options: str) -> str:
        """The line with further options."""
        device, path, kind, given, *rest = (*self.line, *_DEFAULTS[len(self.line) :])
        return shown(" ".join([device, path, kind, ",".join([given, *options]), *rest]))

    @property
    def words(self) -> str:
        return shown(f"{self.device} {self.path}")


def parse_fstab(text: str) -> tuple[Mount, ...]:
    mounts: list[Mount] = []
    for line in text.splitlines()[:_MOST_LINES]:
        fields = tuple(line.partition("#")[0].split())
        match [_unescaped(field) for field in fields]:
            case [device, path]:
                mounts.append(Mount(device, path, "auto", frozenset(), fields))
            case [device, path, kind]:
                mounts.append(Mount(device, path, kind, frozenset(), fields))
            case [device, path, kind, options, *_]:
                mounts.append(Mount(device, path, kind, frozenset(options.split(",")), fields))
            case _:
                pass  # empty, or a comment
    return tuple(mounts)


def check_fstab(mounts: tuple[Mount, ...], disk: Disk, root: int) -> Iterator[Observation]:
    """`root` is the number of the root partition."""
    for mount in mounts:
        if mount.kind in _NETWORK or mount.device.startswith("//"):
            yield from _check_network(mount)
        elif mount.is_device and "bind" not in mount.options:
            yield from _check_root(mount, disk, root) if mount.path == "/" else _check_other(mount, disk)


def _check_root(mount: Mount, disk: Disk, root: int) -> Iterator[Observation]:
    device = find_device(mount.device, disk)
    if device.volume is not None and device.volume.number == root:
        if device.form is Form.NAME:
            yield _by_name(mount)
    elif reason := why_unknown(device, disk):
        if mount.device != "/dev/root":
            yield unknown(f"/ in {PATH}", reason)
    else:
        volume = disk.volume(root)
        uuid = volume.content.uuid if volume and volume.content else ""
        what = f"partition {device.volume.number}, which is not the root" if device.volume else "nothing in the image"
        yield failed(
            "fstab_root",
            f"the line of / in {PATH} names {shown(mount.device)}: {what}",
            why="the boot stops in emergency mode, or / stays read-only",
            fix=f"name the root file system{f': UUID={uuid} / {shown(mount.kind)} ...' if uuid else ''}",
        )


def _check_other(mount: Mount, disk: Disk) -> Iterator[Observation]:
    device = find_device(mount.device, disk)
    if device.volume is not None:
        if device.form is Form.NAME and not mount.is_optional:
            yield _by_name(mount)
    elif mount.is_optional:
        return
    elif reason := why_unknown(device, disk):
        yield unknown(f"{shown(mount.path)} in {PATH}", reason)
    elif mount.kind == "swap" or mount.path in ("swap", "none"):
        yield noted(
            "fstab_swap",
            f"{PATH} names a swap device that is not in the image: {shown(mount.device)}",
            why="the boot waits 90 seconds for it, and goes on without swap",
            fix=f"in place of that line: {mount.mended('nofail')}; or remove it",
        )
    else:
        where = "a disk that not every instance has" if is_instance_store(mount.device) else "not in the image"
        yield failed(
            "fstab_device",
            f"{PATH} mounts {mount.words}, which is {where}, without nofail",
            why=_WAITS_IN_VAIN,
            fix=f"in place of that line: {mount.mended('nofail')}; or remove it",
        )


def _check_network(mount: Mount) -> Iterator[Observation]:
    if not mount.is_optional:
        yield noted(
            "fstab_network",
            f"{PATH} mounts {mount.words} over the network, without nofail or _netdev",
            why="the boot may wait for a server that the instance does not reach",
            fix=f"in place of that line: {mount.mended('nofail', '_netdev')}",
        )


def _by_name(mount: Mount) -> Observation:
    return noted(
        "device_name",
        f"{PATH} names {mount.words} by a device's name",
        why="other instance types, and other kernels, name the disk otherwise (xvda, nvme0n1)",
        fix=f"use UUID= in that line of {PATH}; `blkid {shown(mount.device)}` shows it",
    )


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8) & 0xFF), text)
