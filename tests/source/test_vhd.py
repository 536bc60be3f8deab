"""VHDs of several writers: the size of the disk, disks with a parent, and damaged images."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from source.images import content, needs_qemu, refused, run_line
from source.test_every_format import as_qemu_reads_it

MIB = 1 << 20
SIZE = 4 * MIB
GEOMETRY = 120 * 4 * 17 * 512
"""Bytes by cylinders, heads and sectors, as the specification's algorithm chooses them for `SIZE`."""
BLOCK = 2 * MIB


def sealed(block: bytes, place: int) -> bytes:
    return block[:place] + struct.pack(">I", ~sum(block) & 0xFFFFFFFF) + block[place + 4 :]


def footer(writer: bytes, kind: int, *, size: int = SIZE, geometry: tuple[int, int, int] = (120, 4, 17)) -> bytes:
    offset = 512 if kind != 2 else 2**64 - 1
    sizes = (size, size, *geometry)
    fields = (b"conectix", 2, 0x10000, offset, 0, writer, 0x10000, b"Wi2k", *sizes, kind, 0, b"\1" * 16)
    return sealed(struct.pack(">8sIIQI4sI4sQQHBBII16s428x", *fields), 64)


def image_of(disk: bytes, end: bytes) -> bytes:
    """The image of a `disk`, of the type that the footer `end` says, with every block stored."""
    if end[63] == 2:
        return disk + end
    count = len(disk) // BLOCK
    head = struct.pack(">8sQQIIII16xII512x192x256x", b"cxsparse", 2**64 - 1, 1536, 0x10000, count, BLOCK, 0, 0, 0)
    table = b"".join(struct.pack(">I", (2048 + n * (512 + BLOCK)) // 512) for n in range(count)).ljust(512, b"\xff")
    blocks = b"".join(b"\xff" * 512 + disk[n * BLOCK : (n + 1) * BLOCK] for n in range(count))
    return end + sealed(head, 36) + table + blocks + end


def disk_of(used: int) -> bytes:
    """A disk with noise at its beginning and up to the byte `used`."""
    return (
        random.Random(used).randbytes(5000)
        + bytes(used - 10_000)
        + random.Random(1).randbytes(5000)
        + bytes(SIZE - used)
    )


@needs_qemu
@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("writer", [b"vbox", b"win ", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"qem2", b"any!"])
def test_writers_that_go_by_the_current_size(writer: bytes, kind: int, tmp_path: Path) -> None:
    """The disk has the current size of the footer, to the last byte, in both types."""
    path, disk = tmp_path / "image", disk_of(SIZE)
    path.write_bytes(image_of(disk, footer(writer, kind)))
    assert content(path) == disk == as_qemu_reads_it(path, "driver=vpc,force_size_calc=current_size")


@needs_qemu
@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("writer", [b"vpc ", b"qemu"])
def test_writers_that_go_by_the_geometry(writer: bytes, kind: int, tmp_path: Path) -> None:
    """The disk has the geometry's size; with data behind that, it is refused with the line that keeps the data."""
    path = tmp_path / "image"
    path.write_bytes(image_of(disk_of(GEOMETRY), footer(writer, kind)))
    found = content(path)
    assert len(found) == GEOMETRY
    assert found == as_qemu_reads_it(path, "driver=vpc")
    disk = disk_of(SIZE)
    path.write_bytes(image_of(disk, footer(writer, kind)))
    error = refused(path)
    assert (error.code, str(SIZE - GEOMETRY) in error.message) == ("source.vhd_size", True)
    run_line(error.hint.removeprefix("keep that data: "), tmp_path)
    assert (tmp_path / "disk.img").read_bytes() == disk


@needs_qemu
@pytest.mark.parametrize("geometry", [(0, 0, 0), (1, 1, 1), (65535, 16, 255)])
def test_a_geometry_that_is_none(geometry: tuple[int, int, int], tmp_path: Path) -> None:
    """A geometry that misses the size by more than a cylinder does not count."""
    path, disk = tmp_path / "image", disk_of(SIZE)
    path.write_bytes(image_of(disk, footer(b"vpc ", 2, geometry=geometry)))
    assert content(path) == disk


def flipped(image: bytes, place: int) -> bytes:
    return image[:place] + bytes([image[place] ^ 1]) + image[place + 1 :]


FIXED, DYNAMIC = image_of(disk_of(SIZE), footer(b"win ", 2)), image_of(disk_of(SIZE), footer(b"win ", 3))


@pytest.mark.parametrize(
    ("image", "code", "says"),
    [
        (image_of(disk_of(SIZE), footer(b"win ", 4)), "source.elsewhere", "differencing"),
        (image_of(disk_of(SIZE), footer(b"vbox", 4)), "source.elsewhere", "differencing"),
        (flipped(FIXED, SIZE + 20), "source.damaged", "checksum of its footer"),
        (flipped(DYNAMIC, 50), "source.damaged", "checksum of its footer"),
        (flipped(DYNAMIC, 0), "source.damaged", "footer at its beginning is missing"),
        (flipped(DYNAMIC, 512), "source.damaged", "header of a dynamic disk"),
        (flipped(DYNAMIC, 600), "source.damaged", "header of a dynamic disk"),
        (DYNAMIC[:1536], "source.cut_short", "incomplete"),
        (image_of(disk_of(SIZE), footer(b"win ", 3, size=SIZE + BLOCK)), "source.damaged", "fewer than its disk"),
        (FIXED[:MIB] + FIXED[SIZE:], "source.cut_short", f"{SIZE - MIB} bytes"),
        (bytes(512) + FIXED, "source.vhd_size", f"disk has {SIZE} bytes"),
        (FIXED[:-1], "source.vhd_old", "before 2004"),
        (footer(b"win ", 2) + FIXED, "source.damaged", "type 2"),
    ],
)
def test_images_that_are_refused(image: bytes, code: str, says: str, tmp_path: Path) -> None:
    """A disk with a parent, a damaged image and one cut short are refused by their headers, with the cause."""
    path = tmp_path / "image"
    path.write_bytes(image)
    error = refused(path)
    assert error.code == code
    assert says in error.message
    # A raw disk may end with the footer of a VHD that was on it before.
    assert code in {"source.elsewhere", "source.cut_short"} or "--source-format raw" in error.hint


@pytest.mark.parametrize("choice", ["choose the size: ", "or all: "])
def test_the_lines_for_a_footer_that_is_wrong(choice: str, tmp_path: Path) -> None:
    """The hint's lines cut the disk to the footer's size, or keep all before the footer."""
    path = tmp_path / "image"
    path.write_bytes(FIXED[:-512] + bytes(512) + FIXED[-512:])
    line = refused(path).hint.partition(choice)[2].partition("disk.img")[0] + "disk.img"
    run_line(line, tmp_path)
    assert (tmp_path / "disk.img").read_bytes() == FIXED[:-512] + bytes(0 if choice.startswith("choose") else 512)
