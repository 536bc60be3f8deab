"""Disks that take over another one's boot area: sfdisk, sgdisk and GRUB's own code are the referees."""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from amistream.source.disks.loader import LoaderKind
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import window
from amistream.source.disks.template import NoTemplateError, Template, make_template
from amistream.values import Extent
from support.boot_disks import GRUB_PARTITIONS, BootDisk, Table, boot_disk
from support.volumes import MIB, ext4_image, random_image, sparse_image

KERNEL = "boot/vmlinuz-6.1.0-1-cloud-amd64"
SIZE = 16 * MIB
MOST = 10 << 30
GPT_TAIL = 33 * 512
tables = pytest.mark.parametrize("table", get_args(Table))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    random_image(tree / KERNEL, MIB + 17)
    return tree


@pytest.fixture(scope="module")
def disks(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Table, BootDisk]:
    """A disk of each kind, all of whose bytes outside of its file system are noise."""
    folder = tmp_path_factory.mktemp("disks")
    return {table: boot_disk(folder / table, tree, SIZE, table) for table in get_args(Table)}


def template_of(image: bytes | bytearray, number: int = 1, *, most: int = MOST, wanted: int | None = None) -> Template:
    read = window(lambda start, length: bytes(image[start : start + length]), 0, len(image))
    return make_template(read, len(image), read_table(read, len(image)), number, most=most, wanted=wanted)


def refusal(image: bytes | bytearray, number: int = 1, wanted: int | None = None) -> tuple[str, str]:
    with pytest.raises(NoTemplateError) as caught:
        template_of(image, number, wanted=wanted)
    return str(caught.value), caught.value.fix


def made(image: bytes | bytearray, template: Template, root: bytes = b"") -> bytes:
    """The disk of a template, with a content for its root."""
    disk = bytearray(template.size)
    for each in template.copied():
        disk[each.offset : each.end] = image[each.offset : each.end]
    for change in template.written:
        disk[change.offset : change.offset + len(change.data)] = change.data
    disk[template.root.offset : template.root.offset + len(root)] = root
    assert len(disk) == template.size
    return bytes(disk)


def dump(path: Path) -> tuple[list[str], dict[str, str]]:
    """The lines of `sfdisk --dump`: those about the disk, and those of partitions by number."""
    done = subprocess.run(["sfdisk", "--dump", path], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(("device", "last-lba"))]
    split = [line.removeprefix(str(path)).partition(" : ") for line in lines]
    return [line for line, (_, colon, _) in zip(lines, split, strict=True) if not colon], {
        number: fields for number, colon, fields in split if colon
    }


def partitioned_by(path: Path, script: str, size: int = SIZE) -> bytearray:
    """Noise with a table."""
    random_image(path, size)
    subprocess.run(["sfdisk", "--quiet", "--wipe=always", path], input=script, text=True, check=True)
    return bytearray(path.read_bytes())


@tables
@pytest.mark.parametrize("wanted", [10 * MIB, 12 * MIB + 512, SIZE, 24 * MIB, None])
def test_a_table(table: Table, wanted: int | None, disks: dict[Table, BootDisk], tmp_path: Path) -> None:
    """The table differs from the other one in the root's size alone, and is right."""
    disk, image = disks[table], disks[table].path.read_bytes()
    template = template_of(image, wanted=wanted)
    path = tmp_path / "disk"
    path.write_bytes(made(image, template))
    (about, ours), (other_about, theirs) = dump(path), dump(disk.path)
    size = re.compile(r"size= *\d+")
    assert size.findall(ours["1"])[0].split()[-1].removeprefix("size=") == str(template.root.length // 512)
    assert about == other_about
    assert {**ours, "1": size.sub("", ours["1"])} == {**theirs, "1": size.sub("", theirs["1"])}
    tail = GPT_TAIL if table == "gpt" else 0
    assert template.size == (wanted or disk.root_end + tail)
    assert template.root == Extent(offset=disk.root, length=template.size - tail - disk.root)
    if table == "gpt":
        checked = subprocess.run(["sgdisk", "--verify", path], capture_output=True, text=True, check=True)
        assert "No problems found" in checked.stdout


@tables
@pytest.mark.parametrize("wanted", [10 * MIB, 24 * MIB])
def test_its_other_bytes(table: Table, wanted: int, disks: dict[Table, BootDisk]) -> None:
    """Nothing before the root differs but fields of the table."""
    disk, image = disks[table], disks[table].path.read_bytes()
    copy = made(image, template_of(image, wanted=wanted))
    places = {place for place in range(disk.root) if copy[place] != image[place]}
    fields = {"mbr": [(458, 4)], "gpt": [(458, 4), (528, 4), (544, 8), (560, 8), (600, 4), (1064, 8)]}
    assert places
    assert places <= {at for start, length in fields[table] for at in range(start, start + length)}


@tables
@pytest.mark.parametrize("wanted", [10 * MIB, 24 * MIB])
def test_grub_reads_it(table: Table, wanted: int, disks: dict[Table, BootDisk], tree: Path, tmp_path: Path) -> None:
    """GRUB's own code finds the kernel in a root of another size."""
    image = disks[table].path.read_bytes()
    template = template_of(image, wanted=wanted)
    root = ext4_image(tmp_path / "root", template.root.length // 4096 * 4096, tree).read_bytes()
    path = tmp_path / "disk"
    path.write_bytes(made(image, template, root))
    words = ["cmp", f"(loop0,{GRUB_PARTITIONS[table]})/{KERNEL}", str(tree / KERNEL)]
    subprocess.run(["grub-fstest", str(path), *words], capture_output=True, check=True)


@tables
def test_the_largest_disk(table: Table, disks: dict[Table, BootDisk]) -> None:
    """Without a wish the root keeps its size, or gets less where the disk would be too large."""
    disk, image = disks[table], disks[table].path.read_bytes()
    tail = GPT_TAIL if table == "gpt" else 0
    assert template_of(image, most=MOST).size == disk.root_end + tail
    assert template_of(image, most=disk.root_end + tail).size == disk.root_end + tail
    smaller = template_of(image, most=12 * MIB + 100)
    assert (smaller.size, smaller.root.end) == (12 * MIB, 12 * MIB - tail)
    says, fix = refusal(image, wanted=disk.root + tail)
    assert (says, fix) == (f"its root partition begins at byte {disk.root}", "give a larger --size")


def test_partitions_behind_the_root(tmp_path: Path, disks: dict[Table, BootDisk]) -> None:
    """With one behind it the root keeps its size, and the disk every byte besides; another size is refused."""
    image = partitioned_by(tmp_path / "disk", "label: dos\nstart=2048, size=8192\nstart=12288\n")
    image[:440], image[512:MIB] = (disks["mbr"].path.read_bytes()[part] for part in (slice(440), slice(512, MIB)))
    template = template_of(image)
    assert (template.size, template.written, template.root) == (SIZE, (), Extent(offset=MIB, length=4 * MIB))
    assert made(image, template, bytes(image[MIB : 5 * MIB])) == image
    assert template_of(image, wanted=SIZE) == template
    says, fix = refusal(image, wanted=SIZE + MIB)
    assert "partition 2 lies behind its root partition" in says
    assert fix == "leave --size out"
    with pytest.raises(NoTemplateError, match=f"keeps its {SIZE} bytes, and an AMI has at most {SIZE - 1}"):
        template_of(image, most=SIZE - 1)
    assert template_of(image, 2, wanted=12 * MIB).root == Extent(offset=6 * MIB, length=6 * MIB)


def test_a_logical_root(tmp_path: Path, disks: dict[Table, BootDisk]) -> None:
    """A root among logical partitions keeps its size."""
    script = "label: dos\nstart=2048, size=2048\nstart=4096, type=5\nstart=6144, size=2048\nstart=10240\n"
    image = partitioned_by(tmp_path / "disk", script)
    image[:440], image[512:MIB] = (disks["mbr"].path.read_bytes()[part] for part in (slice(440), slice(512, MIB)))
    assert (template_of(image, 6).size, template_of(image, 6).written) == (SIZE, ())
    assert "its root is a logical partition" in refusal(image, 6, wanted=12 * MIB)[0]


def test_swap(tmp_path: Path, disks: dict[Table, BootDisk]) -> None:
    """A swap partition keeps its header, and nothing of what was swapped out."""
    image = partitioned_by(tmp_path / "disk", "label: dos\nstart=2048, size=4096, type=82\nstart=8192\n")
    image[:440], image[512:MIB] = (disks["mbr"].path.read_bytes()[part] for part in (slice(440), slice(512, MIB)))
    swap = sparse_image(tmp_path / "swap", 2 * MIB, [(0, 2 * MIB)])
    subprocess.run(["mkswap", "--quiet", swap], capture_output=True, check=True)
    image[MIB : 3 * MIB] = swap.read_bytes()
    copy = made(image, template_of(image, 2))
    assert copy[MIB : MIB + 4096] == image[MIB : MIB + 4096]
    assert not any(copy[MIB + 4096 : 3 * MIB])
    assert copy[3 * MIB : 4 * MIB] == image[3 * MIB : 4 * MIB]
    (tmp_path / "disk").write_bytes(copy)
    assert swap_id(tmp_path / "disk", MIB) == swap_id(swap, 0)


def swap_id(path: Path, offset: int) -> str:
    words = ["--probe", "--offset", str(offset), "--size", str(2 * MIB), "--output", "value", "--match-tag", "UUID"]
    return subprocess.run(["blkid", *words, path], capture_output=True, text=True, check=True).stdout


def moved_core(image: bytes, sector: int) -> bytearray:
    """The disk of an MBR with GRUB's core at another sector."""
    core, moved = image[512 : 512 * 100], bytearray(image)
    moved[512 : 512 * 100] = bytes(len(core))
    moved[512 * sector : 512 * sector + len(core)] = core
    struct.pack_into("<Q", moved, 0x5C, sector)
    struct.pack_into("<Q", moved, 512 * sector + 500, sector + 1)
    return moved


def test_loaders(disks: dict[Table, BootDisk], tmp_path: Path) -> None:
    """A boot loader that needs blocks of the root, is damaged, unknown, or not there is refused."""
    image = disks["mbr"].path.read_bytes()
    assert "is a file in its root partition, found by its blocks" in refusal(moved_core(image, 5000))[0]
    shorter = bytearray(image)
    struct.pack_into("<I", shorter, 458, 4096)
    assert "lies behind its root partition" in refusal(moved_core(bytes(shorter), 7000))[0]
    for start, data, says in (
        (512, bytes(512), "the core of GRUB 2 on its disk (byte 512) is damaged"),
        (0, bytes(440), "its disk has no boot loader"),
        (0x180, b"LILO", "is not GRUB"),
    ):
        damaged = bytearray(image)
        damaged[start : start + len(data)] = data
        assert says in refusal(damaged)[0]


def test_a_core_in_another_partition(disks: dict[Table, BootDisk], tmp_path: Path) -> None:
    """A core in a file of another partition, which is taken over, stays where its blocks are."""
    image = disks["mbr"].path.read_bytes()
    before = partitioned_by(tmp_path / "disk", "label: dos\nstart=2048, size=4096\nstart=8192\n")
    before[:440], before[512:MIB] = image[:440], image[512:MIB]
    assert template_of(moved_core(bytes(before), 3000), 2, wanted=24 * MIB).size == 24 * MIB


def test_uefi_alone(disks: dict[Table, BootDisk]) -> None:
    """A disk that UEFI alone boots is taken over with its EFI system partition."""
    image = bytearray(disks["gpt"].path.read_bytes())
    image[:440] = bytes(440)
    template = template_of(image)
    assert (template.loader.kind, template.loader.efi_partition) == (LoaderKind.NONE, 15)


def test_tables_in_doubt(disks: dict[Table, BootDisk], tmp_path: Path) -> None:
    """A table that is missing, damaged, doubtful or of other sectors is refused; so is a number without partition."""
    mbr, gpt = (bytearray(disks[table].path.read_bytes()) for table in get_args(Table))
    assert refusal(bytes(SIZE))[0] == "its disk has no partition table"
    assert "no partition 2" in refusal(mbr, 2)[0]
    overlapping = bytearray(mbr)
    overlapping[462:478] = overlapping[446:462]
    assert "overlaps" in refusal(overlapping)[0]
    first = bytearray(gpt)
    first[512 + 60] ^= 1
    assert refusal(first)[0] == "the first header of its GPT is not right"
    both = bytearray(first)
    both[-512 + 60] ^= 1
    assert refusal(both)[0] == "the GPT of its disk is damaged"
    hybrid = bytearray(gpt)
    struct.pack_into("<B3xB3xII", hybrid, 462, 0, 0x83, 8192, 100)
    assert "partitions in the boot record too" in refusal(hybrid)[0]


def test_other_sectors(disks: dict[Table, BootDisk]) -> None:
    """A table for sectors of 4 KiB is refused: EC2 has none of them."""
    image = disks["gpt"].path.read_bytes()
    read = window(lambda start, length: image[start : start + length], 0, len(image))
    table = replace(read_table(read, len(image)), sector_size=4096)
    with pytest.raises(NoTemplateError, match="sectors of 4096 bytes"):
        make_template(read, len(image), table, 1, most=MOST)


def test_a_disk_that_grew(disks: dict[Table, BootDisk], tmp_path: Path) -> None:
    """The copy of a GPT that is not at the disk's end, or is damaged, is made anew where it belongs."""
    image = disks["gpt"].path.read_bytes()
    for grown in (image + bytes(MIB), image[:-512] + bytes(512)):
        (tmp_path / "disk").write_bytes(made(grown, template_of(grown, wanted=20 * MIB)))
        checked = subprocess.run(["sgdisk", "--verify", tmp_path / "disk"], capture_output=True, text=True, check=True)
        assert "No problems found" in checked.stdout
