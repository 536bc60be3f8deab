"""Finds the kernel that boots by default, its initramfs and its modules, and checks that they exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from amistream.checks.boot.faults import failed, shown, unknown
from amistream.checks.boot.grub_menu import Entry, is_variable
from amistream.checks.boot.system import Boot, System
from amistream.checks.findings import Observation
from amistream.source.disks.files import File
from amistream.source.disks.kernels import newest_kernel

MODULES = "/lib/modules"
_KERNEL_NAME = re.compile(r"(vmlinuz|vmlinux|bzImage|Image|kernel)(-(?P<version>.+))?")
_PLAUSIBLE = re.compile(r"[0-9][A-Za-z0-9.+~_-]*")
_LONGEST_VERSION = 128
_X86_MARK, _X86_VERSION, _X86_BASE = 0x202, 0x20E, 0x200
"""In the header of a bzImage (Documentation/arch/x86/boot.rst of Linux)."""
_REBUILD = "update-initramfs -c -k all && update-grub, or: dracut --regenerate-all --force && grub2-mkconfig"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The kernel that boots by default."""

    path: str
    version: str
    """'' if nothing tells it."""
    initrds: tuple[File, ...]
    """The archives that the boot loader loads as its initramfs; empty if it loads none."""
    is_complete: bool = True
    """All that the boot loader is to load exists."""


def choose_kernel(system: System, boot: Boot | None) -> Chosen | None:
    """The kernel of the default entry; without a menu, the newest of /boot. None if there is none, or none is known.

    Raises `DoubtError`.
    """
    if boot is not None and boot.entry is not None:
        for kernel in boot.entry.kernels:
            if file := _file(boot, kernel.path):
                initrds = [found for path in boot.entry.initrds if (found := _file(boot, path))]
                is_complete = len(initrds) == len(boot.entry.initrds)
                return Chosen(kernel.path, version_of(file), tuple(initrds), is_complete)
        return None
    newest = newest_kernel(system.files)
    file = system.files.file(newest.path) if newest else None
    if newest is None or file is None:
        return None
    initrd = system.files.file(newest.initramfs) if newest.initramfs else None
    return Chosen(newest.path, version_of(file), (initrd,) if initrd else ())


def check_kernels(system: System, boot: Boot | None, chosen: Chosen | None) -> Iterator[Observation]:
    """Check that what the default entry names exists, and that the kernel has its modules."""
    if boot is not None and boot.entry is not None and boot.entry.kernels:
        yield from _check_entry(boot, boot.entry)
    elif not kernel_names(system):
        if system.disk.has_efi_system:
            yield unknown("the kernel", "there is none in /boot, and the EFI system partition is not read")
        else:
            yield failed(
                "no_kernel",
                "/boot holds no kernel",
                why="there is nothing to boot",
                fix="install a kernel package in the system, such as linux-image-amd64 or kernel",
            )
    if chosen is not None and chosen.version:
        yield from _check_modules(system, chosen)


def _check_entry(boot: Boot, entry: Entry) -> Iterator[Observation]:
    paths = [kernel.path for kernel in entry.kernels]
    if any(map(is_variable, [*paths, *entry.initrds])):
        yield unknown("the kernel of the default entry", f"{boot.config} names it by a variable")
        return
    if not any(map(boot.files.file, paths)):
        yield failed(
            "kernel_missing",
            f"the default entry of {boot.config} names the kernel {shown(paths[0])}, which does not exist",
            why="GRUB stops at its menu",
            fix="install the kernel package again, or run update-grub (grub2-mkconfig) in the system",
        )
    missing = [path for path in entry.initrds if boot.files.file(path) is None]
    if missing:
        yield failed(
            "initramfs_missing",
            f"the default entry of {boot.config} names the initramfs {shown(missing[0])}, which does not exist",
            why="the kernel finds no root file system",
            fix=f"make it in the system: {_REBUILD}",
        )


def _check_modules(system: System, chosen: Chosen) -> Iterator[Observation]:
    versions = system.files.names(MODULES)
    if versions and chosen.version not in versions:
        yield failed(
            "no_modules",
            f"the kernel {shown(chosen.version)} boots, and {MODULES} is for {shown(', '.join(versions))} only",
            why="drivers for the network and more are missing: the instance is not reachable",
            fix="install the package of that kernel again, or let GRUB boot another one by default",
            cannot="reach instances",
        )


def kernel_names(system: System) -> list[str]:
    return [name for name in system.files.names("/boot") if _KERNEL_NAME.fullmatch(name)]


def version_of(kernel: File) -> str:
    """The version in the kernel's own header, else that in its name."""
    header = kernel.read(0, _X86_VERSION + 2)
    if header[_X86_MARK : _X86_MARK + 4] == b"HdrS":
        place = int.from_bytes(header[_X86_VERSION:], "little")
        words = kernel.read(_X86_BASE + place, _LONGEST_VERSION).partition(b"\0")[0].decode("ascii", "replace").split()
        if place and words and _PLAUSIBLE.fullmatch(words[0]):
            return words[0]
    named = _KERNEL_NAME.fullmatch(kernel.path.rpartition("/")[2])
    return named["version"] or "" if named else ""


def _file(boot: Boot, path: str) -> File | None:
    return None if is_variable(path) else boot.files.file(path)
