"""How far a disk reaches by its own tables."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from amistream.source.disks.reach import bytes_reached
from amistream.source.disks.reading import window
from support.volumes import ext4_image

SIZE = 24 << 20
SECTORS = SIZE // 512


def boot_record(*partitions: tuple[int, int, int], code: bytes = b"\xfa\x31\xc0") -> bytes:
    """A boot record with partitions: type, first sector, sectors."""
    entries = (struct.pack("<B3xB3xII", 0, kind, first, count) for kind, first, count in partitions)
    return code.ljust(446, b"\0") + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def gpt(sector: int) -> bytes:
    """The first header of an empty table, whose copy is at the disk's end."""
    entries = bytes(128 * 128)
    fields = [b"EFI PART", 0x10000, 92, 0, 0, 1, SIZE // sector - 1, 0, 0, b"", 2, 128, 128, zlib.crc32(entries)]
    header = struct.Struct("<8sIIIIQQQQ16sQIII")
    fields[3] = zlib.crc32(header.pack(*fields))
    return boot_record((0xEE, 1, 0xFFFFFFFF)).ljust(sector, b"\0") + header.pack(*fields).ljust(sector, b"\0") + entries


def reached(disk: bytes) -> int:
    """How far a disk reaches of which these bytes are there."""
    return bytes_reached(window(lambda start, length: disk[start : start + length], 0, len(disk)), len(disk))


def ext(blocks: int, shift: int, features: int = 0, high: int = 0) -> bytes:
    """The superblock's fields, at the places of the kernel's documentation."""
    block = bytearray(2048)
    for place, value in ((4, blocks), (24, shift), (0x38, 0xEF53), (0x60, features), (0x150, high)):
        struct.pack_into("<I", block, 1024 + place, value)
    return bytes(block)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (boot_record((0x83, 2048, 4096), (5, 8192, SECTORS - 8192)), SIZE),
        (boot_record((0x83, 2048, 4096)), 6144 * 512),
        (gpt(512), SIZE),
        (gpt(4096), SIZE),
        (ext(SIZE // 1024, 0), SIZE),
        (ext(SIZE // 4096, 2), SIZE),
        (ext(SIZE // 4096, 2, high=1), SIZE),
        (ext(SIZE // 4096, 2, 0x80, high=1), SIZE + (1 << 44)),
        (struct.pack(">4sIQ", b"XFSB", 4096, SIZE // 4096).ljust(512, b"\0"), SIZE),
    ],
)
def test_tables(head: bytes, size: int) -> None:
    """Partitions reach to their last one's end, a GPT to its copy, a file system to its last block."""
    assert reached(head) == size


def test_a_file_system_of_mkfs(tmp_path: Path) -> None:
    """An ext4 made by mkfs reaches to its end."""
    assert reached(ext4_image(tmp_path / "disk", SIZE).read_bytes()[:36_000]) == SIZE


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"XFSB",
        bytes(1023),
        boot_record(),
        boot_record((0xEE, 1, 0xFFFFFFFF)),
        boot_record((0x17, 0, 50_000)),
        bytes(446) + b"Remove disks or other media.\xff\r\nPress any key to restart".ljust(64, b"\0") + b"\x55\xaa",
        ext(SIZE, 7),
    ],
)
def test_no_tables(head: bytes) -> None:
    """A short file, a file system's boot sector, a partition from sector 0 on, and that of a GPT say nothing."""
    assert not reached(head)
