"""Maps of disks: what is left out are free blocks of trusted file systems, and nothing else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amistream.source.disks.disk_map import DiskMap, map_disk
from amistream.source.disks.ext4.used import used_blocks
from amistream.source.disks.facts import TOO_MANY
from amistream.source.disks.reading import Reader, window
from amistream.values import Extent
from support.volumes import MIB, ext4_image

SIZE, DISK = 4 * MIB, 16 * MIB
Entry = tuple[int, int, int]
"""Type, first byte and size of an entry of a boot record."""


@pytest.fixture(scope="module")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return ext4_image(tmp_path_factory.mktemp("map") / "ext4", SIZE).read_bytes()


@pytest.fixture(scope="module")
def disk(file_system: bytes) -> DiskMap:
    return mapped(disk_with(file_system, (0x83, MIB, 6 * MIB)))


def disk_with(file_system: bytes, *entries: Entry, at: int = MIB, size: int = DISK) -> bytes:
    """A disk of other bytes with a boot record, and the file system at one place."""
    disk = bytearray(b"x" * size)
    disk[:512] = bytes(512)
    for number, (kind, start, length) in enumerate(entries):
        struct.pack_into("<B3xB3xII", disk, 446 + 16 * number, 0, kind, start // 512, length // 512)
    disk[510:512] = b"\x55\xaa"
    disk[at : at + len(file_system)] = file_system
    return bytes(disk[:size])


def mapped(disk: bytes) -> DiskMap:
    return map_disk(reader(disk), len(disk))


def reader(disk: bytes) -> Reader:
    return window(lambda offset, length: disk[offset : offset + length], 0, len(disk))


def whole(size: int) -> list[Extent]:
    return [Extent(offset=0, length=size)]


def free_of(file_system: bytes, at: int) -> set[int]:
    """The numbers of the KiB that the file system at `at` does not use."""
    used = used_blocks(reader(file_system), len(file_system))
    kept = {kib for extent in used.extents for kib in range(extent.offset // 1024, extent.end // 1024)}
    return {at // 1024 + kib for kib in range(len(file_system) // 1024)} - {at // 1024 + kib for kib in kept}


def left_out_by(disk: DiskMap) -> set[int]:
    """The numbers of the KiB that are not read."""
    used = disk.used(whole(disk.size))
    kept = {kib for extent in used for kib in range(extent.offset // 1024, -(-extent.end // 1024))}
    return set(range(disk.size // 1024)) - kept


def test_free_blocks_of_a_partition(file_system: bytes) -> None:
    """Only the free blocks of the file system are left out: not the boot area, the tail, or another partition."""
    entries = (0x83, MIB, 6 * MIB), (0x82, 8 * MIB, MIB)
    found = mapped(disk_with(file_system, *entries))
    assert left_out_by(found) == free_of(file_system, MIB) != set()
    assert [(area.kind, area.doubt) for area in found.areas] == [("ext4", ""), ("", "")]


def test_a_file_system_without_a_table(file_system: bytes) -> None:
    """A disk that is a file system is mapped as one, with a tail behind it too."""
    assert left_out_by(mapped(file_system)) == free_of(file_system, 0)
    assert left_out_by(mapped(file_system + b"x" * MIB)) == free_of(file_system, 0)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([(0x83, MIB, SIZE), (0x83, 2 * MIB, MIB)], "overlaps"),
        ([(0x83, MIB, SIZE - 1024)], "bytes"),
        ([(0x83, MIB, DISK)], "ends at byte"),
    ],
    ids=["overlap", "larger than its partition", "beyond the disk"],
)
def test_kept_whole(entries: list[Entry], says: str, file_system: bytes) -> None:
    """A partition that overlaps another, ends beyond the disk, or is too small for its content is kept whole."""
    found = mapped(disk_with(file_system, *entries))
    assert left_out_by(found) == set()
    first = found.areas[0]
    assert first.partition is not None
    assert says in (first.doubt or first.partition.doubt)


def test_an_extended_partition(file_system: bytes) -> None:
    """A logical partition is mapped, and the records of the chain are kept."""
    record = bytearray(disk_with(b"", (0x83, MIB, SIZE), size=512))
    chained = bytearray(disk_with(file_system, (5, 2 * MIB, 12 * MIB), at=3 * MIB))
    chained[2 * MIB : 2 * MIB + 512] = record
    assert left_out_by(mapped(bytes(chained))) == free_of(file_system, 3 * MIB)


def test_a_damaged_file_system(file_system: bytes) -> None:
    """One wrong byte in the tables of a file system keeps its partition, and no other."""
    broken = bytearray(file_system)
    broken[1024 + 200] ^= 1  # the superblock has a checksum
    two = bytearray(disk_with(file_system, (0x83, MIB, SIZE), (0x83, 8 * MIB, SIZE)))
    two[8 * MIB : 8 * MIB + SIZE] = broken
    found = mapped(bytes(two))
    assert left_out_by(found) == free_of(file_system, MIB)
    assert [bool(area.doubt) for area in found.areas] == [False, True]


def test_too_many_pieces(file_system: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions are kept whole once their used blocks are in more pieces together than are remembered."""
    two = bytearray(disk_with(file_system, (0x83, MIB, SIZE), (0x83, 8 * MIB, SIZE)))
    two[8 * MIB : 8 * MIB + SIZE] = file_system
    pieces = len(used_blocks(reader(file_system), SIZE).extents)
    monkeypatch.setattr("amistream.source.disks.disk_map.MOST_EXTENTS", 2 * pieces - 1)
    found = mapped(bytes(two))
    assert left_out_by(found) == free_of(file_system, MIB)
    assert [area.doubt for area in found.areas] == ["", TOO_MANY]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 5000, MIB])
def test_too_small_for_anything(size: int) -> None:
    """A disk too small for a table or a file system is kept."""
    assert left_out_by(mapped(bytes(size))) == set()
    assert mapped(bytes(size)).used(whole(size) if size else []) == tuple(whole(size) if size else ())


@given(bounds=st.sets(st.integers(0, DISK // 512), max_size=40))
def test_within_the_data(bounds: set[int], disk: DiskMap) -> None:
    """Reads stay in the data and outside of free blocks; all other bytes are counted once, by what they are."""
    places = [512 * each for each in sorted(bounds)]
    data = [Extent(offset=start, length=end - start) for start, end in zip(places[::2], places[1::2], strict=False)]
    used, free = disk.used(data), left_out_by(disk)
    wanted = {n for each in data for n in range(each.offset // 512, each.end // 512) if n // 2 not in free}
    assert {n for each in used for n in range(each.offset // 512, each.end // 512)} == wanted
    left_out = disk.left_out(used)
    assert left_out.total == DISK - 512 * len(wanted)
    assert left_out.holes == left_out.total - 1024 * len(free)
