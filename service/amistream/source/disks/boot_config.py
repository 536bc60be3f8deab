"""Writes the commands that are embedded in GRUB's core, by which it starts the system in a file system.

The system's own menu comes first, because an update of the kernel in the running instance changes that one. Without
it, or where it starts nothing, the newest kernel of /boot is started.
"""

from __future__ import annotations

from uuid import UUID

from amistream.source.disks.files import Files
from amistream.source.disks.kernels import MENUS, Kernel, newest_kernel

_OPTIONS = "ro console=tty0 console=ttyS0"
"""EC2's "get system log" shows the serial console."""


def boot_config(files: Files, file_system: UUID, partition_uuid: str) -> str | None:
    """GRUB's commands, or None if the file system has neither a menu nor a kernel. Raises `DoubtError`.

    GRUB runs them one by one and knows neither conditions nor functions yet.
    """
    menu = next((path for path in MENUS if files.file(path)), None)
    kernel = newest_kernel(files)
    if menu is None and kernel is None:
        return None
    folder = (menu or MENUS[0]).rpartition("/")[0]
    lines = [f"search --no-floppy --fs-uuid --set=root {file_system}", f"set prefix=($root){folder}"]
    if menu:
        lines.append(f"configfile ($root){menu}")
    if kernel:
        lines += _start(kernel, file_system, partition_uuid)
    return "".join(f"{line}\n" for line in lines)


def _start(kernel: Kernel, file_system: UUID, partition_uuid: str) -> list[str]:
    if kernel.initramfs:
        return [f"linux {kernel.path} root=UUID={file_system} {_OPTIONS}", f"initrd {kernel.initramfs}", "boot"]
    # Alone, a kernel knows the ids of partitions only.
    return [f"linux {kernel.path} root=PARTUUID={partition_uuid} {_OPTIONS}", "boot"]
