"""Checks the header of a disk image before a program of QEMU opens the file: one function for each format.

QEMU's programs open every file that an image names, and their messages reveal whether it exists. So an image that names
another file is refused: a qcow2 with a backing or data file (QEMU, docs/interop/qcow2.rst), a qcow or QED with a
backing file (docs/interop/qed_spec.rst), and a VMDK that is, or contains, a description of other extents (VMware,
Virtual Disk Format 5.0).

The programs read missing tables, and the missing parent of a VDI or VMDK, as zeros, so that a whole disk would be a
hole. Therefore an image that ends before its tables is refused too, and one with a parent. Parallels
(docs/interop/parallels.rst) does not record a parent in its file.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from dataclasses import dataclass

from amistream.errors import RefusedError
from amistream.source.file import FileVolume
from amistream.values import MIB, quoted

_QCOW2 = struct.Struct(">4sIQI52xQ")
"""Magic, version, offset and length of the backing file's name, features a reader must support (since version 3)."""
_QCOW2_TABLES = struct.Struct(">20xI12xIQ")
"""Bits of a cluster's size; entries and offset of the first table, whose entries are offsets of the second tables."""
_QCOW2_CLUSTER_BITS = range(9, 22)
_LARGEST_TABLE = 32 * MIB
"""Larger values QEMU itself refuses."""
_TABLE_OFFSET = 0x00FFFFFFFFFFFE00
"""The bits of an entry that are an offset; 0: no table."""
_CORRUPT, _DATA_FILE, _EXTENDED_ENTRIES = 1 << 1, 1 << 2, 1 << 4
_FEATURES_SINCE = 3
_LONGEST_NAME = 1023

_QCOW = struct.Struct(">8xQI4xQBB6xQ")
"""Offset and length of the backing file's name, size, bits of a cluster's size and of a second table's length, offset
of the first table."""
_QCOW_CLUSTER_BITS, _QCOW_TABLE_BITS = range(9, 17), range(6, 14)

_QED = struct.Struct("<4xIIIQ16xQQII")
"""Size of a cluster, clusters of a table and of the header, features, offset of the first table, size, offset and
length of the backing file's name."""
_QED_BACKING_FILE = 1

_VDI = struct.Struct("<76xI260xI40xI36x16s16s")
"""Type, offset of the table, blocks, and the identities of the parent's state and of the parent."""
_VDI_KINDS = (1, 2)
"""Dynamic and fixed size."""

_PARALLELS = struct.Struct("<32xI")
"""Entries of the table, which follows the header of 64 bytes."""

_VMDK = struct.Struct("<4sIIQQQQ20xQ")
"""Magic, version, flags, capacity, size of a grain, offset and size of the embedded descriptor, size of all tables; all
in sectors."""
_SECTOR = 512
_LARGEST_DESCRIPTOR = MIB
_EXTENT = re.compile(rb"^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+[0-9]+[ \t]+([A-Z0-9]+)", re.MULTILINE)
_PARENT = re.compile(rb"^[ \t]*parentCID[ \t]*=[ \t]*([0-9A-Fa-f]+)", re.MULTILINE)
_NO_PARENT = b"ffffffff"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compressed:
    """The form of the entry of a compressed cluster: the bit `flag`, below it the size in `size_bits`, then the offset.

    Of units with more than one byte, the one in which the cluster begins is not counted.
    """

    flag: int
    size_bits: int
    unit: int = 1
    words: int = 1
    """Those of 8 bytes in an entry, of which this is the first."""

    def end_of(self, entry: int) -> int:
        offset_bits = self.flag - self.size_bits
        offset, units = entry & (1 << offset_bits) - 1, entry >> offset_bits & (1 << self.size_bits) - 1
        return (offset // self.unit + units + (self.unit > 1)) * self.unit


def check_qcow2(file: FileVolume) -> None:
    head = read_range(file, 0, _QCOW2.size)
    _, version, offset, length, features = _QCOW2.unpack(head)
    if offset:
        raise _backed(file, offset, length)
    if version >= _FEATURES_SINCE and features & _DATA_FILE:
        raise elsewhere(file, "its data is in another file")
    if version >= _FEATURES_SINCE and features & _CORRUPT:
        raise RefusedError(
            "source.damaged",
            f"cannot bundle {file.path}: the image is marked as corrupt",
            hint="restore it from a good copy; or repair what can be repaired, and examine the disk then: "
            f"qemu-img check -r all {quoted(file.path)}",
            field="source",
        )
    bits, entries, table = _QCOW2_TABLES.unpack_from(head)
    if bits in _QCOW2_CLUSTER_BITS:
        tables = _check_tables(file, table, entries, second=1 << bits, order=">")
        extended = version >= _FEATURES_SINCE and features & _EXTENDED_ENTRIES
        entry = _Compressed(flag=62, size_bits=bits - 8, unit=_SECTOR, words=2 if extended else 1)
        _check_compressed(file, tables, 1 << bits, entry)


def check_qcow(file: FileVolume) -> None:
    offset, length, size, cluster_bits, table_bits, table = _QCOW.unpack(read_range(file, 0, _QCOW.size))
    if offset:
        raise _backed(file, offset, length)
    if cluster_bits in _QCOW_CLUSTER_BITS and table_bits in _QCOW_TABLE_BITS:
        entries = -(-size // (1 << cluster_bits + table_bits))
        tables = _check_tables(file, table, entries, second=8 << table_bits, order=">")
        _check_compressed(file, tables, 8 << table_bits, _Compressed(flag=63, size_bits=cluster_bits))


def check_qed(file: FileVolume) -> None:
    cluster, clusters, _, features, table, size, offset, length = _QED.unpack(read_range(file, 0, _QED.size))
    if features & _QED_BACKING_FILE:
        raise _backed(file, offset, length)
    second = cluster * clusters
    if second:
        _check_tables(file, table, -(-size // (cluster * (second // 8 or 1))), second=second, order="<")


def check_vdi(file: FileVolume) -> None:
    kind, table, blocks, *parents = _VDI.unpack(read_range(file, 0, _VDI.size))
    if kind not in _VDI_KINDS or any(map(any, parents)):
        raise RefusedError(
            "source.elsewhere",
            f"cannot bundle {file.path}: it has only the changes to another disk, its parent",
            hint=f"make one image of both: VBoxManage clonemedium disk {quoted(file.path)} WHOLE.vdi",
            field="source",
        )
    _refuse_shorter(file, table + 4 * blocks)


def check_parallels(file: FileVolume) -> None:
    (entries,) = _PARALLELS.unpack(read_range(file, 0, _PARALLELS.size))
    _refuse_shorter(file, 64 + 4 * entries)


def check_vmdk(file: FileVolume) -> None:
    _, _, _, capacity, _, offset, size, tables = _VMDK.unpack(read_range(file, 0, _VMDK.size))
    # Without a size in the header, readers look up the data's files in the descriptor.
    if not capacity:
        raise elsewhere(file, "it is a VMDK without a disk, with only the names of files")
    _refuse_shorter(file, tables * _SECTOR)
    descriptor = read_range(file, offset * _SECTOR, min(size * _SECTOR, _LARGEST_DESCRIPTOR)) if offset else b""
    if not descriptor.strip(b"\0"):
        error = elsewhere(file, "it is a VMDK with one part of a disk in several files")
        line = "qemu-img convert -f vmdk -O qcow2 DISK.vmdk WHOLE.qcow2"
        raise error.reworded(hint=f"make one image of all parts, from their description, the small .vmdk file: {line}")
    _check_parent(file, descriptor)
    # A single extent is the file itself; its name may be from before a renaming.
    if _EXTENT.findall(descriptor) not in ([], [b"SPARSE"]):
        raise elsewhere(file, "it is a VMDK that names further files as parts of its disk")


def refuse_descriptor(file: FileVolume) -> None:
    _check_parent(file, read_range(file, 0, min(file.size, _LARGEST_DESCRIPTOR)))
    raise elsewhere(
        file, "it is a VMDK without data, with only the names of the files that have it", "one image of them"
    )


def _check_parent(file: FileVolume, descriptor: bytes) -> None:
    if all(parent.lower() == _NO_PARENT for parent in _PARENT.findall(descriptor)):
        return
    error = elsewhere(file, "it is a VMDK with only the changes to another disk, its parent")
    if b"parentFileNameHint" in descriptor:
        raise error
    # QEMU finds the parent by that name alone.
    line = f"vmware-vdiskmanager -r {quoted(file.path)} -t 0 WHOLE.vmdk"
    raise error.reworded(hint=f"make one image of both, with VMware: {line}")


def _check_tables(file: FileVolume, offset: int, entries: int, *, second: int, order: str) -> set[int]:
    """Refuse a file that ends before its first table, or before a second one of `second` bytes that the first names.

    Returns the places of the second ones.
    """
    length = entries * 8
    if length > _LARGEST_TABLE:
        return set()
    found = struct.iter_unpack(f"{order}Q", read_range(file, offset, length))
    places = {entry & _TABLE_OFFSET for (entry,) in found} - {0}
    _refuse_shorter(file, max([offset + length, *(place + second for place in places)]))
    return places


def _check_compressed(file: FileVolume, tables: set[int], length: int, entry: _Compressed) -> None:
    """Refuse a file that ends before a compressed cluster: QEMU reads zeros there, and inflates them to wrong data."""
    if len(tables) * length > _LARGEST_TABLE:
        return  # more than 100 GiB in clusters of the usual size
    end = 0
    for place in tables:
        words = array("Q", read_range(file, place, length))
        if sys.byteorder == "little":
            words.byteswap()
        end = max([end, *(entry.end_of(word) for word in words[:: entry.words] if word >> entry.flag == 1)])
    _refuse_shorter(file, end)


def _refuse_shorter(file: FileVolume, end: int) -> None:
    if end > file.size:
        raise cut_short(file, end - file.size)


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
        hint=f"make {make}: qemu-img convert -O qcow2 {quoted(file.path)} WHOLE.qcow2",
        field="source",
    )


def _backed(file: FileVolume, offset: int, length: int) -> RefusedError:
    name = read_range(file, offset, min(length, _LONGEST_NAME)).rstrip(b"\0").decode(errors="replace")
    return elsewhere(file, f"a part of its disk is in another file, {name}")


def read_range(file: FileVolume, offset: int, length: int) -> bytes:
    """The bytes of a range of the file, with zeros behind its end."""
    found = bytearray(length)
    available = max(0, min(length, file.size - offset))
    if available:
        file.read_into(offset, memoryview(found)[:available])
    return bytes(found)
