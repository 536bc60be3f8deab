"""The formats of disk images: how each is recognised, and what is checked before a program of QEMU opens one.

`FORMATS` has an entry for each `Format`. Every beginning or end in it has its check of the header, because QEMU's
programs open every file that an image names, and read missing parts of an image as zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from amistream.source.file import FileVolume
from amistream.source.qemu import vhd
from amistream.source.qemu.headers import (
    check_parallels,
    check_qcow,
    check_qcow2,
    check_qed,
    check_vdi,
    check_vmdk,
    read_range,
    refuse_descriptor,
)
from amistream.source.qemu.vhdx import check_vhdx


class Format(StrEnum):
    """The supported formats, by their QEMU names."""

    QCOW = "qcow"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"
    QED = "qed"
    PARALLELS = "parallels"

    @property
    def words(self) -> str:
        return FORMATS[self].words

    @property
    def as_option(self) -> str:
        """The argument of QEMU's --image-opts, up to the file's path."""
        return f"driver={self.value},{FORMATS[self].options}file.filename="


HeaderCheck: TypeAlias = Callable[[FileVolume], None]
"""Raises `RefusedError` if the disk needs other files, or the image is cut short."""


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that identify a format, `offset` from the file's beginning, or from its end if negative."""

    text: bytes
    check: HeaderCheck
    """The check that a file must pass before a program opens it."""
    offset: int = 0

    def is_in(self, head: bytes, tail: bytes) -> bool:
        if self.offset < 0:
            return tail[self.offset :].startswith(self.text) and len(tail) >= -self.offset
        return head.startswith(self.text, self.offset)


@dataclass(frozen=True, slots=True)
class FormatFacts:
    words: str
    magics: tuple[Magic, ...]
    options: str = ""
    """Options of QEMU's driver for the format, each with a comma behind."""


FORMATS = {
    Format.QCOW: FormatFacts("qcow", (Magic(b"QFI\xfb\0\0\0\1", check_qcow),)),
    Format.QCOW2: FormatFacts("qcow2", (Magic(b"QFI\xfb", check_qcow2),)),
    Format.VMDK: FormatFacts(
        "VMDK",
        (
            Magic(b"KDMV", check_vmdk),
            Magic(b"# Disk DescriptorFile", refuse_descriptor),
        ),
    ),
    Format.VHD: FormatFacts(
        "VHD",
        (
            Magic(vhd.COOKIE, vhd.check_vhd),
            # A fixed-size VHD begins with the disk itself.
            Magic(vhd.COOKIE, vhd.check_vhd, offset=-vhd.FOOTER_SIZE),
            Magic(vhd.COOKIE, vhd.refuse_old_footer, offset=-vhd.OLD_FOOTER_SIZE),
        ),
        options=f"{vhd.DRIVER_OPTIONS},",
    ),
    Format.VHDX: FormatFacts("VHDX", (Magic(b"vhdxfile", check_vhdx),)),
    Format.VDI: FormatFacts("VDI", (Magic(b"\x7f\x10\xda\xbe", check_vdi, offset=64),)),
    Format.QED: FormatFacts("QED", (Magic(b"QED\0", check_qed),)),
    Format.PARALLELS: FormatFacts(
        "Parallels", (Magic(b"WithoutFreeSpace", check_parallels), Magic(b"WithouFreSpacExt", check_parallels))
    ),
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


def check_header(file: FileVolume, image_format: Format) -> None:
    """Raise `RefusedError` if the disk needs other files, or the image is cut short."""
    tail = min(FOOTER, file.size)
    ends = read_range(file, 0, min(HEAD, file.size)), read_range(file, file.size - tail, tail)
    for magic in FORMATS[image_format].magics:
        if magic.is_in(*ends):
            magic.check(file)
            break
