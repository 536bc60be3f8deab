"""Finds the partition that a device is, and its disk, as the kernel knows them: by /sys, never by names.

These functions read files: call them on a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amistream.host.devices import DEVICES

_SECTOR = 512
"""All figures in /sys count such sectors, whatever those of the disk are."""
_MAPPED = {"LVM": "an LVM volume", "CRYPT": "an encrypted volume", "mpath": "a multipath device"}
"""By the first word of a mapped device's id."""


class NoPartitionError(Exception):
    """A device is no partition of a disk. The text is a clause with its subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOnDisk:
    """A partition, in bytes, of the disk whose device file is `disk`."""

    device: str
    """`MAJOR:MINOR` of the partition."""
    disk: Path
    disk_device: str
    """`MAJOR:MINOR` of the disk."""
    number: int
    offset: int
    size: int
    used_by: tuple[str, ...]
    """The names of devices that are made of it, such as dm-0 or md127."""


def place_on_disk(device: str) -> PlaceOnDisk:
    """The partition that the device `MAJOR:MINOR` is. Raises `NoPartitionError`."""
    folder = DEVICES / device
    try:
        if not (folder / "partition").exists():
            raise NoPartitionError(_other(folder, device))
        folder = folder.resolve(strict=True)
        disk = folder.parent
        if (disk / "md").exists():
            raise NoPartitionError(f"{_file_of(disk)} is a software RAID")
        return PlaceOnDisk(
            device=device,
            disk=_file_of(disk),
            disk_device=(disk / "dev").read_text().strip(),
            number=int((folder / "partition").read_text()),
            offset=int((folder / "start").read_text()) * _SECTOR,
            size=int((folder / "size").read_text()) * _SECTOR,
            used_by=tuple(sorted(each.name for each in folder.glob("holders/*"))),
        )
    except (OSError, ValueError) as error:
        raise NoPartitionError(f"/sys does not describe the device {device}: {error}") from error


def partitions_of(disk_device: str) -> Iterator[PlaceOnDisk]:
    """The partitions of a disk that the kernel knows. Raises `NoPartitionError`."""
    for mark in (DEVICES / disk_device).glob("*/partition"):
        try:
            number = (mark.parent / "dev").read_text().strip()
        except OSError:
            continue  # removed meanwhile
        yield place_on_disk(number)


def _file_of(folder: Path) -> Path:
    for line in (folder / "uevent").read_text().splitlines():
        if line.startswith("DEVNAME="):
            return Path("/dev") / line.removeprefix("DEVNAME=")
    raise ValueError(f"{folder} has no name in /dev")


def _other(folder: Path, device: str) -> str:
    if not folder.exists():
        return f"the device {device} has no entry in /sys"
    name = _file_of(folder)
    if (folder / "md").exists():
        return f"{name} is a software RAID"
    try:
        mapped = (folder / "dm" / "uuid").read_text().partition("-")[0]
    except OSError:
        return f"{name} is a whole disk, not a partition of one"
    return f"{name} is {_MAPPED.get(mapped, 'a mapped device')}"
