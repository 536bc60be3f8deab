"""Disks that are in use: loop devices whose root partition is mounted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.mounts import mounted, partition
from support.volumes import loop_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.boot_disks import BootDisk


@dataclass(frozen=True, kw_only=True)
class LiveDisk:
    disk: BootDisk
    device: Path
    root: Path
    """Where its root is mounted."""


@contextmanager
def in_use(disk: BootDisk, folder: Path, number: int = 1, *options: str) -> Iterator[LiveDisk]:
    """Mount the root of a disk, which is its partition `number`, on a folder."""
    with (
        loop_device(disk.path, read_only=False) as device,
        partition(device, disk.root, disk.root_size, number) as part,
        mounted(part, folder, *options) as root,
    ):
        yield LiveDisk(disk=disk, device=device, root=root)
