"""Finds the file system of the image that a name in fstab, or in root=, stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from amistream.checks.boot.disk import Disk, Volume
from amistream.checks.boot.faults import shown

_TAGS: dict[str, Callable[[Volume], str]] = {
    "UUID": lambda volume: volume.content.uuid if volume.content else "",
    "LABEL": lambda volume: volume.content.label if volume.content else "",
    "PARTUUID": lambda volume: volume.partition.uuid if volume.partition else "",
    "PARTLABEL": lambda volume: volume.partition.name if volume.partition else "",
}
_LINKS = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_ROOT_DISK = re.compile(r"/dev/(?:(?:xvd[ae]|[shv]da)([0-9]*)|nvme0n1(?:p([0-9]+))?)")
"""Names of the disk that an instance boots from: on Xen xvda, to RHEL 6 xvde, on Nitro nvme0n1, elsewhere others."""
_DISK = re.compile(r"/dev/(?:xvd|[shv]d|nvme)[a-z0-9]+")
_FURTHER_DISK = re.compile(r"/dev/(xvd|sd)[b-z][0-9]*")


class Form(Enum):
    ID = auto()
    """By an id that the image carries."""
    NAME = auto()
    """By the kernel's name of the first disk or its partition."""
    OTHER = auto()
    """By the kernel's name of another disk."""
    MADE = auto()
    """Something that the running system makes, such as a volume of LVM: the image cannot tell."""


@dataclass(frozen=True, slots=True)
class Device:
    """A name, and the file system that it stands for, or None if the image has none of that name."""

    name: str
    form: Form
    volume: Volume | None


def find_device(name: str, disk: Disk) -> Device:
    """The file system that `name` stands for, such as UUID=..., LABEL=..., /dev/xvda1, /dev/disk/by-uuid/..."""
    tag, equals, value = name.partition("=")
    value = value.strip("\"'")
    if link := _LINKS.fullmatch(name):
        tag, equals, value = link[1].upper(), "=", _unescaped(link[2])
    if equals and tag in _TAGS:
        same = [each for each in disk.volumes if value and _TAGS[tag](each).casefold() == value.casefold()]
        if not same and tag == "PARTUUID" and (offset := re.fullmatch(r"(.+)/PARTNROFF=(-?[0-9]{1,3})", value)):
            base = find_device(f"PARTUUID={offset[1]}", disk).volume
            return Device(name, Form.ID, disk.volume(base.number + int(offset[2])) if base else None)
        return Device(name, Form.ID, same[0] if same else None)
    if match := _ROOT_DISK.fullmatch(name):
        return Device(name, Form.NAME, disk.volume(int(match[1] or match[2] or 0)))
    return Device(name, Form.OTHER if _DISK.fullmatch(name) else Form.MADE, None)


def why_unknown(device: Device, disk: Disk) -> str:
    """The reason why a device that is not found may be there all the same, or ''."""
    if device.volume is not None:
        return ""
    if device.form is Form.MADE:
        return f"{shown(device.name)} is made by the running system, if at all"
    opaque = next(disk.opaque(), None)
    if opaque is None or device.form is not Form.ID:
        return ""
    return f"{shown(device.name)} may be in {opaque.words} ({opaque.kind or 'of unknown content'})"


def is_instance_store(name: str) -> bool:
    """True for the name of a further disk, which an instance has or not by its type."""
    return _FURTHER_DISK.fullmatch(name) is not None


def _unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
