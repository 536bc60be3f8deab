"""Sees by the first bytes of an image if its disk has a partition table, or is a bare file system."""

from __future__ import annotations

from amistream.source.disks.mbr import BOOT_CODE, MARK, SECTOR, parse_boot_record
from amistream.source.disks.reading import DoubtError
from amistream.source.disks.signatures import identify


def has_table(beginning: bytes) -> bool:
    """An MBR with partitions, or the one that stands for a GPT."""
    record = parse_boot_record(beginning[:SECTOR]) if len(beginning) >= SECTOR else None
    return record is not None and bool(record.entries)


def has_boot_sector(beginning: bytes) -> bool:
    """The first sector has code, and the mark that firmware asks for; extlinux puts its own into a file system's."""
    return beginning[SECTOR - 2 : SECTOR] == MARK and any(beginning[:BOOT_CODE])


def bare_file_system(beginning: bytes, size: int) -> str:
    """The kind of the file system that begins with the image of `size` bytes, '' for none that is known."""
    if has_table(beginning):
        return ""

    def read(offset: int, length: int) -> bytes:
        # Marks behind the beginning are those of members of arrays, which are no bare file systems.
        return beginning[offset : offset + length].ljust(length, b"\0")

    try:
        found = identify(read, size)
    except DoubtError:
        return ""
    return found.kind if found else ""
