"""Finds the file system that a tree is on: its kind, label and UUID, and the size of its disk.

The image takes these over, so that /etc/fstab and the boot loader's configuration fit it. The calls block.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from amistream.host.devices import DEVICES
from amistream.host.mount_table import Mount

_LONGEST_LABEL = 16
"""Bytes of a label in ext2, ext3 and ext4."""
_HEAD = 0x10000 + 4096
_EXT_MARK, _BTRFS_MARK, _XFS_MARK = b"\x53\xef", b"_BHRfS_M", b"XFSB"
_EXT, _BTRFS = 1024, 0x10000
_SECTOR = 512
_BY_UUID, _BY_LABEL = Path("/dev/disk/by-uuid"), Path("/dev/disk/by-label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The file system of a tree, as far as it is known."""

    kind: str = ""
    uuid: UUID | None = None
    label: bytes = b""
    size: int = 0
    """Bytes of its device; 0 if it has none."""


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
    return Origin(kind=mount.kind, uuid=uuid, label=label[:_LONGEST_LABEL], size=size)


def _device_of(mount: Mount) -> tuple[Path, Path] | None:
    """The device's folder in /sys, and its file."""
    number = mount.device
    if number.startswith("0:"):
        # btrfs has a number of its own; its source is the device.
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
    """UUID and label by the superblock itself, which root may read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        head = os.pread(descriptor, _HEAD, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return names_in(head)


def names_in(head: bytes) -> tuple[UUID | None, bytes] | None:
    """UUID and label in the first bytes of ext2/3/4, xfs or btrfs; None for anything else."""
    if len(head) < _HEAD:
        return None
    if head[_EXT + 0x38 : _EXT + 0x3A] == _EXT_MARK:
        uuid, label = struct.unpack_from("16s16s", head, _EXT + 0x68)
    elif head.startswith(_XFS_MARK):
        uuid, label = head[32:48], head[108:120]
    elif head[_BTRFS + 0x40 : _BTRFS + 0x48] == _BTRFS_MARK:
        uuid, label = head[_BTRFS + 0x20 : _BTRFS + 0x30], head[_BTRFS + 0x12B : _BTRFS + 0x22B]
    else:
        return None
    return (UUID(bytes=uuid) if any(uuid) else None), label.partition(b"\0")[0]


def _names_by_links(path: Path) -> tuple[UUID | None, bytes]:
    """UUID and label by the links that udev keeps, for everybody else."""
    uuid = None
    with suppress(ValueError):  # none, or the short one of another kind of file system
        uuid = UUID(_link_to(path, _BY_UUID))
    return uuid, _link_to(path, _BY_LABEL).encode("utf-8", "surrogateescape")


def _link_to(path: Path, folder: Path) -> str:
    try:
        return next((link.name for link in folder.iterdir() if link.resolve() == path), "")
    except OSError:
        return ""
