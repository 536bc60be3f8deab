"""Checks the boot loader in front of a disk's partitions."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.disk import Disk
from amistream.checks.boot.faults import failed, noted
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.facts import TableKind
from amistream.source.disks.loader import BootLoader, CorePlace, LoaderKind, find_loader

_INSTALL = "grub-install --target=i386-pc DISK, in the system"


def check_loader(disk: Disk, wanted: Wanted) -> Iterator[Observation]:
    """Check what the firmware starts: a BIOS on x86, UEFI on arm64 and for an AMI on EBS that asks for it."""
    if disk.table.kind in (TableKind.NONE, TableKind.PROTECTIVE) or wanted.paravirtual:
        return
    loader = find_loader(disk.read, disk.table, disk.size)
    if wanted.architecture == "arm64" or wanted.boot_mode == "uefi":
        if loader.efi_partition is None:
            arm = wanted.architecture == "arm64"
            yield failed(
                "no_efi",
                "it has no EFI system partition",
                why="arm64 boots by UEFI only" if arm else "the boot mode uefi was asked for",
                fix=f"install GRUB for {'arm64' if arm else 'x86_64'}-efi, into an EFI system partition",
            )
        return
    match loader.kind:
        case LoaderKind.NONE:
            only = ": only UEFI could boot it" if loader.efi_partition is not None else ""
            yield failed(
                "no_loader",
                f"its first sector has no boot loader{only}",
                why=f"an AMI {'without --boot-mode uefi' if wanted.on_ebs else 'from S3'} is booted by a BIOS, which "
                "finds nothing to start",
                fix=f"--boot-mode uefi; or {_INSTALL}" if wanted.on_ebs and only else _INSTALL,
            )
        case LoaderKind.GRUB_2:
            yield from _check_core(loader)
        case LoaderKind.GRUB_LEGACY:
            yield noted(
                "grub_legacy",
                "its boot loader is GRUB legacy",
                why="amistream cannot check that it finds its files, which it records by their blocks",
            )
        case LoaderKind.OTHER:
            yield noted(
                "other_loader", "its boot loader is not GRUB", why="amistream cannot check that it finds its files"
            )
    if disk.table.kind is TableKind.MBR and not any(each.bootable for each in disk.table.partitions):
        yield noted(
            "not_active",
            "no partition is marked as active",
            why="GRUB needs no mark, but some firmware boots no disk without one",
            fix="sfdisk --activate DISK 1",
        )


def _check_core(loader: BootLoader) -> Iterator[Observation]:
    core = loader.core
    if core is None or core.place is CorePlace.OUTSIDE or not core.whole:
        where = f" at byte {core.offset}" if core else ""
        yield failed(
            "no_core",
            f"GRUB's first sector leads to its core{where}, which is damaged or missing",
            why="GRUB stops before its menu",
            fix=_INSTALL,
        )
    elif core.place is CorePlace.BLOCK_LIST:
        yield noted(
            "block_list",
            f"GRUB's core is a file in partition {core.partition}, found by its blocks",
            why="it boots as it is, and no more once the file is written anew or the file system is copied",
            fix=f"leave a gap of 1 MiB before the first partition, or add a BIOS boot partition, then {_INSTALL}",
        )
