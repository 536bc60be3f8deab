"""Recognises NTFS: its boot sector, and the label in its file of the volume's facts."""

from __future__ import annotations

import struct

from amistream.source.disks.facts import FileSystem
from amistream.source.disks.ids import label_text
from amistream.source.disks.reading import Reader

_BOOT_SECTOR = 512
_BOOT = struct.Struct("<11xHB26xQQ8xb7xQ")
"""Bytes a sector, sectors a cluster, sectors, table of files, size of its records, serial number."""
_SHIFTS = range(-16, 0)
"""A negative size of the records is a shift; a positive one counts clusters."""
_VOLUME = 3
"""The record that holds the volume's facts."""
_NAME, _END = 0x60, 0xFFFFFFFF
"""Types of attributes: the volume's name, and the end of all."""
_MOST_ATTRIBUTES = 64


def identify_ntfs(read: Reader, size: int) -> FileSystem | None:
    if size < _BOOT_SECTOR:
        return None
    block = read(0, _BOOT_SECTOR)
    if not block.startswith(b"NTFS    ", 3):
        return None
    sector, cluster, sectors, table, shift, serial = _BOOT.unpack_from(block)
    if sector not in {512, 1024, 2048, 4096} or not cluster:
        return None
    length = sector * cluster
    record = 1 << -shift if shift in _SHIFTS else shift * length
    return FileSystem(
        kind="ntfs",
        size=(sectors + 1) * sector,  # the copy of the boot sector stands behind them
        uuid=f"{serial:016X}",
        label=_label(read, size, table * length + _VOLUME * record, record),
    )


def _label(read: Reader, size: int, start: int, length: int) -> str:
    if not _BOOT_SECTOR <= length <= 64 * 1024 or start + length > size:
        return ""
    record = read(start, length)
    place = int.from_bytes(record[20:22], "little")
    for _ in range(_MOST_ATTRIBUTES):
        if not record.startswith(b"FILE") or place + 24 > length:
            return ""
        kind, step = struct.unpack_from("<II", record, place)
        if kind == _END or not step:
            return ""
        if kind == _NAME:
            count, offset = struct.unpack_from("<IH", record, place + 16)
            return label_text(record[place + offset :][: min(count, length)], "utf-16-le")
        place += step
    return ""
