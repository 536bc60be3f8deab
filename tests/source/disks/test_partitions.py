"""Partition tables of disks, right and wrong; sfdisk and sgdisk are the referees."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from amistream.source.disks.facts import PartitionTable, TableKind
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import Reader, window
from support.volumes import ext4_image

MIB = 1 << 20
SIZE = 32 * MIB
SECTORS = SIZE // 512

MBR = """
label: dos
label-id: 0xb0070001
start=2048, size=8192, type=83, bootable
start=10240, size=4096, type=82
start=16384, size=40960, type=5
start=18432, size=2048, type=83
start=22528, size=4096, type=8e
"""
GPT = """
label: gpt
label-id: 11111111-2222-3333-4444-555555555555
unit: sectors
1 : start=8192, size=16384, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="root", attrs="LegacyBIOSBootable"
14 : start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
15 : start=4096, size=4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="Systempartition \u00fc"
"""


def disk(path: Path, script: str) -> bytearray:
    """Make a disk whose table sfdisk writes."""
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["sfdisk", "--quiet", path], input=script, text=True, check=True)
    return bytearray(path.read_bytes())


def reader(image: bytes | bytearray) -> Reader:
    return window(lambda offset, length: bytes(image[offset : offset + length]), 0, len(image))


def table_of(image: bytes | bytearray) -> PartitionTable:
    return read_table(reader(image), len(image))


def counted(image: bytes | bytearray, lengths: list[int]) -> Reader:
    """A reader that notes the length of each read."""
    read = reader(image)

    def read_and_note(offset: int, length: int) -> bytes:
        lengths.append(length)
        return read(offset, length)

    return read_and_note


def trusted(table: PartitionTable) -> list[int]:
    return [each.number for each in table.partitions if each.trusted]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disks")


@pytest.fixture(scope="module")
def mbr(folder: Path) -> bytes:
    return bytes(disk(folder / "mbr", MBR))


@pytest.fixture(scope="module")
def gpt(folder: Path) -> bytes:
    return bytes(disk(folder / "gpt", GPT))


@pytest.mark.parametrize("kind", ["mbr", "gpt"])
def test_as_sfdisk_says(kind: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """Number, place, type, name, id and flag of every partition are those that sfdisk reports."""
    table = table_of(request.getfixturevalue(kind))
    told = subprocess.run(["sfdisk", "--json", folder / kind], capture_output=True, text=True, check=True)
    says = json.loads(told.stdout)["partitiontable"]
    assert (table.kind.value, table.sector_size, table.doubts) == (kind, 512, ())
    assert table.disk_id == says["id"].removeprefix("0x").lower()
    for ours, theirs in zip(table.partitions, says["partitions"], strict=True):
        assert theirs["node"] == f"{folder / kind}{ours.number}"
        assert (ours.offset, ours.size) == (512 * theirs["start"], 512 * theirs["size"])
        assert ours.type_id.removeprefix("0x") == theirs["type"].lower()
        assert (ours.name, ours.trusted) == (theirs.get("name", ""), True)
        assert ours.uuid == theirs.get("uuid", f"b0070001-{ours.number:02x}").lower()
        assert ours.bootable == (theirs.get("bootable", False) or "LegacyBIOSBootable" in theirs.get("attrs", ""))


def test_words(mbr: bytes, gpt: bytes) -> None:
    """The usual types have words, and an extended partition is marked."""
    assert [each.type_name for each in table_of(mbr).partitions] == [
        "Linux",
        "Linux swap",
        "extended",
        "Linux",
        "Linux LVM",
    ]
    assert [each.number for each in table_of(mbr).partitions if each.extended] == [3]
    assert [each.type_name for each in table_of(gpt).partitions] == ["Linux", "BIOS boot", "EFI system"]


def test_large_sectors(folder: Path) -> None:
    """A GPT for sectors of 4 KiB is read with them."""
    path = folder / "large"
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(
        ["fdisk", "-b", "4096", path], input="g\nn\n1\n512\n1535\nw\n", capture_output=True, text=True, check=True
    )
    table = table_of(path.read_bytes())
    assert (table.kind, table.sector_size, table.doubts) == (TableKind.GPT, 4096, ())
    assert [(each.offset, each.size, each.type_name) for each in table.partitions] == [(2 * MIB, 4 * MIB, "Linux")]


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(100),
        bytes(SIZE),
        bytes(446) + b"Remove disks or other media.\xff\r\nPress any key to restart".ljust(64, b"\0") + b"\x55\xaa",
    ],
)
def test_no_table(image: bytes) -> None:
    """A short disk, an empty one and a file system's boot sector have none."""
    assert table_of(image) == PartitionTable(kind=TableKind.NONE)


def test_bare_file_system(tmp_path: Path) -> None:
    """A file system is no table, nor is one with boot code in its first sector."""
    image = bytearray(ext4_image(tmp_path / "ext4", 4 * MIB).read_bytes())
    assert table_of(image) == PartitionTable(kind=TableKind.NONE)
    image[:3], image[510:512] = b"\xeb\x63\x90", b"\x55\xaa"
    assert table_of(image) == PartitionTable(kind=TableKind.NONE)


def test_file_system_and_table(tmp_path: Path, mbr: bytes) -> None:
    """Nothing of a disk is trusted that is a file system from its first byte on, and has partitions as well."""
    image = bytearray(mbr)
    image[1024:2048] = ext4_image(tmp_path / "ext4", 4 * MIB).read_bytes()[1024:2048]
    table = table_of(image)
    assert (table.kind, len(table.partitions), trusted(table)) == (TableKind.MBR, 5, [])
    assert table.doubts == ("the disk has a partition table, and from its first byte on it is marked as ext4",)


def entry(image: bytearray, number: int, first: int, sectors: int, kind: int = 0x83, *, record: int = 0) -> None:
    """Write an entry of a boot record."""
    struct.pack_into("<B3xB3xII", image, 512 * record + 446 + 16 * (number - 1), 0, kind, first, sectors)


@pytest.mark.parametrize(
    ("number", "first", "sectors", "kind", "left", "doubts"),
    [
        (2, 60_000, SECTORS, 0x83, [1, 3, 5, 6], ["partition 2 ends at byte 64274432, and the disk at byte 33554432"]),
        (2, 0xFFFFFFFF, 0xFFFFFFFF, 0x83, [1, 3, 5, 6], ["partition 2 ends at byte 4398046510080, and the disk at "]),
        (2, 10_239, 100, 0x83, [3, 5, 6], ["partition 1 overlaps partition 2", "partition 2 overlaps partition 1"]),
        (2, 0, 2048, 0x83, [1, 3, 5, 6], ["partition 2 overlaps a partition table"]),
        (2, 17_000, 10, 0x83, [1], ["partition 2 overlaps partition 3", "partition 3 overlaps partition 2"]),
        (3, 16_384, SECTORS, 5, [1, 2], ["partition 3 ends at byte 41943040, and the disk"]),
        (3, 16_384, 5_000, 5, [1, 2, 3, 5], ["partition 6 ends at byte 13631488, and extended partition 3 at byte"]),
        (3, 16_384, 4_096, 5, [1, 2, 3], ["the chain of extended partition 3 is broken: it leads to sector 20480"]),
    ],
)
def test_wrong_entries(
    mbr: bytes, number: int, first: int, sectors: int, kind: int, left: list[int], doubts: list[str]
) -> None:
    """Entries that pass the disk's end, overlap another one or the table are named and not trusted; the rest is."""
    image = bytearray(mbr)
    entry(image, number, first, sectors, kind)
    table = table_of(image)
    assert [said[: len(each)] for said, each in zip(table.doubts, doubts, strict=True)] == doubts
    assert trusted(table) == left


@pytest.mark.parametrize(
    ("number", "first", "kind", "doubt"),
    [
        (2, 0, 5, "it leads back to sector 16384"),
        (2, 100_000, 5, "it leads to sector 116384, outside of that partition"),
        (2, 3000, 5, "sector 19384 holds no table"),
        (3, 4096, 0x83, "the table in sector 16384 has 3 entries"),
    ],
)
def test_broken_chain(mbr: bytes, number: int, first: int, kind: int, doubt: str) -> None:
    """No logical partition is trusted where the chain loops, leaves its partition, or leads to no table."""
    image = bytearray(mbr)
    entry(image, number, first, 1024, kind, record=16_384)
    table = table_of(image)
    assert trusted(table) == [1, 2, 3]
    assert table.doubts == (f"the chain of extended partition 3 is broken: {doubt}",)


def test_endless_chain(folder: Path) -> None:
    """A chain with a record in each sector is left after 256 of them."""
    image = disk(folder / "chain", "label: dos\nstart=2048, size=32768, type=5\n")
    for sector in range(2048, 2048 + 1000):
        entry(image, 2, sector - 2047, 1, 5, record=sector)
        image[512 * sector + 510 : 512 * sector + 512] = b"\x55\xaa"
    reads: list[int] = []
    table = read_table(counted(image, reads), SIZE)
    assert table.doubts == ("the chain of extended partition 1 is broken: it has more than 256 links",)
    assert len(reads) < 400


def logical_overlap(image: bytearray) -> None:
    entry(image, 1, 2048, 4096, record=16_384)


def test_logical_partition_over_a_record(mbr: bytes) -> None:
    """A logical partition that overlaps the record of the next one is not trusted."""
    image = bytearray(mbr)
    logical_overlap(image)
    table = table_of(image)
    assert trusted(table) == [1, 2, 3, 6]
    assert table.doubts == ("partition 5 overlaps a partition table",)


def sgdisk(path: Path, image: bytes | bytearray, *options: str) -> bytearray:
    path.write_bytes(image)
    subprocess.run(["sgdisk", *options, path], capture_output=True, check=True)
    return bytearray(path.read_bytes())


def damage_first(image: bytearray) -> None:
    image[512 + 40] ^= 1


def damage_first_entries(image: bytearray) -> None:
    image[1024 + 60] ^= 1


def damage_second(image: bytearray) -> None:
    image[-512 + 40] ^= 1


def damage_both(image: bytearray) -> None:
    damage_first_entries(image)
    damage_second(image)


def grow(image: bytearray) -> None:
    image += bytes(MIB)


def cut(image: bytearray) -> None:
    del image[-MIB:]


def cut_deep(image: bytearray) -> None:
    del image[8 * MIB :]


USED_SECOND = "the first header of the GPT is damaged, and the second one was used"
NO_SECOND = "the second header of the GPT is damaged or missing"
GROWN = "the second header of the GPT is not in the disk's last sector: the disk has grown since"
CUT = f"the GPT ends at byte {SIZE}, and the disk at byte {SIZE - MIB}"
CUT_DEEP = f"the GPT ends at byte {SIZE}, and the disk at byte {8 * MIB}"
NOT_WITHIN = f"partition 1 ends at byte {12 * MIB}, and the disk at byte {8 * MIB}"


@pytest.mark.parametrize(
    ("harm", "left", "doubts"),
    [
        (damage_first, [1, 14, 15], [USED_SECOND]),
        (damage_first_entries, [1, 14, 15], [USED_SECOND]),
        (damage_second, [1, 14, 15], [NO_SECOND]),
        (grow, [1, 14, 15], [GROWN]),
        (cut, [1, 14, 15], [CUT]),
        (cut_deep, [14, 15], [CUT_DEEP, NOT_WITHIN]),
    ],
)
def test_one_right_header(gpt: bytes, harm: Callable[[bytearray], None], left: list[int], doubts: list[str]) -> None:
    """One right header is enough for the partitions within the disk; the table says what is wrong."""
    image = bytearray(gpt)
    harm(image)
    table = table_of(image)
    assert (table.kind, trusted(table), list(table.doubts)) == (TableKind.GPT, left, doubts)
    assert table.reach == SIZE


def test_no_right_header(gpt: bytes) -> None:
    """Nothing is a partition where both headers are wrong, or only the boot record is there."""
    image = bytearray(gpt)
    damage_both(image)
    alone = gpt[:512] + bytes(SIZE - 512)
    expected = ("the boot record stands for a GPT, of which no header is right",)
    for each in (image, alone):
        table = table_of(each)
        assert (table.kind, table.partitions, table.doubts) == (TableKind.PROTECTIVE, (), expected)


def test_headers_that_contradict(gpt: bytes, folder: Path) -> None:
    """Nothing is trusted where the two headers are right and describe different partitions."""
    other = sgdisk(folder / "other", gpt, "--delete=1", "--new=1:8192:16383")
    image = bytearray(gpt)
    image[-33 * 512 :] = other[-33 * 512 :]
    table = table_of(image)
    assert ([each.number for each in table.partitions], trusted(table)) == ([1, 14, 15], [])
    assert table.doubts == ("the two headers of the GPT contradict each other",)


def rewritten(image: bytearray, place: int, fields: bytes) -> bytearray:
    """Put bytes into the first header or its entries, and make its checksums right again."""
    image[place : place + len(fields)] = fields
    count, size = struct.unpack_from("<II", image, 512 + 80)
    struct.pack_into("<I", image, 512 + 88, zlib.crc32(image[1024 : 1024 + count * size]))
    image[512 + 16 : 512 + 20] = bytes(4)
    struct.pack_into("<I", image, 512 + 16, zlib.crc32(image[512 : 512 + 92]))
    image[-512:] = bytes(512)
    return image


@pytest.mark.parametrize(
    ("first", "last", "left", "doubt"),
    [
        (3000, 8191, [1], "partition 14 overlaps partition 15"),
        (2, 3000, [1, 15], "partition 14 is not within the sectors that the GPT calls usable"),
        (30_000, SECTORS, [1, 15], "partition 14 is not within the sectors that the GPT calls usable"),
        (3000, 2048, [1, 15], "partition 14 is not within the sectors that the GPT calls usable"),
        (1 << 63, (1 << 63) + 5, [1, 15], "partition 14 is not within the sectors that the GPT calls usable"),
    ],
)
def test_wrong_entries_of_a_gpt(gpt: bytes, first: int, last: int, left: list[int], doubt: str) -> None:
    """Entries that overlap or lie outside of the usable sectors are named and not trusted; checksums are right."""
    table = table_of(rewritten(bytearray(gpt), 1024 + 13 * 128 + 32, struct.pack("<QQ", first, last)))
    assert trusted(table) == left
    assert doubt in table.doubts


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        (512 + 80, struct.pack("<I", 0xFFFFFFFF)),
        (512 + 80, struct.pack("<I", 0)),
        (512 + 84, struct.pack("<I", 1)),
        (512 + 72, struct.pack("<Q", 1 << 63)),
        (512 + 12, struct.pack("<I", 0xFFFFFFFF)),
        (512 + 8, struct.pack("<I", 0x20000)),
        (512 + 24, struct.pack("<Q", 5)),
    ],
)
def test_impossible_headers(gpt: bytes, place: int, fields: bytes) -> None:
    """A header with impossible figures is not right, whatever its checksum says."""
    image = bytearray(gpt)
    image[place : place + len(fields)] = fields
    image[512 + 16 : 512 + 20] = bytes(4)
    length = min(struct.unpack_from("<I", image, 512 + 12)[0], 512)
    struct.pack_into("<I", image, 512 + 16, zlib.crc32(image[512 : 512 + length]))
    image[-512:] = bytes(512)
    assert table_of(image).kind is TableKind.PROTECTIVE


def test_hybrid(gpt: bytes, folder: Path) -> None:
    """Partitions of the GPT that the boot record repeats are trusted, and nothing where it names another one."""
    image = sgdisk(folder / "hybrid", gpt, "--hybrid=1")
    table = table_of(image)
    assert (table.kind, trusted(table), table.doubts) == (TableKind.HYBRID, [1, 14, 15], ())
    entry(image, 3, 9000, 100)
    table = table_of(image)
    assert (trusted(table), table.doubts) == ([], ("entry 3 of the boot record is no partition of the GPT",))


def test_left_over_gpt(gpt: bytes) -> None:
    """A GPT for which no boot record stands has no partitions, and puts an MBR in doubt until it is damaged."""
    image = bytearray(gpt)
    image[:512] = bytes(512)
    table = table_of(image)
    assert (table.kind, table.partitions) == (TableKind.NONE, ())
    assert table.doubts == ("the disk has a GPT, but no boot record that stands for it",)
    image[510:512] = b"\x55\xaa"
    entry(image, 1, 2048, 2048)
    table = table_of(image)
    assert (table.kind, trusted(table)) == (TableKind.MBR, [])
    assert table.doubts == ("the disk has a GPT, but its boot record does not stand for it",)
    damage_both(image)
    table = table_of(image)
    assert (table.kind, trusted(table)) == (TableKind.MBR, [1])
    assert table.doubts == ("the disk has a GPT, but its boot record does not stand for it",)


@pytest.mark.parametrize("kind", ["mbr", "gpt"])
def test_random_damage(kind: str, request: pytest.FixtureRequest) -> None:
    """For any content of the tables, trusted partitions lie within the disk and overlap nothing, after few reads."""
    image, source = bytearray(request.getfixturevalue(kind)), random.Random(14)
    places = [range(440, 512), range(512, 604), range(1024, 1536)] if kind == "gpt" else [range(440, 512)]
    places += [range(512 * sector + 446, 512 * sector + 512) for sector in (16_384, 20_480)] if kind == "mbr" else []
    for _ in range(1500):
        before: dict[int, int] = {}
        for _ in range(source.choice((1, 1, 2, 8))):
            place = source.choice(source.choice(places))
            before.setdefault(place, image[place])
            image[place] = source.choice((0, 0xFF, 5, source.randrange(256)))
        reads: list[int] = []
        table = read_table(counted(image, reads), SIZE)
        content = sorted((each.offset, each.end) for each in table.partitions if each.trusted and not each.extended)
        ends = [512, *(end for _, end in content)]
        assert all(start >= end for (start, _), end in zip(content, ends, strict=False))
        assert ends[-1] <= SIZE
        assert (len(reads) < 800, sum(reads) < 4 * MIB) == (True, True)
        for place, value in before.items():
            image[place] = value
