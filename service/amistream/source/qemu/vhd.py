"""Checks a VHD, and finds the size of the disk in it (Microsoft, Virtual Hard Disk Image Format Specification 1.0).

The footer has two sizes: the current size, and that of a geometry of cylinders, heads and sectors, which cannot
express every size and is up to a cylinder smaller. Virtual PC, and QEMU without force_size, have a disk of the
geometry's size. All other writers have one of the current size, as QEMU since 10.0 and libvhdi read them; older
versions of QEMU know only some of them, and cut the disks of the rest.

A differencing disk holds the changes to a parent only, and QEMU reads the parent's blocks as zeros: it is refused.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from amistream.errors import RefusedError
from amistream.ports.volume import Volume
from amistream.source.file import FileVolume
from amistream.source.foreign import AS_IT_IS
from amistream.source.qemu.headers import cut_short, read_range
from amistream.values import quoted

COOKIE = b"conectix"
FOOTER_SIZE = 512
OLD_FOOTER_SIZE = 511
"""That of Virtual PC before 2004, which no program of QEMU reads."""
DRIVER_OPTIONS = "force_size_calc=current_size"

_FOOTER = struct.Struct(">8s8xQ4x4s16xQHBBII")
"""Cookie, offset of the dynamic header, writer, current size, cylinders, heads, sectors, type, checksum."""
_FOOTER_CHECKSUM = 64
_DYNAMIC = struct.Struct(">8s8xQ4xIII")
"""Cookie, offset of the block table, its entries, size of a block, checksum."""
_DYNAMIC_SIZE, _DYNAMIC_COOKIE, _DYNAMIC_CHECKSUM = 1024, b"cxsparse", 36
_FIXED_TYPE, _DYNAMIC_TYPE, _DIFFERENCING_TYPE = 2, 3, 4
_BY_GEOMETRY = {b"vpc ", b"qemu"}
"""The writers whose disk has the geometry's size."""


@dataclass(frozen=True, slots=True)
class _Footer:
    header_offset: int
    writer: bytes
    size: int
    geometry_size: int
    cylinder_size: int
    kind: int


def check_vhd(file: FileVolume) -> None:
    """Raise `RefusedError` for a disk with a parent, and for an image that is damaged or cut short."""
    footer = _footer(file)
    if footer.kind == _DIFFERENCING_TYPE:
        path = quoted(file.path)
        raise RefusedError(
            "source.elsewhere",
            f"cannot bundle {file.path}: it is a differencing VHD, with only the changes to another disk, its parent",
            hint=f"make one image of both: VBoxManage clonemedium disk {path} WHOLE.vhd --format VHD, or on Windows "
            f"Convert-VHD -Path {path} -DestinationPath WHOLE.vhd -VHDType Dynamic",
            field="source",
        )
    if _begins_with_footer(file):
        _check_dynamic(file, footer)
    elif footer.kind != _FIXED_TYPE:
        raise _damaged(file, "the copy of its footer at its beginning is missing")
    elif footer.size > file.size - FOOTER_SIZE:
        raise cut_short(file, footer.size - (file.size - FOOTER_SIZE))
    elif footer.size < file.size - FOOTER_SIZE:
        path = quoted(file.path)
        raise RefusedError(
            "source.vhd_size",
            f"cannot bundle {file.path}: its footer says that the disk has {footer.size} bytes, and there are "
            f"{file.size - FOOTER_SIZE} before it",
            hint=f"choose the size: head -c {footer.size} {path} > disk.img, or all: head -c -512 {path} > disk.img; "
            f"{AS_IT_IS}",
            field="source",
        )


def refuse_old_footer(file: FileVolume) -> None:
    raise RefusedError(
        "source.vhd_old",
        f"cannot bundle {file.path}: it is a VHD of Virtual PC before 2004, which no tool here reads",
        hint=f"if it has a fixed size, cut off its footer: head -c -{OLD_FOOTER_SIZE} "
        f"{quoted(file.path)} > disk.img; {AS_IT_IS}",
        field="source",
    )


def cut_to_geometry(file: FileVolume, disk: Volume) -> int:
    """The size of the `disk`, which was opened with the footer's current size.

    Raises `RefusedError` if its writer goes by the geometry, and there is data behind that.
    """
    footer = _footer(file)
    beyond = footer.size - footer.geometry_size
    if footer.writer not in _BY_GEOMETRY or not 0 < beyond < footer.cylinder_size:
        return footer.size
    rest = bytearray(beyond)
    disk.read_into(footer.geometry_size, memoryview(rest))
    if any(rest):
        path = quoted(file.path)
        raise RefusedError(
            "source.vhd_size",
            f"cannot bundle {file.path}: by its geometry the disk has {footer.geometry_size} bytes, as its writer "
            f"{footer.writer.decode().strip()} counts, and there is data in the {beyond} bytes behind that",
            hint="keep that data: qemu-img convert -O raw --image-opts "
            f"driver=vpc,{DRIVER_OPTIONS},file.filename={path} disk.img",
            field="source",
        )
    return footer.geometry_size


def _begins_with_footer(file: FileVolume) -> bool:
    return read_range(file, 0, len(COOKIE)) == COOKIE


def _footer(file: FileVolume) -> _Footer:
    place = 0 if _begins_with_footer(file) else file.size - FOOTER_SIZE
    raw = read_range(file, place, FOOTER_SIZE)
    _, header_offset, writer, size, cylinders, heads, sectors, kind, checksum = _FOOTER.unpack_from(raw)
    if checksum != _sum(raw, _FOOTER_CHECKSUM):
        raise _damaged(file, "the checksum of its footer does not match")
    cylinder = heads * sectors * 512
    return _Footer(header_offset, writer, size, cylinders * cylinder, cylinder, kind)


def _check_dynamic(file: FileVolume, footer: _Footer) -> None:
    if footer.kind != _DYNAMIC_TYPE:
        raise _damaged(file, f"it begins with a footer of type {footer.kind}, and a dynamic disk has type 3")
    raw = read_range(file, footer.header_offset, _DYNAMIC_SIZE)
    cookie, table, entries, block, checksum = _DYNAMIC.unpack_from(raw)
    if cookie != _DYNAMIC_COOKIE or checksum != _sum(raw, _DYNAMIC_CHECKSUM):
        raise _damaged(file, "its header of a dynamic disk is missing, or its checksum does not match")
    if entries * block < footer.size:
        raise _damaged(file, f"its {entries} blocks of {block} bytes are fewer than its disk of {footer.size} bytes")
    if missing := max(0, table + 4 * entries - file.size):
        raise cut_short(file, missing)


def _sum(raw: bytes, place: int) -> int:
    """The checksum of a footer or header: the complement of the sum of all bytes but those of the checksum itself."""
    return ~(sum(raw) - sum(raw[place : place + 4])) & 0xFFFFFFFF


def _damaged(file: FileVolume, why: str) -> RefusedError:
    return RefusedError(
        "source.damaged",
        f"cannot bundle {file.path}: the VHD is damaged: {why}",
        hint=f"compare its size or checksum with the original's, and copy it again; {AS_IT_IS}",
        field="source",
    )
