"""Checks the header of an image for references to other files and for missing tables, before any program opens it.

QEMU's programs open every file that an image names, and their messages reveal whether it exists. So an image that names
another file is refused by its header: a qcow2 with a backing or data file (QEMU, docs/interop/qcow2.rst), and a VMDK
that is, or contains, a description of other extents (VMware, Virtual Disk Format 5.0).

A qcow2 that ends before its tables is refused too: the programs read missing tables as zeros, so the whole disk would
be a hole.
"""

from __future__ import annotations

import re
import struct

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


def refuse_descriptor(file: FileVolume) -> None:
    raise _elsewhere(
        file, "it is a VMDK without data, with only the names of the files that have it", "one image of them"
    )


def check_qcow2(file: FileVolume) -> None:
    head = read_range(file, 0, _QCOW2.size)
    _, version, offset, length, features = _QCOW2.unpack(head)
    if offset:
        name = read_range(file, offset, min(length, _LONGEST_NAME)).rstrip(b"\0").decode(errors="replace")
        raise _elsewhere(file, f"a part of its disk is in another file, {name}")
    if version >= _FEATURES_SINCE and features & _DATA_FILE:
        raise _elsewhere(file, "its data is in another file")
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
        raise _elsewhere(file, "it is a VMDK without a disk, with only the names of files")
    descriptor = read_range(file, offset * _SECTOR, min(size * _SECTOR, _LARGEST_DESCRIPTOR)) if offset else b""
    # A single extent is the file itself; its name may be from before a renaming.
    if _EXTENT.findall(descriptor) not in ([], [b"SPARSE"]):
        raise _elsewhere(file, "it is a VMDK that names further files as parts of its disk")


def cut_short(file: FileVolume, missing: int) -> RefusedError:
    """The error for an image that lacks at least `missing` bytes of its data."""
    return RefusedError(
        "source.cut_short",
        f"cannot bundle {file.path}: the image is incomplete, {missing} bytes of its data are missing",
        hint="compare its size or checksum with the original's, and copy it again",
        field="source",
    )


def _elsewhere(file: FileVolume, why: str, make: str = "one image of both") -> RefusedError:
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
