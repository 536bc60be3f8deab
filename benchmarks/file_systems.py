"""File systems with deleted files, in an image or in partitions of a disk: made by loop mounts, and proved after.

The files that stay hold the bytes of a volume, one after the other; between them lay twice as many, marked and deleted.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amistream.values import KIB, MIB
from benchmarks.timing import BenchmarkError

MARKER = b"amistream-benchmark-deleted-data\n"
DELETED_FOR_KEPT = 2
UNKNOWN = 16 * MIB
"""The size of the partition of noise, which lies behind the last file system."""
_SEED = 14
_SMALLEST, _LARGEST = MIB, 5 * MIB
_SECTOR = 512

_MAKERS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
_CHECKERS = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file system within an image, and the bytes of the content volume that its files hold."""

    kind: str
    offset: int
    size: int
    first: int
    kept: int
    preallocated: int = 0
    """Bytes of the freed space that are given to files which are never written."""


def make_image(path: Path, size: int, places: list[Place], content: Path, *, table: bool) -> None:
    """Make an image with these file systems; with a `table` a GPT, a partition of noise, and noise everywhere else."""
    with path.open("wb") as file:
        file.truncate(size)
    if table:
        _write_noise(path, size, places)
        ends = [(place.offset, place.size) for place in places]
        rest = ends[-1][0] + ends[-1][1]
        lines = [f"start={start // _SECTOR}, size={length // _SECTOR}, type=L" for start, length in ends]
        lines.append(f"start={rest // _SECTOR}, size={UNKNOWN // _SECTOR}, type=L")
        _run("sfdisk", "--quiet", "--wipe=always", path, text="\n".join(["label: gpt", *lines]))
    for place in places:
        with _loop(path, place) as device:
            _run(*_MAKERS[place.kind], device)
            with _mounted(device, path.with_suffix(".mounted")) as where:
                _fill(where, place, content)


def prove(image: Path, places: list[Place], content: Path) -> None:
    """Prove that deleted data is nowhere, and that every file system is clean and has its files."""
    found = subprocess.run(["grep", "-c", "-a", "-F", MARKER.decode().strip(), image], capture_output=True, check=False)
    if found.stdout.strip() != b"0":
        raise BenchmarkError(f"the marker of deleted files is in the image {found.stdout.decode().strip()} times")
    for place in places:
        with _loop(image, place, "--read-only") as device:
            _run(*_CHECKERS[place.kind], device)
            with _mounted(device, image.with_suffix(".mounted"), "-o", "ro") as where:
                names = {each.name for each in where.iterdir() if each.is_file()}
                for number, (start, length) in enumerate(_files(place)):
                    if (where / f"{number}").read_bytes() != _read(content, start, length):
                        raise BenchmarkError(f"file {number} of the {place.kind} is not what it was")
                    names.discard(f"{number}")
                if any((where / name).stat().st_size != place.preallocated for name in names):
                    raise BenchmarkError(f"the {place.kind} has other files: {sorted(names)}")


def _fill(where: Path, place: Place, content: Path) -> None:
    """Write files in turn: one that stays, two that go."""
    for number, (start, length) in enumerate(_files(place)):
        (where / f"{number}").write_bytes(_read(content, start, length))
        for other in range(DELETED_FOR_KEPT):
            (where / f"{number}.deleted-{other}").write_bytes(MARKER * (length // len(MARKER)))
    _run("sync", "-f", where)
    for deleted in where.glob("*.deleted-*"):
        deleted.unlink()
    if place.preallocated:
        _run("sync", "-f", where)
        _run("fallocate", "-l", str(place.preallocated), where / "preallocated")


def _files(place: Place) -> Iterator[tuple[int, int]]:
    """The place in the content and the length of each file that stays."""
    source, start = random.Random(_SEED), place.first
    while left := place.first + place.kept - start:
        length = min(source.randint(_SMALLEST, _LARGEST), left)
        yield start, length
        start += length


def _read(content: Path, start: int, length: int) -> bytes:
    with content.open("rb") as file:
        return os.pread(file.fileno(), length, start)


def _write_noise(path: Path, size: int, places: list[Place]) -> None:
    source, end = random.Random(_SEED), 64 * KIB
    with path.open("r+b") as file:
        for start, behind in (*((each.offset, each.offset + each.size) for each in places), (size, size)):
            file.seek(end)
            file.write(source.randbytes(start - end))
            end = behind


@contextmanager
def _loop(image: Path, place: Place, *options: str) -> Iterator[str]:
    where = ("--offset", str(place.offset), "--sizelimit", str(place.size))
    device = _run("losetup", "--find", "--show", *options, *where, image).strip()
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def _mounted(device: str, where: Path, *options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    _run("mount", *options, device, where)
    try:
        yield where
    finally:
        _run("umount", where)
        where.rmdir()


def _run(*argv: str | Path, text: str = "") -> str:
    """Run a program; root's rights are needed for some. Raises `BenchmarkError` with its words if it fails."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchmarkError(f"cannot make a file system: {argv[0]} is not installed") from None
    if done.returncode:
        raise BenchmarkError(f"{argv[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout
