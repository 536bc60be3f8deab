"""File systems that are damaged, forged or not settled: nothing is left out of them."""

from __future__ import annotations

import re
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.ext4.checksums import START, checksum
from amistream.source.disks.ext4.superblock import read_superblock
from amistream.source.disks.ext4.used import used_blocks
from amistream.source.disks.reading import DoubtError
from source.disks.ext4.filled import Filled, blocks_of, looked_at, make, opened, run, used

if TYPE_CHECKING:
    from pathlib import Path

    from source.disks.ext4.conftest import GetImage

SUPERBLOCK = 1024
CHECKED = ["ext4, 1 KiB", "ext4, 4 KiB", "uninit_bg", "small groups", "bigalloc"]
UNCHECKED = ["no checksums", "ext3", "ext2"]


def debugfs(here: Filled, command: str) -> str:
    return subprocess.run(["debugfs", "-R", command, here.path], capture_output=True, text=True, check=True).stdout


def inode_place(here: Filled, name: str) -> int:
    """The offset of a file's inode in the image."""
    found = re.search(r"located at block (\d+), offset 0x(\w+)", debugfs(here, f"imap {name}"))
    assert found
    return int(found[1]) * here.block_size + int(found[2], 16)


def tree_blocks(here: Filled, name: str) -> list[int]:
    """The blocks of a file's extent tree, from the top."""
    return [
        int(block)
        for block in re.findall(r"^ \d/.* - +\d+ +(\d+) +\d+$", debugfs(here, f"dump_extents -n {name}"), re.MULTILINE)
    ]


def first_bitmap(here: Filled, of: str = "block") -> int:
    found = re.search(rf"{of} bitmap at (\d+)", run("dumpe2fs", str(here.path)), re.IGNORECASE)
    assert found
    return int(found[1]) * here.block_size


def pack(number: int, length: int = 4) -> bytes:
    return number.to_bytes(length, "little")


@pytest.mark.parametrize("variant", [*CHECKED, *UNCHECKED])
def test_cleared_bitmap(image: GetImage, variant: str) -> None:
    """A bitmap that lost four bytes is doubted, by its checksum or by the count."""
    here = image(variant)
    with pytest.raises(DoubtError, match="the block bitmap of group 0 has"):
        used(here.path, {first_bitmap(here) + 8: bytes(4)})


@pytest.mark.parametrize("variant", [*UNCHECKED, "uninit_bg"])
def test_moved_bit(image: GetImage, variant: str) -> None:
    """A used bit in the place of another one is found where only the blocks of the files can show it."""
    here = image(variant)
    with opened(here.path) as read:
        start = read_superblock(read).first_block
    file_block = int(debugfs(here, "bmap file02 0"))
    free_block = next(block for block in range(file_block, 1 << 20) if block not in here.used)
    place = first_bitmap(here)
    raw = bytearray(here.path.read_bytes()[place : place + here.block_size])
    for block in (file_block - start, free_block - start):
        raw[block // 8] ^= 1 << block % 8
    with pytest.raises(DoubtError, match="calls blocks free that are used"):
        used(here.path, {place: bytes(raw)})


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0x38, bytes(2), "no magic number"),
        (0x00, bytes(1024), "no magic number"),
        (0x3A, pack(3, 2), "found errors"),
        (0x3A, pack(0, 2), "not marked as clean"),
        (0x3A, pack(5, 2), "not marked as clean"),
        (0x60, pack(0x246), "mounted or was not unmounted"),
        (0x60, pack(0x242 | 1 << 20), r"not understood \(FEATURE_I20\)"),
        (0x60, pack(0x24A), r"not understood \(journal_dev\)"),
        (0x64, pack(0x4003), r"not understood \(shared_blocks\)"),
        (0x64, pack(0x80000003), r"not understood \(FEATURE_R31\)"),
        (0x60, pack(0x2C2), "size of group descriptors"),
        (0x04, pack(1 << 31), "does not fit its groups"),
        (0x04, pack(0), "number of blocks"),
        (0x14, pack(7), "number of blocks"),
        (0x18, pack(6), "larger than a page"),
        (0x18, pack(99), "size of blocks"),
        (0x20, pack(0), "size of groups"),
        (0x20, pack(8), "size of groups"),
        (0x20, pack(32764), "size of groups"),
        (0x28, pack(0), "inodes in a group"),
        (0x28, pack(1 << 31), "inodes in a group"),
        (0x54, pack(0), "first inode"),
        (0x58, pack(0, 2), "size of inodes"),
        (0x58, pack(32768, 2), "size of inodes"),
        (0x0C, pack(77), "number of free blocks"),
        (0x10, pack(77), "number of free inodes"),
        (0xE0, pack(1 << 31), "beyond its end"),
        (0xE0, pack(0), "on another device"),
        (0x64, pack(0x0413), "two kinds of checksums"),
        (0x64, pack(0x0403), "wrong checksum"),
    ],
)
def test_superblock(image: GetImage, place: int, new: bytes, why: str) -> None:
    """A superblock with an impossible number, an unknown feature or an unsettled state is doubted, and says why."""
    with pytest.raises(DoubtError, match=why):
        used(image("ext3").path, {SUPERBLOCK + place: new})


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0xFE, pack(7, 2), "size of group descriptors"),
        (0xFE, pack(32768, 2), "size of group descriptors"),
        (0x150, pack(1 << 8), "does not fit its groups"),
        (0x158, pack(1), "more free blocks"),
    ],
)
def test_superblock_of_64_bits(image: GetImage, place: int, new: bytes, why: str) -> None:
    """The fields that only a file system of 64 bits has are checked too."""
    with pytest.raises(DoubtError, match=why):
        used(image("no checksums").path, {SUPERBLOCK + place: new})


def test_beyond_the_device(image: GetImage) -> None:
    """A superblock of 2^43 bytes, right in itself, is refused by the size before anything is read."""
    groups = 1 << 20
    blocks = groups * 8192 + 1
    changes = {
        SUPERBLOCK: pack(groups * 8),
        SUPERBLOCK + 0x04: pack(blocks & 0xFFFFFFFF),
        SUPERBLOCK + 0x28: pack(8),
        SUPERBLOCK + 0x150: pack(blocks >> 32),
    }
    with pytest.raises(DoubtError, match="bytes, and only"):
        used(image("no checksums").path, changes)


@pytest.mark.parametrize("variant", ["ext4, 4 KiB", "ext3", "bigalloc"])
def test_truncated(image: GetImage, variant: str) -> None:
    """An image that is shorter than its file system is doubted, even by a block."""
    here = image(variant)
    with opened(here.path) as read, pytest.raises(DoubtError, match="bytes, and only"):
        used_blocks(read, here.path.stat().st_size - here.block_size)


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0x00, pack(1 << 31), "refers to blocks where none of its own can be"),
        (0x08, pack(24575), "refers to blocks where none of its own can be"),
        (0x08, pack(0), "refers to blocks where none of its own can be"),
        (0x04, pack(2), "belong to two owners"),
        (0x0C, pack(9, 2), "number of free blocks"),
        (0x0E, pack(9, 2), "number of free inodes"),
        (0x12, pack(2, 2), "flags that need checksums"),
        (0x12, pack(8, 2), "unknown flags"),
    ],
)
def test_descriptor(image: GetImage, place: int, new: bytes, why: str) -> None:
    """A group descriptor that refers to what cannot be is doubted, and says why."""
    here = image("no checksums")
    with pytest.raises(DoubtError, match=why):
        used(here.path, {2 * here.block_size + place: new})


def test_descriptor_of_another_group(image: GetImage) -> None:
    """Without flex_bg, the tables of a group lie in that group."""
    here = image("ext2")
    free = next(block for block in range(1, 8192) if block not in here.used)
    with pytest.raises(DoubtError, match="group 1 refers to blocks where none of its own can be"):
        used(here.path, {2 * here.block_size + 32 + 0x04: pack(free)})


@pytest.mark.parametrize("variant", CHECKED)
def test_descriptor_checksum(image: GetImage, variant: str) -> None:
    """A group descriptor with one other bit has a wrong checksum."""
    here = image(variant)
    table = max(here.block_size, 2048)
    old = here.path.read_bytes()[table + 0x10]
    with pytest.raises(DoubtError, match="the descriptor of group 0 has a wrong checksum"):
        used(here.path, {table + 0x10: bytes([old ^ 1])})


def header(*, entries: int, depth: int, magic: int = 0xF30A, room: int = 4) -> bytes:
    return struct.pack("<4HI", magic, entries, room, depth, 0)


def index(block: int, logical: int = 0) -> bytes:
    return struct.pack("<IIHH", logical, block, 0, 0)


def extent(start: int, *, logical: int = 0, length: int = 1, high: int = 0) -> bytes:
    return struct.pack("<IHHI", logical, length, high, start)


@pytest.mark.parametrize(
    ("root", "why"),
    [
        (header(entries=1, depth=200) + index(2), "is damaged"),
        (header(entries=1, depth=0, magic=0xF30B) + extent(9000), "is damaged"),
        (header(entries=5, depth=0) + extent(9000), "is damaged"),
        (header(entries=9, depth=0, room=9) + extent(9000), "is damaged"),
        (header(entries=0, depth=1), "is damaged"),
        (header(entries=1, depth=1) + index(9000), "is damaged"),
        (header(entries=1, depth=1) + index(1 << 31), "beyond the end"),
        (header(entries=1, depth=1) + index(0), "beyond the end"),
        (header(entries=2, depth=1) + index(9000, 5) + index(9001, 5), "is damaged"),
        (header(entries=1, depth=0) + extent(0), "beyond the end"),
        (header(entries=1, depth=0) + extent(24575, length=2), "beyond the end"),
        (header(entries=1, depth=0) + extent(9000, high=1), "beyond the end"),
        (header(entries=1, depth=0) + extent(9000, length=0), "is damaged"),
        (header(entries=2, depth=0) + extent(9000, length=2) + extent(9100, logical=1), "is damaged"),
        (header(entries=2, depth=0) + extent(9000) + extent(9000, logical=1), "belong to two owners"),
        (header(entries=1, depth=0) + extent(2), "belong to two owners"),
        (header(entries=1, depth=0) + extent(9000, length=32768 + 1), "calls blocks free"),
        (header(entries=1, depth=0) + extent(9000), "calls blocks free"),
    ],
)
def test_extents(image: GetImage, root: bytes, why: str) -> None:
    """A tree of extents that is wrong in itself, or claims blocks of others or free ones, is doubted."""
    here = image("no checksums")
    assert 9000 not in here.used
    with pytest.raises(DoubtError, match=why):
        used(here.path, {inode_place(here, "file02") + 40: root.ljust(60, b"\0")})


def test_loop_of_extents(image: GetImage) -> None:
    """A tree of extents that leads back to its own block is found before the block is read again."""
    here = image("no checksums")
    (block, *_) = tree_blocks(here, "pieces")
    node = header(entries=1, depth=4, room=84) + index(block)
    changes = {
        inode_place(here, "pieces") + 40: header(entries=1, depth=5) + index(block),
        block * here.block_size: node,
    }
    with pytest.raises(DoubtError, match="belong to two owners"):
        used(here.path, changes)


@pytest.mark.parametrize(
    ("pointer", "value", "why"),
    [
        (0, 1 << 30, "beyond the end"),
        (12, 2, "belong to two owners"),
        (13, 6143, "calls blocks free"),
        (1, 1, "two owners"),
    ],
)
def test_pointers(image: GetImage, pointer: int, value: int, why: str) -> None:
    """The older map of blocks is checked in the same way."""
    here = image("ext3")
    assert 6143 not in here.used
    with pytest.raises(DoubtError, match=why):
        used(here.path, {inode_place(here, "file02") + 40 + 4 * pointer: pack(value)})


@pytest.mark.parametrize(
    "variant", ["ext4, 1 KiB", "ext4, 4 KiB", "inodes of 128 bytes", "inodes of 1 KiB", "csum_seed"]
)
def test_checksums_of_the_walk(image: GetImage, variant: str) -> None:
    """An inode or an extent block with one other bit has a wrong checksum."""
    here = image(variant)
    raw = here.path.read_bytes()
    inode, block = inode_place(here, "file02") + 8, tree_blocks(here, "pieces")[-1] * here.block_size + 20
    with pytest.raises(DoubtError, match=r"inode \d+ has a wrong checksum"):
        used(here.path, {inode: bytes([raw[inode] ^ 1])})
    with pytest.raises(DoubtError, match=r"an extent block of inode \d+ has a wrong checksum"):
        used(here.path, {block: bytes([raw[block] ^ 1])})


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0, bytes(4), "no superblock"),
        (0x1C, b"\0\0\0\1", "has to be replayed"),
        (0x20, b"\0\0\0\5", "has to be replayed"),
    ],
)
def test_journal(image: GetImage, place: int, new: bytes, why: str) -> None:
    """A journal with transactions is doubted though the superblock does not speak of them."""
    here = image("ext3")
    block = int(debugfs(here, "bmap <8> 0"))
    with pytest.raises(DoubtError, match=why):
        used(here.path, {block * here.block_size + place: new})


def test_journal_with_a_hole(image: GetImage) -> None:
    """A journal whose first block is missing is doubted."""
    here = image("ext3")
    with pytest.raises(DoubtError, match="no first block"):
        used(here.path, {inode_place(here, "<8>") + 40: bytes(4)})


def test_unwritten_by_accident(image: GetImage) -> None:
    """Without checksums, data whose extent got the bit of unwritten ones is kept."""
    here = image("no checksums")
    place = inode_place(here, "file02") + 40 + 12 + 4
    length = int.from_bytes(here.path.read_bytes()[place : place + 2], "little")
    found = used(here.path, {place: pack(length | 0x8000, 2)})
    assert blocks_of(found, here.block_size) == here.used - here.unused_tables
    assert found.preallocated == 0


def test_padding(image: GetImage) -> None:
    """A free block behind the end of the file system is a bitmap that nobody wrote so."""
    here = image("no checksums")
    last = re.findall(r"Block bitmap at (\d+)", run("dumpe2fs", str(here.path)))[-1]
    with pytest.raises(DoubtError, match="behind the end of the file system"):
        used(here.path, {(int(last) + 1) * here.block_size - 1: b"\x7f"})


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0, bytes(2), "is used and of no kind"),
        (104, pack(9000), "calls blocks free"),
        (104, pack(1), "belong to two owners"),
        (104, pack(24576), "beyond the end"),
    ],
)
def test_inode(image: GetImage, place: int, new: bytes, why: str) -> None:
    """An inode of no kind is doubted, and so is one whose block of attributes is free or that of others."""
    here = image("no checksums")
    with pytest.raises(DoubtError, match=why):
        used(here.path, {inode_place(here, "file02") + place: new})


def sealed(here: Filled, changes: dict[int, bytes]) -> dict[int, bytes]:
    """Change the superblock, and make its checksum right."""
    raw = bytearray(here.path.read_bytes()[SUPERBLOCK : SUPERBLOCK + 0x3FC])
    for place, new in changes.items():
        raw[place : place + len(new)] = new
    return {SUPERBLOCK: bytes(raw) + pack(checksum(bytes(raw), START))}


@pytest.mark.parametrize(
    ("variant", "place", "new", "why"),
    [
        ("ext4, 4 KiB", 0x175, b"\2", "wrong checksum"),
        ("bigalloc", 0x24, pack(16384), "no whole number of clusters"),
    ],
)
def test_sealed_superblock(image: GetImage, variant: str, place: int, new: bytes, why: str) -> None:
    """A superblock is not believed for its checksum alone."""
    here = image(variant)
    with pytest.raises(DoubtError, match=why):
        used(here.path, sealed(here, {place: new}))


def test_block_of_other_hosts(image: GetImage) -> None:
    """The block in which hosts tell each other that they use the file system must be used, and nobody else's."""
    here = image("mmp")
    free = max(set(range(max(here.used))) - here.used)
    for block, why in ((free, "calls blocks free"), (1, "belong to two owners")):
        with pytest.raises(DoubtError, match=why):
            used(here.path, sealed(here, {0x168: pack(block, 8)}))


def test_last_group(image: GetImage) -> None:
    """A last group that is shorter than its own copy of superblock and descriptors is doubted."""
    here = image("no sparse_super")
    with pytest.raises(DoubtError, match="no room for its own tables"):
        used(here.path, sealed(here, {0x04: pack(1 + 2 * 8192 + 1), 0x0C: pack(9)}))


@pytest.mark.parametrize("bitmap", ["block", "inode"])
@pytest.mark.parametrize("variant", ["ext4, 1 KiB", "32 bit"])
def test_checksum_of_a_bitmap(image: GetImage, variant: str, bitmap: str) -> None:
    """A bitmap with as many free bits as before has a wrong checksum."""
    here = image(variant)
    place = first_bitmap(here, bitmap)
    raw = here.path.read_bytes()[place : place + here.block_size]
    used_byte = next(number for number, byte in enumerate(raw) if byte == 0xFF)
    free_byte = next(number for number, byte in enumerate(raw) if byte == 0)
    with pytest.raises(DoubtError, match=f"the {bitmap} bitmap of group 0 has a wrong checksum"):
        used(here.path, {place + used_byte: b"\0", place + free_byte: b"\xff"})


def test_inode_bitmap(image: GetImage) -> None:
    """An inode bitmap is compared with the free and the unused inodes of its descriptor."""
    here = image("uninit_bg")
    place = first_bitmap(here, "inode")
    with pytest.raises(DoubtError, match="another number of free inodes"):
        used(here.path, {place: b"\xfe"})
    with pytest.raises(DoubtError, match="uses inodes that its descriptor calls unused"):
        used(here.path, {place: b"\xfe", place + 200: b"\x01"})


def test_unwritten_directory(tmp_path: Path, tree: Path) -> None:
    """Only the blocks of files are left out as unwritten: in a directory they are damage."""
    here = looked_at(make(tmp_path / "image", "ext4, 4 KiB", tree, "fallocate folder 1 3"))
    found = used(here.path)
    assert found.keeps_preallocated
    assert blocks_of(found, here.block_size) == here.used - here.unused_tables - here.unwritten
