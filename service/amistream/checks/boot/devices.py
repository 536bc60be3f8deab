"""Finds the file system of the image that a name in fstab, or in root=, stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from amistream.checks.boot.disk import Disk, Volume

_TAGS: dict[str, Callable[[Volume], str]] = {
    "UUID": lambda volume: volume.content.uuid if volume.content else "",
    "LABEL": lambda volume: volume.content.label if volume.content else "",
    "PARTUUID": lambda volume: volume.partition.uuid if volume.partition else "",
    "PARTLABEL": lambda volume: volume.partition.name if volume.partition else "",
}
_LINKS = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_ROOT_DISK = re.compile(r"/dev/(?:(?:xvd|sd|hd|vd)a([0-9]*)|nvme0n1(?:p([0-9]+))?)")
"""Names of the disk that an instance boots from: on Xen xvda, on Nitro nvme0n1, in old kernels and elsewhere others."""
_XEN_EXTRA = re.compile(r"/dev/(xvd|sd)[b-z][0-9]*")


class Form(Enum):
    ID = auto()
    """By an id that the image carries."""
    NAME = auto()
    """By the kernel's name of the first disk or its partition."""
    OTHER = auto()
    """Another device."""


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
    return Device(name, Form.OTHER, None)


def is_instance_store(name: str) -> bool:
    """True for the name of a further disk, which an instance has or not by its type."""
    return _XEN_EXTRA.fullmatch(name) is not None


def _unescaped(text: str) -> str:
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
