"""Boot loaders of disks, made of GRUB's own files at the places where grub-install puts them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from amistream.source.disks.loader import BootLoader, Core, CorePlace, LoaderKind, find_loader
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import window
from support.boot_disks import BootDisk, Table, partitioned, write_loader
from support.volumes import MIB, ext4_image

SIZE = 8 * MIB


def disk(folder: Path, table: Table) -> BootDisk:
    """A disk of zeros with a table and GRUB."""
    path = folder / table
    with path.open("wb") as file:
        file.truncate(SIZE)
    made = partitioned(path, table)
    write_loader(made)
    return made


@pytest.fixture(scope="module")
def mbr(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return disk(tmp_path_factory.mktemp("disks"), "mbr").path.read_bytes()


def moved(image: bytes, sector: int) -> bytearray:
    """The same disk with its core at another sector, as a list of blocks names it."""
    core = image[512 : 512 * 100]
    found = bytearray(image)
    found[512 : 512 * 100] = bytes(len(core))
    found[512 * sector : 512 * sector + len(core)] = core
    struct.pack_into("<Q", found, 0x5C, sector)
    struct.pack_into("<Q", found, 512 * sector + 500, sector + 1)
    return found


def loader_of(image: bytes | bytearray) -> BootLoader:
    read = window(lambda start, length: bytes(image[start : start + length]), 0, len(image))
    return find_loader(read, read_table(read, len(image)), len(image))


def found(kind: LoaderKind, core: Core | None = None, efi: int | None = None) -> BootLoader:
    return BootLoader(kind=kind, core=core, efi_partition=efi)


def grub(sector: int, place: CorePlace, partition: int | None = None, *, whole: bool = True) -> Core:
    return Core(offset=512 * sector, place=place, partition=partition, whole=whole)


def test_grub_in_the_gap(mbr: bytes) -> None:
    """GRUB 2 of an MBR has its core behind the first sector."""
    assert loader_of(mbr) == found(LoaderKind.GRUB_2, grub(1, CorePlace.GAP))


def test_grub_in_its_partition(tmp_path: Path) -> None:
    """GRUB 2 of a GPT has its core in the BIOS boot partition; UEFI boots from another one."""
    image = disk(tmp_path, "gpt").path.read_bytes()
    assert loader_of(image) == found(LoaderKind.GRUB_2, grub(2048, CorePlace.BIOS_BOOT, 14), 15)


def test_grub_in_a_file(tmp_path: Path, mbr: bytes) -> None:
    """A core within a partition, or in a bare file system, is found by a list of blocks."""
    image = moved(mbr, 5000)
    assert loader_of(image) == found(LoaderKind.GRUB_2, grub(5000, CorePlace.BLOCK_LIST, 1))
    bare = bytearray(ext4_image(tmp_path / "ext4", SIZE).read_bytes())
    bare[:440], bare[510:512], bare[512 * 5000 : 512 * 5100] = image[:440], b"\x55\xaa", image[512 * 5000 : 512 * 5100]
    assert loader_of(bare) == found(LoaderKind.GRUB_2, grub(5000, CorePlace.BLOCK_LIST))


@pytest.mark.parametrize(
    ("place", "data"),
    [
        (0, bytes(512)),
        (0, bytes(1 << 19)),
        (512, bytes(1 << 19)),
        (8192, bytes(8192)),
        (500, struct.pack("<QH", SIZE // 512, 1)),
        (500, struct.pack("<QH", 1 << 63, 1)),
        (500, struct.pack("<QH", 2, 0xFFFF)),
        (508, bytes(2)),
    ],
)
def test_a_damaged_core(mbr: bytes, place: int, data: bytes) -> None:
    """A core without its first sector, with zeros in the middle, or with an impossible list is not whole."""
    image = bytearray(mbr)
    image[512 + place : 512 + place + len(data)] = data
    assert loader_of(image) == found(LoaderKind.GRUB_2, grub(1, CorePlace.GAP, whole=False))


@pytest.mark.parametrize("sector", [0, SIZE // 512, (1 << 64) - 1])
def test_a_core_elsewhere(mbr: bytes, sector: int) -> None:
    """A core beyond the disk's end, or none at all, is not whole."""
    image = bytearray(mbr)
    struct.pack_into("<Q", image, 0x5C, sector)
    assert loader_of(image) == found(LoaderKind.GRUB_2, grub(sector, CorePlace.OUTSIDE, whole=False))


def legacy(mbr: bytes, sector: int) -> bytearray:
    """A disk with the fields of GRUB legacy, whose stage begins at a sector and has two more."""
    image = bytearray(mbr)
    image[:440] = bytes(440)
    image[0x17F:0x184] = b"GRUB "
    struct.pack_into("<I", image, 0x44, sector)
    stage = bytearray(b"Loading stage1.5".ljust(1536, b"\1"))
    stage[256:512] = bytes(256)
    struct.pack_into("<IHH", stage, 504, sector + 1, 2, 0x220)
    image[512 * sector : 512 * sector + len(stage)] = stage
    return image


def test_grub_legacy(mbr: bytes) -> None:
    """GRUB legacy has its stage 1.5 in the gap, or finds stage 2 by the blocks of its file."""
    assert loader_of(legacy(mbr, 1)) == found(LoaderKind.GRUB_LEGACY, grub(1, CorePlace.GAP))
    assert loader_of(legacy(mbr, 5000)) == found(LoaderKind.GRUB_LEGACY, grub(5000, CorePlace.BLOCK_LIST, 1))
    image = legacy(mbr, 5000)
    image[512 * 5000 : 512 * 5001] = bytes(512)
    damaged = grub(5000, CorePlace.BLOCK_LIST, 1, whole=False)
    assert loader_of(image) == found(LoaderKind.GRUB_LEGACY, damaged)


def test_others(mbr: bytes) -> None:
    """Code that is not GRUB's is unknown; zeros, and a file system's first bytes, are none."""
    image = bytearray(mbr)
    image[:440] = bytes(440)
    assert loader_of(image) == found(LoaderKind.NONE)
    image[:3] = b"\xeb\x48\x90"
    assert loader_of(image) == found(LoaderKind.OTHER)
    for nothing in (b"", bytes(511), bytes(SIZE), b"XFSB" + bytes(SIZE)):
        assert loader_of(nothing) == found(LoaderKind.NONE)
