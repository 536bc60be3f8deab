"""Content of partitions by its marks; blkid is the referee."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

from amistream.source.disks import marks
from amistream.source.disks.facts import FileSystem
from amistream.source.disks.reading import DoubtError, window
from amistream.source.disks.signatures import identify

MIB = 1 << 20
UUID = "0a1b2c3d-1111-4222-8333-00000000a315"
RAW = bytes.fromhex(UUID.replace("-", ""))

MAKERS = {
    "ext2": ("mke2fs", "-q", "-t", "ext2", "-L", "two", "-U", UUID),
    "ext3": ("mke2fs", "-q", "-t", "ext3", "-L", "three", "-U", UUID),
    "ext4": ("mke2fs", "-q", "-t", "ext4", "-L", "sixteen letters!", "-U", UUID),
    "journal": ("mke2fs", "-q", "-O", "journal_dev", "-U", UUID),
    "xfs": ("mkfs.xfs", "-q", "-L", "twelve lett.", "-m", f"uuid={UUID}"),
    "swap": ("mkswap", "-q", "-L", "swap", "-U", UUID),
}
SIZES = {"xfs": 300 * MIB}


def fat(kind: bytes, size: int) -> bytes:
    """The boot sector of FAT16 or FAT32, and a root directory with a label."""
    wide = kind == b"FAT32   "
    many, table = size // 512, 1024 if wide else 128
    head = struct.pack("<3s8sHBHBHHBH8xI", b"\xeb\x3c\x90", b"mkfs.fat", 512, 4, 32, 2, 0 if wide else 512, 0, 0xF8,
                       0 if wide else table, many)  # fmt: skip
    serial = struct.pack("<BI11s8s", 0x29, 0xA315BEEF, b"NO NAME    ", kind)
    if wide:
        head += struct.pack("<I4xIHH12xH", table, 2, 1, 6, 0x80) + serial
    else:
        head += struct.pack("<H", 0x80) + serial
    root = 512 * (32 + 2 * table)
    image = head.ljust(510, b"\0") + b"\x55\xaa" + bytes(root - 512)
    long_name = b"\x41".ljust(11, b"x") + b"\x0f"
    return image + long_name.ljust(32, b"\0") + (b"ROOT LABEL " + b"\x08").ljust(32, b"\0")


def ntfs(size: int) -> bytes:
    boot = struct.pack("<3s8sHB26xQQ8xb3xb3xQ", b"\xeb\x52\x90", b"NTFS    ", 512, 8, size // 512 - 1, 4, -10, 1,
                       0x123456789ABCDEF0)  # fmt: skip
    boot = boot[:21] + b"\xf8" + boot[22:]
    label = "My disk".encode("utf-16-le")
    attribute = struct.pack("<II8xIH2x", 0x60, 24 + len(label), len(label), 24) + label
    record = b"FILE".ljust(20, b"\0") + struct.pack("<HHII", 56, 1, 400, 1024)
    record = record.ljust(56, b"\0") + attribute + struct.pack("<I", 0xFFFFFFFF)
    volume = record.ljust(1024, b"\0")
    table = b"".join(b"FILE".ljust(1024, b"\0") for _ in range(3))
    return (boot.ljust(510, b"\0") + b"\x55\xaa").ljust(4 * 4096, b"\0") + table + volume


def exfat(size: int) -> bytes:
    boot = struct.pack("<3s8s53xQQIIIIIIHHBBBB", b"\xeb\x76\x90", b"EXFAT   ", 0, size // 512, 24, 8, 64, 100, 4,
                       0xA315BEEF, 0x100, 0, 9, 3, 1, 0x80)  # fmt: skip
    label = "Ex".encode("utf-16-le")
    image = (boot.ljust(510, b"\0") + b"\x55\xaa").ljust((64 + 2 * 8) * 512, b"\0")
    return image + b"\x83\x02" + label.ljust(30, b"\0")


def btrfs(size: int) -> bytes:
    block = bytearray(4096)
    block[0x20:0x30], block[0x40:0x48] = RAW, b"_BHRfS_M"
    struct.pack_into("<Q", block, 0x30, 0x10000)
    struct.pack_into("<Q", block, 0xD1, size)
    block[0x12B : 0x12B + 6] = b"b tree"
    return bytes(0x10000) + block


def iso(size: int) -> bytes:
    block = bytearray(2048)
    block[:7] = b"\x01CD001\x01"
    block[40:72] = b"A CD".ljust(32)
    struct.pack_into("<I", block, 80, size // 2048)
    struct.pack_into("<H", block, 128, 2048)
    block[813:830], block[830:847] = b"2026010203040506\0", b"0" * 16 + b"\0"
    return bytes(0x8000) + block


def luks(version: int) -> bytes:
    block = bytearray(1024)
    block[:8] = b"LUKS\xba\xbe" + version.to_bytes(2, "big")
    block[168:208] = UUID.encode().ljust(40, b"\0")
    if version == 2:
        struct.pack_into(">QQ", block, 8, 16384, 1)
        block[24:30] = b"secret"
    return bytes(block)


def lvm(size: int) -> bytes:
    sector = bytearray(512)
    sector[:8], sector[24:32] = b"LABELONE", b"LVM2 001"
    struct.pack_into("<Q", sector, 8, 1)
    struct.pack_into("<I", sector, 20, 32)
    sector[32:64] = b"abcdefGHIJklmnOPQRstuvWXYZ012345"
    struct.pack_into("<Q", sector, 64, size)
    struct.pack_into("<I", sector, 16, lvm_checksum(bytes(sector[20:])))
    return bytes(512) + sector


def lvm_checksum(data: bytes) -> int:
    """CRC-32 without its inversions."""
    checksum = 0xF597A6CF
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = checksum >> 1 ^ (0xEDB88320 if checksum & 1 else 0)
    return checksum


def raid(place: int) -> bytes:
    block = bytearray(4096)
    struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
    block[16:32], block[32:38] = RAW, b"host:0"
    struct.pack_into("<Q", block, 144, place // 512)
    checksum = sum(struct.unpack_from("<64I", block))
    struct.pack_into("<I", block, 216, (checksum & 0xFFFFFFFF) + (checksum >> 32))
    return bytes(place) + block


def old_raid(size: int) -> bytes:
    block = bytearray(4096)
    struct.pack_into("<3I", block, 0, 0xA92B4EFC, 0, 90)
    words = struct.unpack(">4I", RAW)
    struct.pack_into("<I", block, 20, words[0])
    struct.pack_into("<3I", block, 52, *words[1:])
    return bytes(size - 65536) + block


def zfs() -> bytes:
    return bytes(128 << 10) + struct.pack("<Q", 0x00BAB10C).ljust(1024, b"\0") * 8


SIZE = 64 * MIB
MADE = {
    "fat16": fat(b"FAT16   ", SIZE),
    "fat32": fat(b"FAT32   ", SIZE),
    "ntfs": ntfs(SIZE),
    "exfat": exfat(SIZE),
    "btrfs": btrfs(SIZE),
    "iso": iso(SIZE),
    "luks1": luks(1),
    "luks2": luks(2),
    "lvm": lvm(SIZE),
    "raid1.0": raid(SIZE - 8192),
    "raid1.1": raid(0),
    "raid1.2": raid(4096),
    "raid0.90": old_raid(SIZE),
    "squashfs": struct.pack("<4s24xH10xQ", b"hsqs", 4, 1000),
    "hibernated": bytes(4086) + b"S1SUSPEND\0",
    "hibernated with pages of 64 KiB": bytes(65526) + b"LINHIB0001",
}


def content(image: bytes, size: int) -> FileSystem | None:
    """The content of an image that is zeros behind the given bytes."""
    return identify(window(lambda start, length: image[start : start + length].ljust(length, b"\0"), 0, size), size)


def test_made_by_hand() -> None:
    """Kind, size, label and id of what no tool of this machine makes are as their specifications say."""
    found = {name: content(image, SIZE) for name, image in MADE.items()}
    assert found == {
        "fat16": FileSystem(kind="vfat", size=SIZE, label="ROOT LABEL", uuid="A315-BEEF"),
        "fat32": FileSystem(kind="vfat", size=SIZE, label="ROOT LABEL", uuid="A315-BEEF"),
        "ntfs": FileSystem(kind="ntfs", size=SIZE, label="My disk", uuid="123456789ABCDEF0"),
        "exfat": FileSystem(kind="exfat", size=SIZE, label="Ex", uuid="A315-BEEF"),
        "btrfs": FileSystem(kind="btrfs", size=SIZE, label="b tree", uuid=UUID),
        "iso": FileSystem(kind="iso9660", size=SIZE, label="A CD", uuid="2026-01-02-03-04-05-06"),
        "luks1": FileSystem(kind="crypto_LUKS", uuid=UUID),
        "luks2": FileSystem(kind="crypto_LUKS", uuid=UUID, label="secret"),
        "lvm": FileSystem(kind="LVM2_member", size=SIZE, uuid="abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345"),
        "raid1.0": FileSystem(kind="linux_raid_member", uuid=UUID, label="host:0"),
        "raid1.1": FileSystem(kind="linux_raid_member", uuid=UUID, label="host:0"),
        "raid1.2": FileSystem(kind="linux_raid_member", uuid=UUID, label="host:0"),
        "raid0.90": FileSystem(kind="linux_raid_member", uuid=UUID),
        "squashfs": FileSystem(kind="squashfs", size=1000),
        "hibernated": FileSystem(kind="swsuspend"),
        "hibernated with pages of 64 KiB": FileSystem(kind="swsuspend"),
    }


@pytest.mark.parametrize("name", [*MADE, *MAKERS])
def test_as_blkid_says(name: str, tmp_path: Path) -> None:
    """Kind, label and id are those that blkid prints, and the size is that of the image."""
    path, size = tmp_path / name, SIZES.get(name, SIZE)
    with path.open("wb") as file:
        file.write(MADE.get(name, b""))
        file.truncate(size)
    if name in MAKERS:
        subprocess.run([*MAKERS[name], path], check=True, capture_output=True)
    told = subprocess.run(["blkid", "-p", "-o", "export", path], capture_output=True, text=True, check=True)
    says = dict(line.replace("\\", "").split("=", 1) for line in told.stdout.splitlines())
    with path.open("rb") as image:

        def read(offset: int, length: int) -> bytes:
            image.seek(offset)
            return image.read(length)

        found = identify(window(read, 0, size), size)
    assert found is not None
    assert (found.kind, found.uuid, found.label) == (says["TYPE"], says.get("UUID", ""), says.get("LABEL", ""))
    if name in MAKERS:
        assert found.size == size


@pytest.mark.parametrize("mark", [*marks.MEMBERS, *marks.FILE_SYSTEMS], ids=lambda mark: f"{mark.kind} {mark.place}")
def test_by_its_mark_alone(mark: marks.Mark, tmp_path: Path) -> None:
    """Content is told by its mark; blkid names it so, or wants more than the mark. A leftover of ext is a doubt."""
    image, path = bytearray(4 * MIB), tmp_path / "image"
    place = mark.place % len(image)
    image[place : place + len(mark.mark)] = mark.mark
    assert content(bytes(image), len(image)) == FileSystem(kind=mark.kind)
    path.write_bytes(image)
    asked = ["blkid", "-p", "-s", "TYPE", "-o", "value", str(path)]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert told.stdout.strip() in {mark.kind, ""}
    image[1080:1082] = b"\x53\xef"
    if mark in marks.FILE_SYSTEMS:
        with pytest.raises(DoubtError, match=f"it is marked as ext2 and as {mark.kind}"):
            content(bytes(image), len(image))
    else:
        assert content(bytes(image), len(image)) == FileSystem(kind=mark.kind)


def test_nothing_known() -> None:
    """Zeros, noise and a few bytes are nothing."""
    noise = random.Random(14).randbytes(256 << 10)
    assert [content(image, len(image)) for image in (b"", bytes(1), bytes(1023), bytes(MIB), noise)] == [None] * 5


def test_leftovers() -> None:
    """Marks of two file systems are a doubt; a member of a RAID is one whatever file system begins there."""
    both = bytearray(btrfs(SIZE))
    both[:8] = struct.pack(">4sI", b"XFSB", 4096)
    with pytest.raises(DoubtError, match=r"^it is marked as xfs and as btrfs$"):
        content(bytes(both), SIZE)
    mirror = bytearray(raid(SIZE - 8192))
    mirror[: len(both)] = both
    assert content(bytes(mirror), SIZE) == FileSystem(kind="linux_raid_member", uuid=UUID, label="host:0")


def test_pool_of_zfs() -> None:
    """A member of a pool has several copies of its root; a single one is left over."""
    assert content(zfs(), SIZE) == FileSystem(kind="zfs_member")
    assert content(zfs()[: 129 << 10], SIZE) is None


@pytest.mark.parametrize("name", [name for name, image in MADE.items() if len(image) < MIB])
def test_random_damage(name: str) -> None:
    """For any content, reads stay within the volume and nothing but a doubt is raised."""
    source = random.Random(name)
    pristine = MADE[name]
    marked = [place for place, value in enumerate(pristine[-8192:]) if value] or [0]
    for _ in range(60):
        image = bytearray(pristine)
        for _ in range(source.choice((1, 2, 8))):
            place = source.choice((source.choice(marked), source.randrange(512)))
            image[min(place, len(image) - 1)] = source.choice((0, 1, 0xFF, source.randrange(256)))
        size = source.choice((SIZE, len(image), len(image) // 2, 4096, 512, 511))
        try:
            found = content(bytes(image), size)
        except DoubtError as error:
            assert "marked as" in str(error)  # noqa: PT017 - a doubt about a range would be a flaw
        else:
            assert found is None or found.kind
