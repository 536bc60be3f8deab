"""Finds the newest kernel in the /boot of a file system, with its initramfs, by the names that distributions give."""

from __future__ import annotations

import re
from dataclasses import dataclass

from amistream.source.disks.files import Files

MENUS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
"""Of GRUB 2: Debian, Ubuntu, Arch; Fedora, RHEL, SUSE."""
_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|bzImage|kernel)-([0-9][A-Za-z0-9.+~_-]*)")
"""A kernel's name with its version. Names with characters that GRUB would interpret are passed over."""
_INITRAMFS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initramfs-{}")
"""Names of a version's initramfs: Debian, Fedora, SUSE, Gentoo."""
_RESCUE = re.compile(r"rescue|kdump")


@dataclass(frozen=True, slots=True)
class Kernel:
    path: str
    version: str
    """As its name says."""
    initramfs: str | None
    """The path of its initramfs, or None if there is none."""


def newest_kernel(files: Files) -> Kernel | None:
    """The kernel with the highest version, or None if there is none. Raises `DoubtError`."""
    found = []
    for name in files.names("/boot"):
        named = _KERNEL.fullmatch(name)
        if named and not _RESCUE.search(name) and files.file(f"/boot/{name}"):
            found.append((_sortable(named[1]), name, named[1]))
    if not found:
        return None
    _, name, version = max(found)
    paths = (f"/boot/{each.format(version)}" for each in _INITRAMFS)
    return Kernel(f"/boot/{name}", version, next((path for path in paths if files.file(path)), None))


def _sortable(version: str) -> list[tuple[int, int, str]]:
    """A key by which 6.10 is newer than 6.9, and 6.1 newer than 6.1~rc1: as rpm compares versions."""
    pieces = re.findall(r"[0-9]+|[A-Za-z]+|~", version)
    ranks = [(3, int(each), "") if each.isdigit() else (0 if each == "~" else 2, 0, each) for each in pieces]
    return [*ranks, (1, 0, "")]
