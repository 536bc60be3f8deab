"""Tables that are damaged, hostile or unknown: everything is kept, in bounded time."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.reading import DoubtError
from source.disks.xfs.damaged import Image
from source.disks.xfs.filled import free_in

if TYPE_CHECKING:
    from pathlib import Path

FLIPS = 100
EVERY_32_BITS = b"\xff" * 4


@pytest.fixture(params=["version 5", "version 4"])
def image(request: pytest.FixtureRequest, full: Path, full_4: Path) -> Image:
    return Image(full if request.param == "version 5" else full_4)


SUPERBLOCK = {
    "mark": (0, b"XFSX"),
    "block size": (4, struct.pack(">I", 3000)),
    "huge block size": (4, struct.pack(">I", 1 << 31)),
    "fewer blocks": (8, struct.pack(">Q", 70_000)),
    "many blocks": (8, struct.pack(">Q", 1 << 60)),
    "realtime device": (16, struct.pack(">Q", 4096)),
    "no groups": (88, bytes(4)),
    "many groups": (88, EVERY_32_BITS),
    "many small groups": (84, struct.pack(">II", 1, EVERY_32_BITS[0] << 24)),
    "version": (100, struct.pack(">H", 0xB4A6)),
    "sector size": (102, struct.pack(">H", 3)),
    "unfinished": (126, b"\1"),
    "log elsewhere": (48, bytes(8)),
    "log out of its group": (48, struct.pack(">Q", 1)),
    "log out of it": (48, EVERY_32_BITS * 2),
    "no log": (96, bytes(4)),
    "free blocks": (144, struct.pack(">Q", 12)),
}


@pytest.mark.parametrize("change", SUPERBLOCK.values(), ids=SUPERBLOCK)
def test_a_superblock_that_does_not_fit(image: Image, change: tuple[int, bytes]) -> None:
    """A superblock that contradicts the rest, or names what is not read, is a doubt."""
    image.set_superblock(*change)
    with pytest.raises(DoubtError):
        image.used()


@pytest.mark.parametrize("change", [(212, 0x10), (216, 0x10), (216, 0x100), (220, 0x2)], ids=str)
def test_unknown_features_and_a_repair(full: Path, change: tuple[int, int]) -> None:
    """A feature that is not known, or the wish for xfs_repair, is a doubt."""
    image = Image(full)
    at, bit = change
    image.set_superblock(at, struct.pack(">I", image.number(image.read(0, 512), at) | bit))
    with pytest.raises(DoubtError, match=r"not known|needs xfs_repair"):
        image.used()


def test_unknown_flags_of_version_4(full_4: Path) -> None:
    """A flag of version 4 that is not known is a doubt."""
    image = Image(full_4)
    image.set_superblock(200, struct.pack(">I", 0x1000))
    with pytest.raises(DoubtError, match="not known"):
        image.used()


def test_no_superblock(image: Image) -> None:
    """Zeros in place of the superblock are a doubt."""
    image.write(0, bytes(512))
    with pytest.raises(DoubtError):
        image.used()


def test_a_file_system_that_is_cut(image: Image) -> None:
    """A file system beyond the end of its partition is a doubt."""
    with pytest.raises(DoubtError, match="only"):
        image.used(size=image.size - 4096)


GROUP = {
    "mark": (0, b"XAGX"),
    "number": (8, struct.pack(">I", 1)),
    "length": (12, struct.pack(">I", 1 << 20)),
    "root": (16, struct.pack(">I", 0)),
    "root out of it": (16, EVERY_32_BITS),
    "the other root": (20, struct.pack(">I", 5)),
    "no levels": (28, bytes(4)),
    "200 levels": (28, struct.pack(">I", 200)),
    "one level more": (28, struct.pack(">I", 3)),
    "reserved blocks": (48, struct.pack(">I", 99)),
    "free blocks": (52, struct.pack(">I", 7)),
}


@pytest.mark.parametrize("change", GROUP.values(), ids=GROUP)
def test_a_header_of_a_group_that_does_not_fit(image: Image, change: tuple[int, bytes]) -> None:
    """A header of an allocation group that contradicts the trees or the superblock is a doubt, whatever its sum."""
    image.set_group(*change)
    with pytest.raises(DoubtError):
        image.used()


def test_the_sums_of_version_5(full: Path) -> None:
    """A changed byte in the superblock, in a header of a group or in a tree is found by the checksum."""
    root = Image(full).root * Image(full).block
    for offset in (200, Image(full).sector + 300, root + 900):
        image = Image(full)
        image.flip(offset, 3)
        with pytest.raises(DoubtError, match="checksum"):
            image.used()


NODE = {
    "mark": (0, b"AB3X"),
    "level 200": (4, struct.pack(">H", 200)),
    "empty": (6, bytes(2)),
    "overfull": (6, b"\xff\xff"),
    "left sibling": (8, struct.pack(">I", 7)),
    "right sibling out of it": (12, struct.pack(">I", 0xFFFFFFF0)),
}


@pytest.mark.parametrize("change", NODE.values(), ids=NODE)
def test_a_tree_that_does_not_fit(image: Image, change: tuple[int, bytes]) -> None:
    """A block of a tree with a wrong mark, level, count or sibling is a doubt, whatever its sum."""
    image.set_root(*change)
    with pytest.raises(DoubtError):
        image.used()


@pytest.mark.parametrize("change", [(16, bytes(8)), (32, bytes(16)), (48, EVERY_32_BITS)], ids=str)
def test_a_block_of_another_tree(full: Path, change: tuple[int, bytes]) -> None:
    """A tree block of another place, file system or group is a doubt."""
    image = Image(full)
    image.set_root(*change)
    with pytest.raises(DoubtError, match="another"):
        image.used()


def test_a_tree_in_a_loop(full: Path) -> None:
    """A tree whose root is its own child, or whose children are one block, ends as a doubt."""
    image = Image(full)
    image.set_root(image.pointer(0), struct.pack(">I", image.root))
    with pytest.raises(DoubtError, match="damaged"):
        image.used()
    image = Image(full)
    child = image.read(image.root * image.block + image.pointer(0), 4)
    image.set_root(image.pointer(1), child)
    with pytest.raises(DoubtError, match="damaged"):
        image.used()


def test_metadata_newer_than_the_log(full: Path) -> None:
    """A header of a group that was changed after the log's end is of another moment than the log."""
    image = Image(full)
    image.set_group(208, struct.pack(">Q", 2 << 32))
    with pytest.raises(DoubtError, match="newer than the log"):
        image.used()


def test_a_free_extent_moved_in_one_tree(full_4: Path) -> None:
    """Without checksums, a free extent that was moved over used blocks is found by the other tree."""
    image = Image(full_4)
    at = image.root * image.block + image.header
    first, count = struct.unpack(">II", image.read(at, 8))
    image.write(at, struct.pack(">II", first - 1, count))
    with pytest.raises(DoubtError, match="differ"):
        image.used()


def test_flipped_bits_never_free_a_used_block(image: Image, full: Path, full_4: Path) -> None:
    """One flipped bit in metadata is a doubt, or the map keeps all that the sound file system uses."""
    free = free_in(image.used())
    source = random.Random(14)
    for _ in range(FLIPS):
        damaged = Image(full if image.has_sums else full_4)
        offset, bit = place_of_metadata(damaged, source), source.randrange(8)
        damaged.flip(offset, bit)
        try:
            found = free_in(damaged.used())
        except DoubtError:
            continue
        assert all(is_within(extent, free) for extent in found), f"byte {offset}, bit {bit}"


def place_of_metadata(image: Image, source: random.Random) -> int:
    """A byte of the superblock, a header, a tree, the end of the log, or anywhere in the first 4 MiB."""
    places = [(0, 512), (image.sector, 512), (image.root * image.block, image.block), (image.log, 4096), (0, 4 << 20)]
    start, length = source.choice(places)
    return start + source.randrange(length)


def is_within(extent: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    start, length = extent
    return any(first <= start and start + length <= first + size for first, size in others)
