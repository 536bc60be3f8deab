"""Chooses how GRUB starts the system in a file system, and writes the commands that are embedded in its core.

The system's own menu comes first, because an update of the kernel in the running instance changes that one. Without
it, or where it starts nothing, the newest kernel of /boot is started.
"""

from __future__ import annotations

import re
from uuid import UUID

from amistream.source.disks.files import Files

_MENUS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|bzImage|kernel)-([0-9][A-Za-z0-9.+~_-]*)")
"""Names of kernels with a version. Others, and characters that GRUB would interpret, are passed over."""
_INITRAMFS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initramfs-{}")
"""Names of a version's initramfs: Debian, Fedora, SUSE, Arch."""
_RESCUE = re.compile(r"rescue|kdump")
_OPTIONS = "ro console=tty0 console=ttyS0"
"""EC2's "get system log" shows the serial console."""


def boot_config(files: Files, file_system: UUID, partition_uuid: str) -> str | None:
    """GRUB's commands, or None if the file system has neither a menu nor a kernel. Raises `DoubtError`.

    GRUB runs them one by one and knows neither conditions nor functions yet.
    """
    menu = next((path for path in _MENUS if files.file(path)), None)
    start = _start(files, file_system, partition_uuid)
    if menu is None and not start:
        return None
    folder = (menu or _MENUS[0]).rpartition("/")[0]
    lines = [f"search --no-floppy --fs-uuid --set=root {file_system}", f"set prefix=($root){folder}"]
    if menu:
        lines += [f"configfile ($root){menu}"]
    return "".join(f"{line}\n" for line in (*lines, *start))


def _start(files: Files, file_system: UUID, partition_uuid: str) -> list[str]:
    """The commands that start the newest kernel; none if there is no kernel."""
    found = {}
    for name in files.names("/boot"):
        named = _KERNEL.fullmatch(name)
        if named and not _RESCUE.search(name) and files.file(f"/boot/{name}"):
            found[name] = named[1]
    if not found:
        return []
    name = max(found, key=lambda each: (_sortable(found[each]), each))
    names = (each.format(found[name]) for each in _INITRAMFS)
    initramfs = next((each for each in names if files.file(f"/boot/{each}")), None)
    # The kernel alone knows the ids of partitions only.
    root = f"UUID={file_system}" if initramfs else f"PARTUUID={partition_uuid}"
    load = [f"initrd /boot/{initramfs}"] if initramfs else []
    return [f"linux /boot/{name} root={root} {_OPTIONS}", *load, "boot"]


def _sortable(version: str) -> list[tuple[int, int, str]]:
    """A key by which 6.10 is newer than 6.9, and 6.1 newer than 6.1~rc1: as rpm compares versions."""
    pieces = re.findall(r"[0-9]+|[A-Za-z]+|~", version)
    ranks = [(3, int(each), "") if each.isdigit() else (0 if each == "~" else 2, 0, each) for each in pieces]
    return [*ranks, (1, 0, "")]
