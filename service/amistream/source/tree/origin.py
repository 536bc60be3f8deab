"""Finds the file system that a tree is on: its kind, label and UUID, and the size of its disk.

The image takes these over, so that /etc/fstab and the boot loader's configuration fit it. The calls block.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from amistream.host.devices import DEVICES, device_size
from amistream.host.mount_table import Mount
from amistream.source.disks.reading import DoubtError
from amistream.source.disks.signatures import identify

_LONGEST_LABEL = 16
"""Bytes of a label in ext2, ext3 and ext4."""
_SECTOR = 512
_NUMBERS_OF_THEIR_OWN = {"btrfs", "bcachefs"}
"""File systems on disks that have no disk's number. The source of other mounts is any word: of FUSE, whoever mounts
chooses it.
"""
_BY_UUID, _BY_LABEL = Path("/dev/disk/by-uuid"), Path("/dev/disk/by-label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The file system of a tree, as far as it is known."""

    kind: str = ""
    uuid: UUID | None = None
    label: bytes = b""
    size: int = 0
    """Bytes of its device; 0 if it has none."""
    head: bytes = b""
    """The device's first bytes, where this process may read them."""


def find_origin(mount: Mount) -> Origin:
    """Look at the device of a mount. Whatever cannot be found stays open."""
    device = _device_of(mount)
    if device is None:
        return Origin(kind=mount.kind)
    folder, path = device
    try:
        size = int((folder / "size").read_text()) * _SECTOR
    except (OSError, ValueError):
        size = 0
    uuid, label = _names_on(path) or _names_by_links(path)
    return Origin(kind=mount.kind, uuid=uuid, label=label[:_LONGEST_LABEL], size=size, head=_head_of(path))


def _device_of(mount: Mount) -> tuple[Path, Path] | None:
    """The device's folder in /sys, and its file."""
    number = mount.device
    if number.startswith("0:"):
        if mount.kind not in _NUMBERS_OF_THEIR_OWN:
            return None
        try:
            about = Path(os.fsdecode(mount.source)).stat()
        except OSError:
            return None
        number = f"{os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"
    folder = DEVICES / number
    try:
        lines = (folder / "uevent").read_text().splitlines()
    except OSError:
        return None
    name = next((line.removeprefix("DEVNAME=") for line in lines if line.startswith("DEVNAME=")), "")
    return (folder, Path("/dev") / name) if name else None


def _names_on(path: Path) -> tuple[UUID | None, bytes] | None:
    """UUID and label by the superblock itself, which root may read; None if there is nothing certain."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = identify(lambda offset, length: _exactly(descriptor, offset, length), device_size(descriptor))
    except (OSError, DoubtError):
        return None
    finally:
        os.close(descriptor)
    return (_uuid(found.uuid), found.label.encode("utf-8", "surrogateescape")) if found else None


def _head_of(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, _SECTOR, 0)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _exactly(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) < length:
        raise DoubtError(f"it ends at byte {offset + len(data)}")
    return data


def _uuid(text: str) -> UUID | None:
    """None for none, or for the short one of another kind of file system."""
    try:
        return UUID(text)
    except ValueError:
        return None


def _names_by_links(path: Path) -> tuple[UUID | None, bytes]:
    """UUID and label by the links that udev keeps, for everybody else."""
    return _uuid(_link_to(path, _BY_UUID)), _link_to(path, _BY_LABEL).encode("utf-8", "surrogateescape")


def _link_to(path: Path, folder: Path) -> str:
    try:
        return next((link.name for link in folder.iterdir() if link.resolve() == path), "")
    except OSError:
        return ""
