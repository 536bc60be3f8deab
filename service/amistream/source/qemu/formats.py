"""The formats of disk images: how each is recognised, and what is checked before a program of QEMU opens one.

`FORMATS` has an entry for each `Format`. Every beginning or end in it needs a check, or the reason why none is needed:
QEMU's programs open files that an image names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from amistream.source.file import FileVolume
from amistream.source.qemu.headers import check_qcow2, check_vmdk, read_range, refuse_descriptor


class Format(StrEnum):
    """The supported formats, by their QEMU names."""

    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"

    @property
    def words(self) -> str:
        return FORMATS[self].words


HeaderCheck: TypeAlias = Callable[[FileVolume], None]
"""Raises `RefusedError` if the disk needs other files, or the image is cut short."""


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that identify a format, `offset` from the file's beginning, or from its end if negative."""

    text: bytes
    check: HeaderCheck | str
    """The check that a file must pass before a program opens it, or the reason why none is needed."""
    offset: int = 0

    def is_in(self, head: bytes, tail: bytes) -> bool:
        return (tail if self.offset < 0 else head).startswith(self.text, self.offset)


@dataclass(frozen=True, slots=True)
class FormatFacts:
    words: str
    magics: tuple[Magic, ...]


_PARENT_IS_NAMED = "`qemu-img info` names its parent without opening it, and then the disk is refused"
_VHD_PARENT_IS_IGNORED = "QEMU opens no other file: it takes the parent of a differencing disk for zeros"
_VHDX_HAS_NO_PARENT = "QEMU opens no other file: it refuses a disk with a parent"

FORMATS = {
    Format.QCOW2: FormatFacts("qcow2", (Magic(b"QFI\xfb", check_qcow2),)),
    Format.VMDK: FormatFacts(
        "VMDK",
        (
            Magic(b"KDMV", check_vmdk),
            Magic(b"COWD", _PARENT_IS_NAMED),
            Magic(b"# Disk DescriptorFile", refuse_descriptor),
        ),
    ),
    Format.VHD: FormatFacts(
        "VHD",
        (
            Magic(b"conectix", _VHD_PARENT_IS_IGNORED),
            # A fixed-size VHD begins with the disk itself.
            Magic(b"conectix", _VHD_PARENT_IS_IGNORED, offset=-512),
        ),
    ),
    Format.VHDX: FormatFacts("VHDX", (Magic(b"vhdxfile", _VHDX_HAS_NO_PARENT),)),
}

_MAGICS = sorted(
    ((magic, known) for known, facts in FORMATS.items() for magic in facts.magics), key=lambda each: each[0].offset < 0
)
"""Those at the beginning come first: the end may be a part of the disk."""
HEAD = max(magic.offset + len(magic.text) for magic, _ in _MAGICS if magic.offset >= 0)
FOOTER = max(-magic.offset for magic, _ in _MAGICS)


def detect_format(head: bytes, tail: bytes = b"") -> Format | None:
    """The format of an image by its first `HEAD` and last `FOOTER` bytes; None for a raw disk."""
    return next((known for magic, known in _MAGICS if magic.is_in(head, tail)), None)


def ends_of(file: FileVolume) -> tuple[bytes, bytes]:
    """The file's first and last bytes, for `detect_format`."""
    tail = min(FOOTER, file.size)
    return read_range(file, 0, min(HEAD, file.size)), read_range(file, file.size - tail, tail)


def check_header(file: FileVolume, image_format: Format) -> None:
    """Raise `RefusedError` if the disk needs other files, or the image is cut short."""
    head, tail = ends_of(file)
    for magic in FORMATS[image_format].magics:
        if not isinstance(magic.check, str) and magic.is_in(head, tail):
            magic.check(file)
