"""Volumes to bundle, made once and kept in a cache directory: a tar of this machine's /usr, a synthetic mix, and ones
with holes.

The same machine (for the synthetic mix: any machine) yields the same bytes. `warm` brings a volume into the page
cache, so that what is timed is the program and not the disk.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from amistream.values import GIB, KIB, MIB
from benchmarks.timing import BenchmarkError

SEED = 20
SCATTERED = 256 * KIB
"""Length of the extents of a scattered volume: 4096 of them hold 1 GiB."""

_TAR = ("tar", "-cf", "-", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-C", "/", "usr/bin", "usr/lib")
_BOOT_SECTOR = 512
_RUN = 4 * MIB


def default_cache() -> Path:
    """The user's cache directory (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amistream-benchmarks"


class Inputs:
    """Makes volumes of `kind` ("usr" or "synthetic") on demand; sizes in bytes."""

    def __init__(self, cache: Path, kind: str) -> None:
        self.cache = cache
        self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.kind = kind

    def volume(self, size: int) -> Path:
        """`size` bytes of the chosen kind."""
        fill = _fill_from_usr if self.kind == "usr" else _fill_synthetic
        return self._made(f"{self.kind}-{size}", size, lambda file: fill(file, size))

    def repeated(self, unit: int, times: int) -> Path:
        """The volume of `unit` bytes, repeated: larger, with the same compressibility."""
        if times == 1:
            return self.volume(unit)
        source = self.volume(unit)

        def fill(file: BinaryIO) -> None:
            for number in range(times):
                _copy(source, file, 0, number * unit, unit)

        return self._made(f"{self.kind}-{unit}x{times}", unit * times, fill)

    def scattered(self, used: int, total: int) -> Path:
        """The volume of `used` bytes in extents of `SCATTERED`, evenly spread over `total` bytes of holes."""
        source = self.volume(used)
        count = used // SCATTERED

        def fill(file: BinaryIO) -> None:
            file.truncate(total)
            for number in range(count):
                # Holes begin on whole pages.
                place = total * number // count // (64 * KIB) * (64 * KIB)
                _copy(source, file, number * SCATTERED, place, SCATTERED)

        return self._made(f"{self.kind}-{used}-scattered-{total}", used, fill)

    def followed_by_zeros(self, used: int, total: int) -> Path:
        """The volume of `used` bytes, then zeros up to `total`. They are a hole: bundle with sparse `never`."""
        source = self.volume(used)

        def fill(file: BinaryIO) -> None:
            file.truncate(total)
            _copy(source, file, 0, 0, used)

        return self._made(f"{self.kind}-{used}-zeros-{total}", used, fill)

    def _made(self, name: str, disk: int, fill: Callable[[BinaryIO], None]) -> Path:
        def make(path: Path) -> None:
            with path.open("wb") as file:
                fill(file)

        return self.made(name, disk, make)

    def made(self, name: str, disk: int, make: Callable[[Path], None]) -> Path:
        """The volume of that name, which `make` writes once, and which takes `disk` bytes."""
        path = self.cache / f"disk-{name}.img"
        if path.exists():
            return path
        free = shutil.disk_usage(self.cache).free
        if free < disk + GIB // 4:
            raise BenchmarkError(
                f"cannot make the input {path.name}: {self.cache} has {free / GIB:.1f} GiB free and {disk / GIB:.1f} "
                "GiB are needed; give a smaller --size or another --cache"
            )
        temporary = path.with_suffix(".tmp")
        make(temporary)
        with temporary.open("rb") as file:
            # Else the kernel writes it back while something is timed.
            os.fsync(file.fileno())
        temporary.rename(path)
        return path


def warm(path: Path) -> None:
    """Read the whole file once."""
    buffer = bytearray(4 * MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _fill_from_usr(file: BinaryIO, size: int) -> None:
    """Cut a tar of /usr/bin and /usr/lib to `size`; a machine with less repeats it.

    Zeros come first: a file that begins as an archive is refused as no disk.
    """
    missing = size - file.write(bytes(_BOOT_SECTOR))
    while missing:
        before = missing
        with subprocess.Popen(_TAR, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
            assert tar.stdout is not None  # noqa: S101 - for the type checker
            while missing and (piece := tar.stdout.read(min(MIB, missing))):
                file.write(piece)
                missing -= len(piece)
            tar.stdout.close()
        if missing == before:
            raise BenchmarkError("cannot make a volume of /usr: tar yields nothing; try --input synthetic")


def _fill_synthetic(file: BinaryIO, size: int) -> None:
    """Runs of `_RUN` bytes: two fifths text, two fifths noise, one fifth zeros."""
    source = random.Random(SEED)
    words = [bytes(source.choices(b"etaoinshrdlucmfwyp", k=source.randint(2, 11))) + b" " for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]

    def text(length: int) -> bytes:
        return b"".join(source.choices(words, weights, k=length // 3 + 1))[:length]

    kinds: tuple[Callable[[int], bytes], ...] = (text, source.randbytes, text, source.randbytes, bytes)
    for number, start in enumerate(range(0, size, _RUN)):
        run = min(_RUN, size - start)
        kind = kinds[number % len(kinds)]
        file.writelines(kind(min(MIB, run - done)) for done in range(0, run, MIB))


def _copy(source: Path, file: BinaryIO, offset: int, place: int, length: int) -> None:
    """Copy inside the kernel, to `place` in `file`."""
    with source.open("rb") as origin:
        while length:
            done = os.copy_file_range(origin.fileno(), file.fileno(), length, offset, place)
            offset, place, length = offset + done, place + done, length - done
