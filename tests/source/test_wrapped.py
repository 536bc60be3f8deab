"""A bare file system as a disk: sfdisk, sgdisk and GRUB's own code are the referees."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.ports.volume import Volume
from amistream.source import grub
from amistream.source.disk_reader import reader_of
from amistream.source.disks.boot_area import GrubImages
from amistream.source.disks.facts import PartitionTable, TableKind
from amistream.source.disks.loader import CorePlace, LoaderKind, find_loader
from amistream.source.disks.partitions import read_table
from amistream.source.disks.xfs.checksum import checksum
from amistream.source.opening import open_source
from amistream.source.stream import StreamVolume
from amistream.source.wrapped import wrap
from amistream.values import Extent
from support.boot_disks import need_grub
from support.volumes import FIXED_UUID, MIB, ext4_image, loop_device, random_image, sparse_image, xfs_image

KERNEL = "boot/vmlinuz-6.1.0-1-cloud-amd64"
SIZE = 8 * MIB
INCOMPATIBLE_AT, CHECKSUM_AT = 219, 224
"""In the superblock of an xfs: the lowest byte of a number that is big-endian, and one that is not."""
HEADS = {TableKind.MBR: MIB, TableKind.GPT: 2 * MIB}
TAILS = {TableKind.MBR: 0, TableKind.GPT: MIB}
GRUB_NAMES = {TableKind.MBR: "msdos1", TableKind.GPT: "gpt1"}
kinds = pytest.mark.parametrize("kind", list(HEADS))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    random_image(tree / KERNEL, MIB + 17)
    return tree


@pytest.fixture(scope="module")
def bare(tree: Path) -> Path:
    """The kernel in a bare file system."""
    need_grub()
    return ext4_image(tree.with_name("bare"), SIZE, tree)


def content(volume: Volume) -> bytes:
    data = bytearray(volume.size)
    volume.read_into(0, memoryview(data))
    return bytes(data)


def disk(image: Path, kind: TableKind) -> bytes:
    """The disk that is made of the file system."""
    volume = open_source(str(image), partition=kind)
    try:
        return content(volume)
    finally:
        volume.close()


def table_of(path: Path) -> tuple[PartitionTable, int]:
    volume = open_source(str(path))
    try:
        return read_table(reader_of(volume), volume.size), volume.size
    finally:
        volume.close()


@kinds
def test_a_disk(kind: TableKind, bare: Path, tree: Path, tmp_path: Path) -> None:
    """The table is right, the file system's bytes are its own, and GRUB reads the kernel in it."""
    made = disk(bare, kind)
    path = tmp_path / "disk"
    path.write_bytes(made)
    inside = made[HEADS[kind] : HEADS[kind] + SIZE]
    assert len(made) == HEADS[kind] + SIZE + TAILS[kind]
    assert hashlib.sha256(inside).digest() == hashlib.sha256(bare.read_bytes()).digest()
    checked = subprocess.run(["sfdisk", "--verify", path], capture_output=True, text=True, check=True)
    assert "No errors detected" in checked.stdout
    if kind is TableKind.GPT:
        checked = subprocess.run(["sgdisk", "--verify", path], capture_output=True, text=True, check=True)
        assert "No problems found" in checked.stdout
    words = ["cmp", f"(loop0,{GRUB_NAMES[kind]})/{KERNEL}", str(tree / KERNEL)]
    subprocess.run(["grub-fstest", str(path), *words], capture_output=True, check=True)


@kinds
def test_its_table_and_loader(kind: TableKind, bare: Path, tmp_path: Path) -> None:
    """The table and the boot loader are what amistream itself finds on such a disk."""
    path = tmp_path / "disk"
    path.write_bytes(disk(bare, kind))
    table, size = table_of(path)
    assert (table.kind, table.doubts, table.reach) == (kind, (), size)
    assert [(each.offset, each.size) for each in table.partitions[:1]] == [(HEADS[kind], SIZE)]
    volume = open_source(str(path))
    loader = find_loader(reader_of(volume), table, size)
    volume.close()
    assert (loader.kind, loader.core and loader.core.whole) == (LoaderKind.GRUB_2, True)
    places = {TableKind.MBR: CorePlace.GAP, TableKind.GPT: CorePlace.BIOS_BOOT}
    assert loader.core is not None
    assert loader.core.place is places[kind]


@kinds
def test_what_grub_runs(kind: TableKind, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GRUB's core looks for the file system by its UUID; a kernel without an initramfs gets the partition's."""
    made: list[str] = []
    images = grub.grub_images

    def note(config: str, kind: TableKind, driver: str) -> GrubImages:
        made.append(config)
        return images(config, kind, driver)

    monkeypatch.setattr("amistream.source.wrapped.grub_images", note)
    (tmp_path / "disk").write_bytes(disk(bare, kind))
    table, _ = table_of(tmp_path / "disk")
    assert f"--fs-uuid --set=root {FIXED_UUID}\n" in made[0]
    assert f"linux /{KERNEL} root=PARTUUID={table.partitions[0].uuid} ro" in made[0]


@kinds
def test_the_same_bytes_again(kind: TableKind, bare: Path, tree: Path, tmp_path: Path) -> None:
    """Two disks of one file system are equal; the ids of another file system's disk are others."""
    assert disk(bare, kind) == disk(bare, kind)
    other = ext4_image(tmp_path / "other", SIZE, tree)
    subprocess.run(["tune2fs", "-U", "random", other], capture_output=True, check=True)
    ids = set()
    for number, image in enumerate((bare, other)):
        path = tmp_path / str(number)
        path.write_bytes(disk(image, kind))
        table, _ = table_of(path)
        ids |= {table.disk_id, *(each.uuid for each in table.partitions)}
    assert len(ids) == 2 * (1 + len(table.partitions))


@kinds
def test_pieces(kind: TableKind, bare: Path) -> None:
    """Any range reads as in the whole disk."""
    volume = open_source(str(bare), partition=kind)
    whole, source = content(volume), random.Random(14)
    head, end = HEADS[kind], HEADS[kind] + SIZE
    edges = (0, 1, head - 1, head, head + 1, end - 1, end, volume.size)
    ranges = [(start, stop) for start in edges for stop in edges if start < stop]
    starts = [source.randrange(len(whole)) for _ in range(20)]
    ranges += [(start, source.randrange(start, len(whole))) for start in starts]
    for start, stop in ranges:
        buffer = bytearray(stop - start)
        volume.read_into(start, memoryview(buffer))
        volume.will_need(start, stop - start)
        assert buffer == whole[start:stop], (start, stop)
    volume.close()


@kinds
def test_extents(kind: TableKind, tmp_path: Path, tree: Path) -> None:
    """Holes of the file system stay holes; table and GRUB count as data."""
    image = ext4_image(tmp_path / "sparse", 64 * MIB, tree)
    bare = open_source(str(image))
    volume = open_source(str(image), partition=kind)
    head = HEADS[kind]
    assert volume.extents()[0] == Extent(offset=0, length=head + bare.extents()[0].length)
    assert sum(each.length for each in volume.extents()) == sum(
        [head, *(each.length for each in bare.extents()), TAILS[kind]]
    )
    assert volume.extents()[-1].end == (volume.size if TAILS[kind] else head + bare.extents()[-1].end)
    bare.close()
    volume.close()


@kinds
def test_a_size_that_is_no_sectors(kind: TableKind, bare: Path, tmp_path: Path) -> None:
    """Bytes behind the file system are kept, and the disk is filled up to a whole sector."""
    image = tmp_path / "odd"
    image.write_bytes(bare.read_bytes() + b"behind")
    made = disk(image, kind)
    assert len(made) == HEADS[kind] + SIZE + 512 + TAILS[kind]
    assert made[HEADS[kind] + SIZE :][:512] == b"behind".ljust(512, b"\0")
    (tmp_path / "disk").write_bytes(made)
    table, _ = table_of(tmp_path / "disk")
    assert (table.doubts, table.partitions[0].size) == ((), SIZE + 512)


def test_of_an_image_and_of_a_device(bare: Path, tmp_path: Path) -> None:
    """The file system may be in an image of a virtual machine, or on a block device."""
    expected = disk(bare, TableKind.MBR)
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", bare, image], check=True)
    assert disk(image, TableKind.MBR) == expected
    with loop_device(bare) as device:
        assert disk(device, TableKind.MBR) == expected


def assert_wraps(source: Path, kind: TableKind) -> None:
    """Assert that the table of the disk has its partition whole."""
    volume = open_source(str(source), partition=kind)
    try:
        (partition, *_) = read_table(reader_of(volume), volume.size).partitions
    finally:
        volume.close()
    assert partition.trusted
    assert (partition.offset, partition.size) == (HEADS[kind], source.stat().st_size)


def refusal(source: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        open_source(str(source), partition=TableKind.MBR)
    assert not [link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == str(source)]
    return caught.value


@pytest.mark.parametrize("table", ["label: dos\n,", "label: gpt\n,"])
def test_a_partition_table(table: str, tmp_path: Path) -> None:
    """A disk that has a table already is refused."""
    image = sparse_image(tmp_path / "disk", SIZE, [])
    subprocess.run(["sfdisk", "--quiet", image], input=table, text=True, check=True)
    error = refusal(image)
    assert (error.code, error.field) == ("partition.present", "partition")
    assert error.message == f"cannot make a disk of {image}: it has a partition table already"


def test_other_content(tmp_path: Path, tree: Path) -> None:
    """Another file system, or none, is refused with what it is."""
    swap = sparse_image(tmp_path / "swap", MIB, [])
    subprocess.run(["mkswap", "--quiet", swap], check=True, capture_output=True)
    error = refusal(swap)
    assert (error.code, "a file system of type swap" in error.message) == ("partition.file_system", True)
    error = refusal(random_image(tmp_path / "noise", MIB))
    assert (error.code, "no file system that is known" in error.message) == ("partition.file_system", True)


def test_features_that_grub_does_not_read(tmp_path: Path, tree: Path) -> None:
    """A file system with a feature that GRUB lacks is refused with its name."""
    image = sparse_image(tmp_path / "image", SIZE, [])
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "inline_data", "-d", tree, image], check=True)
    error = refusal(image)
    assert (error.code, "it has inline_data, which GRUB" in error.message) == ("partition.features", True)


@kinds
def test_xfs(kind: TableKind, tree: Path, tmp_path: Path) -> None:
    """GRUB reads the kernel in a bare xfs of which a disk was made, and its core has the driver."""
    need_grub()
    image = xfs_image(tmp_path / "xfs", 300 * MIB, tree)
    path = tmp_path / "disk"
    made = disk(image, kind)
    assert made[HEADS[kind] :][: 300 * MIB] == image.read_bytes()
    path.write_bytes(made)
    words = ["cmp", f"(loop0,{GRUB_NAMES[kind]})/{KERNEL}", str(tree / KERNEL)]
    subprocess.run(["grub-fstest", str(path), *words], capture_output=True, check=True)


@pytest.mark.parametrize("options", [(), ("-m", "crc=0"), ("-i", "nrext64=1")])
def test_kinds_of_xfs(options: tuple[str, ...], tree: Path, tmp_path: Path) -> None:
    """Each kind of xfs that GRUB reads becomes a disk."""
    need_grub()
    image = xfs_image(tmp_path / "xfs", 300 * MIB, tree, *options)
    read = subprocess.run(["grub-fstest", image, "ls", "(loop0)/boot"], capture_output=True, text=True, check=True)
    assert "vmlinuz" in read.stdout
    assert_wraps(image, TableKind.MBR)


def test_features_of_xfs_that_grub_does_not_read(tree: Path, tmp_path: Path) -> None:
    """An xfs with a feature that GRUB lacks is refused with its name."""
    need_grub()
    image = xfs_image(tmp_path / "xfs", 300 * MIB, tree)
    with image.open("r+b") as file:
        sector = bytearray(file.read(512))
        sector[INCOMPATIBLE_AT] |= 0xC0
        sector[CHECKSUM_AT : CHECKSUM_AT + 4] = checksum(bytes(sector), CHECKSUM_AT).to_bytes(4, "little")
        file.seek(0)
        file.write(sector)
    read = subprocess.run(["grub-fstest", image, "ls", "(loop0)/boot"], capture_output=True, text=True, check=False)
    assert "vmlinuz" not in read.stdout
    error = refusal(image)
    assert (error.code, "it has exchange and parent, which GRUB" in error.message) == ("partition.features", True)


def test_more_than_an_mbr_counts(tmp_path: Path, bare: Path) -> None:
    """A volume of 2 TiB is refused with the table that holds it."""
    image = tmp_path / "image"
    shutil.copy(bare, image)
    os.truncate(image, (1 << 41) - 512)
    assert_wraps(image, TableKind.MBR)
    os.truncate(image, 1 << 41)
    error = refusal(image)
    assert (error.code, "--partition gpt" in (error.hint or "")) == ("partition.size", True)
    assert_wraps(image, TableKind.GPT)


def test_no_kernel(tmp_path: Path) -> None:
    """A file system without a kernel is refused."""
    (tmp_path / "tree").mkdir()
    assert refusal(ext4_image(tmp_path / "image", SIZE, tmp_path / "tree")).code == "partition.no_kernel"


def test_no_uuid(tmp_path: Path, bare: Path) -> None:
    """A file system without a UUID is refused with the command that gives it one."""
    image = tmp_path / "image"
    image.write_bytes(bare.read_bytes())
    subprocess.run(["tune2fs", "-U", "clear", image], capture_output=True, check=True)
    error = refusal(image)
    assert (error.code, f"tune2fs -U random {image}" in error.hint) == ("partition.uuid", True)


def test_a_damaged_file_system(tmp_path: Path, bare: Path) -> None:
    """A file system whose tables are damaged is refused with the reason."""
    image = tmp_path / "image"
    data = bytearray(bare.read_bytes())
    data[1024 + 0x60] ^= 0x10
    image.write_bytes(data)
    error = refusal(image)
    assert (error.code, "its superblock has a wrong checksum" in error.message) == ("partition.file_system", True)


def test_a_stream() -> None:
    """A stream is refused, because names in it are needed before its first byte."""
    reading, writing = os.pipe()
    volume = StreamVolume(reading, SIZE)
    with pytest.raises(RefusedError) as caught:
        wrap(volume, TableKind.GPT)
    volume.close()
    os.close(writing)
    assert caught.value.code == "partition.stream"


def test_no_grub(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GRUB's files or its program the packages are named."""
    with monkeypatch.context() as patch:
        patch.setattr(grub, "_FOLDERS", (tmp_path,))
        error = refusal(bare)
        assert (error.code, "apt-get install grub-pc-bin" in error.hint) == ("partition.grub_missing", True)
    monkeypatch.setattr(grub, "_PROGRAMS", ("grub-no-such-program",))
    assert refusal(bare).code == "partition.grub_missing"


def test_a_grub_that_fails(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of grub-mkimage is told in its own words, and a core that is too large is refused."""
    program = tmp_path / "grub-mkimage"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for line, says in (("echo no room left >&2; exit 1", "no room left"), ("yes | head -c 2000000", "2000000 bytes")):
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        error = refusal(bare)
        assert (error.code, says in error.message) == ("partition.grub", True)
