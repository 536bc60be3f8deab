"""The formats of disk images: how each is recognised, and what is checked before a program of QEMU opens one.

`FORMATS` has an entry for each `Format`. Every beginning or end in it needs a check, or the reason why none is needed:
QEMU's programs open every file that an image names, and their messages reveal whether it exists. So an image that names
another file is refused by its header: a qcow2 with a backing or data file (QEMU, docs/interop/qcow2.rst), and a VMDK
that is, or contains, a description of other extents (VMware, Virtual Disk Format 5.0).

A qcow2 that ends before its tables is refused too: the programs read missing tables as zeros, so the whole disk would
be a hole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from amistream.errors import RefusedError
from amistream.source.file import FileVolume
from amistream.values import MIB

_QCOW2 = struct.Struct(">4sIQI52xQ")
"""Magic, version, offset and length of the backing file's name, features a reader must support (since version 3)."""
_QCOW2_TABLES = struct.Struct(">20xI12xIQ")
"""Bits of a cluster's size; entries and offset of the first table, whose entries are offsets of the second tables."""
_CLUSTER_BITS = range(9, 22)
_LARGEST_TABLE = 32 * MIB
"""Larger values QEMU itself refuses."""
_TABLE_OFFSET = 0x00FFFFFFFFFFFE00
"""The bits of an entry that are an offset; 0: no table."""
_DATA_FILE = 1 << 2
_FEATURES_SINCE = 3
_LONGEST_NAME = 1023

_VMDK = struct.Struct("<4sIIQQQQ")
"""Magic, version, flags, capacity, size of a grain, offset and size of the embedded descriptor; all in sectors."""
_SECTOR = 512
_LARGEST_DESCRIPTOR = MIB
_EXTENT = re.compile(rb"^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+[0-9]+[ \t]+([A-Z0-9]+)", re.MULTILINE)


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


def refuse_descriptor(file: FileVolume) -> None:
    raise elsewhere(
        file, "it is a VMDK without data, with only the names of the files that have it", "one image of them"
    )


def check_qcow2(file: FileVolume) -> None:
    head = read_range(file, 0, _QCOW2.size)
    _, version, offset, length, features = _QCOW2.unpack(head)
    if offset:
        name = read_range(file, offset, min(length, _LONGEST_NAME)).rstrip(b"\0").decode(errors="replace")
        raise elsewhere(file, f"a part of its disk is in another file, {name}")
    if version >= _FEATURES_SINCE and features & _DATA_FILE:
        raise elsewhere(file, "its data is in another file")
    _check_tables(file, head)


def _check_tables(file: FileVolume, head: bytes) -> None:
    bits, entries, offset = _QCOW2_TABLES.unpack_from(head)
    length = entries * 8
    if bits not in _CLUSTER_BITS or length > _LARGEST_TABLE:
        return
    end = offset + length
    for (entry,) in struct.iter_unpack(">Q", read_range(file, offset, length)):
        if entry & _TABLE_OFFSET:
            end = max(end, (entry & _TABLE_OFFSET) + (1 << bits))
    if end > file.size:
        raise cut_short(file, end - file.size)


def check_vmdk(file: FileVolume) -> None:
    _, _, _, capacity, _, offset, size = _VMDK.unpack(read_range(file, 0, _VMDK.size))
    # Without a size in the header, readers look up the data's files in the descriptor.
    if not capacity:
        raise elsewhere(file, "it is a VMDK without a disk, with only the names of files")
    descriptor = read_range(file, offset * _SECTOR, min(size * _SECTOR, _LARGEST_DESCRIPTOR)) if offset else b""
    # A single extent is the file itself; its name may be from before a renaming.
    if _EXTENT.findall(descriptor) not in ([], [b"SPARSE"]):
        raise elsewhere(file, "it is a VMDK that names further files as parts of its disk")


def cut_short(file: FileVolume, missing: int) -> RefusedError:
    """The error for an image that lacks at least `missing` bytes of its data."""
    return RefusedError(
        "source.cut_short",
        f"cannot bundle {file.path}: the image is incomplete, {missing} bytes of its data are missing",
        hint="compare its size or checksum with the original's, and copy it again",
        field="source",
    )


def elsewhere(file: FileVolume, why: str, make: str = "one image of both") -> RefusedError:
    """The error for a disk that is, as `why` says, in other files too."""
    return RefusedError(
        "source.elsewhere",
        f"cannot bundle {file.path}: {why}",
        hint=f"make {make}: qemu-img convert -O qcow2 {file.path} WHOLE.qcow2",
        field="source",
    )


def read_range(file: FileVolume, offset: int, length: int) -> bytes:
    """The bytes of a range of the file, with zeros behind its end."""
    found = bytearray(length)
    available = max(0, min(length, file.size - offset))
    if available:
        file.read_into(offset, memoryview(found)[:available])
    return bytes(found)


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
