"""Checks the file systems as such: not unmounted, with features that GRUB cannot read, or of a kind not read here."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.disk import OPAQUE, Disk, Volume
from amistream.checks.boot.faults import failed, noted, shown
from amistream.checks.findings import Observation
from amistream.source.disks.ext4.features import UNREADABLE_BY_GRUB
from amistream.source.disks.ext4.superblock import read_superblock
from amistream.source.disks.reading import DoubtError
from amistream.source.disks.xfs import superblock as xfs
from amistream.source.disks.xfs.log import check_clean

_CLEAN, _ERRORS = 1, 2


def check_states(disk: Disk) -> Iterator[Observation]:
    for volume in disk.volumes:
        if volume.is_ext:
            yield from _check_ext(volume)
        elif volume.kind == "xfs":
            yield from _check_xfs(volume)


def _check_ext(volume: Volume) -> Iterator[Observation]:
    fs = read_superblock(volume.read)
    if fs.state & _ERRORS:
        yield noted(
            "errors",
            f"{volume.words} is marked as having errors",
            why="files may be damaged or missing",
            fix="umount it, run e2fsck -f on it, then bundle it",
        )
    elif "needs_recovery" in fs.features or not fs.state & _CLEAN:
        yield noted(
            "torn",
            f"{volume.words} was not unmounted: its journal has to be replayed",
            why="the last writes before the image was taken may be missing, or half there",
            fix="umount it, or mount it read-only, before it is bundled",
        )


def _check_xfs(volume: Volume) -> Iterator[Observation]:
    try:
        check_clean(volume.read, xfs.read_superblock(volume.read, volume.size))
    except DoubtError as doubt:
        yield noted(
            "torn",
            f"{volume.words} is in doubt: {doubt}",
            why="the last writes before the image was taken may be missing, or half there",
            fix="umount it, or mount it read-only, before it is bundled",
        )


def check_features(boot: Volume) -> Iterator[Observation]:
    """`boot` is the file system in which GRUB looks for its files and the kernel."""
    if not boot.is_ext:
        return
    try:
        features = read_superblock(boot.read).features
    except DoubtError:
        return  # `check_states` reports it
    found = [each for each in UNREADABLE_BY_GRUB if each in features]
    if found:
        yield failed(
            "grub_features",
            f"{boot.words}, from which GRUB boots, has {' and '.join(found)}",
            why="GRUB cannot read such a file system, and stops",
            fix=f"make it anew without: mke2fs -t ext4 -O {','.join(f'^{each}' for each in found)} ...",
        )


def check_root_kind(disk: Disk) -> Iterator[Observation]:
    """Of a disk without a system that is read."""
    for volume in disk.volumes:
        if volume.kind in OPAQUE:
            yield noted(
                "root_kind",
                f"{volume.words} is {shown(volume.kind)}",
                why="it boots only if the initramfs has the tools for it, and its files were not checked",
            )
