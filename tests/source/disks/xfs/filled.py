"""File systems xfs with free space in many pieces, readers of them, and what `xfs_db` says of their free blocks."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.reading import DoubtError, Reader
from amistream.source.disks.xfs.used import used_blocks
from support.mounts import mounted
from support.volumes import MIB, files_tree, xfs_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from amistream.source.disks.facts import UsedBlocks

SIZE = 304 * MIB
"""mkfs.xfs refuses less than 300 MiB."""
_SMALL = 40 * MIB

VARIANTS = {
    "plain": (),
    "blocks of 1 KiB": ("-b", "size=1024"),
    "sectors of 4 KiB": ("-s", "size=4096"),
    "owners of blocks": ("-m", "rmapbt=1"),
    "older features": ("-m", "reflink=0,bigtime=0,inobtcount=0,finobt=0", "-i", "sparse=0"),
    "big extent counts": ("-i", "nrext64=1"),
    "a smaller last group": ("-d", "agsize=24m"),
    "striped log": ("-l", "su=262144"),
}
VERSION_4 = {
    "version 4": ("-m", "crc=0"),
    "version 4, counters kept": ("-m", "crc=0", "-l", "lazy-count=0,version=1", "-b", "size=512"),
}
"""The kernel does not mount these, so mkfs.xfs fills them."""


def make(path: Path, *options: str) -> Path:
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed (Debian package xfsprogs)")
    with path.open("wb") as file:
        file.truncate(_SMALL)
    with _small_ones_allowed():
        run("mkfs.xfs", "-q", *options, str(path))
    return path


def make_full(path: Path, *options: str) -> Path:
    """Make one with files between free blocks, by a mount."""
    make(path, *options)
    with mounted(path, path.with_name("mounted"), "-o", "loop") as where:
        write_files(where / "files", count=900)
    return path


def make_unmounted(path: Path, *options: str) -> Path:
    """Make one with files, without a mount."""
    tree = files_tree(path.with_name(path.name + ".tree"), 4 * MIB)
    write_files(tree / "more", count=60)
    with _small_ones_allowed():
        return xfs_image(path, _SMALL, tree, *options)


@contextmanager
def _small_ones_allowed() -> Iterator[None]:
    """Let mkfs.xfs make less than 300 MiB, and a log of less than 64, as it does for its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEST_DIR", "TEST_DEV", "QA_CHECK_FS"):
            patch.setenv(name, "here")
        yield


def write_files(where: Path, *, count: int, seed: int = 0) -> None:
    """Write files of up to 16 KB, and delete two thirds of them once they have their blocks."""
    source = random.Random(seed)
    where.mkdir()
    for number in range(count):
        (where / str(number)).write_bytes(source.randbytes(source.randrange(16_000)))
    run("sync", "-f", str(where))
    for number in range(count):
        if number % 3:
            (where / str(number)).unlink()


def reader(path: Path) -> Reader:
    size = path.stat().st_size

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > size:
            raise DoubtError("it refers to bytes out of the image")
        with path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    return read


def map_of(path: Path, *, frozen: bool = False) -> UsedBlocks:
    return used_blocks(reader(path), path.stat().st_size, frozen=frozen)


def free_by_xfs_db(path: Path) -> list[tuple[int, int]]:
    """Ask the referee for the free extents in bytes, ascending, without the blocks that groups reserve for trees.

    `freesp` lists these too, as the first of each group.
    """
    figures = _xfs_db(path, "sb 0", "p blocksize agblocks agcount")
    block, group_blocks, groups = (int(line.split(" = ")[1]) for line in figures)
    reserved = [int(line.split(" = ")[1]) for n in range(groups) for line in _xfs_db(path, f"agf {n}", "p flcount")]
    found = []
    for row in itertools.takewhile(lambda row: "from" not in row, _xfs_db(path, "freesp -d")[1:]):
        group, first, count = map(int, row.split())
        if reserved[group]:
            reserved[group] -= 1
        else:
            found.append(((group * group_blocks + first) * block, count * block))
    return sorted(found)


def _xfs_db(path: Path, *commands: str) -> list[str]:
    return run("xfs_db", "-r", *(word for command in commands for word in ("-c", command)), str(path)).splitlines()


def free_in(used: UsedBlocks) -> list[tuple[int, int]]:
    """The complement of a map."""
    starts = [0, *(extent.end for extent in used.extents)]
    ends = [*(extent.offset for extent in used.extents), used.size]
    return [(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start]


def keep_used(path: Path, used: UsedBlocks, to: Path) -> Path:
    """Copy the used blocks only; everything else is zeros."""
    with path.open("rb") as source, to.open("wb") as file:
        file.truncate(used.size)
        for extent in used.extents:
            source.seek(extent.offset)
            file.seek(extent.offset)
            file.write(source.read(extent.length))
    return to


def content_of(path: Path) -> dict[str, bytes]:
    """Read every file of an image through a mount."""
    with mounted(path, path.with_name("mounted"), "-o", "loop,ro") as where:
        return files_below(where)


def files_below(where: Path) -> dict[str, bytes]:
    return {str(file.relative_to(where)): file.read_bytes() for file in where.rglob("*") if file.is_file()}


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
    return done.stdout
