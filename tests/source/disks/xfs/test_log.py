"""Recognises a clean log wherever in its ring it ends, as `xfs_logprint` does."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.reading import DoubtError
from source.disks.xfs.damaged import Image
from source.disks.xfs.filled import make, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 512
ROUND = 7
IN_FLIGHT = 4096


@pytest.fixture(scope="module")
def empty(folder: Path) -> Path:
    return make(folder / "empty.img")


def ring(image: Image, last: int, *, kind: int = 0x20) -> bytes:
    """A log that ends with mkfs's own record of an unmount, moved to block `last`; it may go around the end."""
    count = image.log_size // BLOCK
    header, data = bytearray(image.read(image.log, BLOCK)), bytearray(image.read(image.log + BLOCK, BLOCK))
    goes_around = last + 1 == count
    began = ROUND - goes_around
    header[4:8] = struct.pack(">I", began)
    header[16:32] = struct.pack(">IIII", began, last, began, last)
    data[:4] = struct.pack(">I", ROUND)
    data[9] = kind
    newest, older = (struct.pack(">I", each).ljust(BLOCK, b"\0") for each in (ROUND, ROUND - 1))
    if goes_around:
        return bytes(data) + older * (count - 2) + bytes(header)
    return newest * last + bytes(header + data) + older * (count - last - 2)


LAST = {
    "near its start": lambda count: 3,  # noqa: ARG005
    "in the middle": lambda count: count // 2,
    "at its end": lambda count: count - 2,
    "around its end": lambda count: count - 1,
}


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
def test_a_clean_log(tmp_path: Path, empty: Path, last: Callable[[int], int]) -> None:
    """A log that ends with an unmount is clean wherever the ring's newest round ends."""
    image = Image(empty)
    content = ring(image, last(image.log_size // BLOCK))
    image.write(image.log, content)
    assert image.used().free > 0
    written = shutil.copyfile(empty, tmp_path / "image")
    with written.open("r+b") as file:
        file.seek(image.log)
        file.write(content)
    assert "<CLEAN>" in run("xfs_logprint", "-t", str(written))


def test_a_log_that_ends_with_something_else(empty: Path) -> None:
    """A last record that is not an unmount is a log in use."""
    image = Image(empty)
    image.write(image.log, ring(image, 5000, kind=0x01))
    with pytest.raises(DoubtError, match="not unmounted"):
        image.used()


@pytest.mark.parametrize("behind", [0, 1, IN_FLIGHT - 1])
def test_a_write_behind_the_unmount(empty: Path, behind: int) -> None:
    """A block of the newest round behind the unmount was written by a later mount, and others are missing."""
    image = Image(empty)
    image.write(image.log, ring(image, 5000))
    image.write(image.log + (5002 + behind) * BLOCK, struct.pack(">I", ROUND))
    with pytest.raises(DoubtError, match="log"):
        image.used()


def test_a_hole_before_the_unmount(empty: Path) -> None:
    """A block of an older round before the last record has not been written."""
    image = Image(empty)
    image.write(image.log, ring(image, 5000))
    image.write(image.log + 4000 * BLOCK, struct.pack(">I", ROUND - 1))
    with pytest.raises(DoubtError, match="log"):
        image.used()


CHANGES = {
    "another place": (20, struct.pack(">I", 5)),
    "another length": (12, struct.pack(">I", 1024)),
    "a huge length": (12, b"\xff" * 4),
    "another file system": (304, bytes(16)),
    "a checksum": (32, b"sum!"),
    "several operations": (40, struct.pack(">I", 2)),
    "more headers": (320, struct.pack(">I", 1 << 30)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_last_record_that_does_not_fit(empty: Path, change: tuple[int, bytes]) -> None:
    """A record of an unmount that contradicts its place, its length or its sum is a doubt."""
    image = Image(empty)
    image.write(image.log + change[0], change[1])
    with pytest.raises(DoubtError, match="log"):
        image.used()


def test_a_log_of_zeros(empty: Path) -> None:
    """A log that was wiped says nothing about the rest."""
    image = Image(empty)
    image.write(image.log, bytes(image.log_size))
    with pytest.raises(DoubtError, match="log"):
        image.used()


def test_a_log_of_the_mark_alone(empty: Path) -> None:
    """A log full of marks of records ends as a doubt."""
    image = Image(empty)
    image.write(image.log, struct.pack(">II", 0xFEEDBABE, ROUND).ljust(BLOCK, b"\0") * (image.log_size // BLOCK))
    with pytest.raises(DoubtError, match="log"):
        image.used()
