"""Trees to bundle: many small files, and one large file, both made once and kept in the cache directory."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amistream.values import GIB, KIB, MIB
from benchmarks.inputs import Inputs
from benchmarks.timing import BenchmarkError

HALF = "half"
"""Folder with half of the files of the one above, so that it is a tree of its own."""
LEVELS = 3
_SEED = 15
_MOST = 4 * KIB
"""Bytes of the largest of the small files."""
_IN_FOLDER = 100
_ROOM = 4 * GIB
_STEP = 64 * MIB
_FOR_INODE = 17 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The size of a tree, as `du` counts it."""

    inodes: int
    bytes_on_disk: int
    copied_bytes: int
    """The same with each hard link as a file of its own, as a copy without -H makes them."""

    @property
    def image_size(self) -> int:
        """Bytes of an image in which the tree has room, also with the inodes that mke2fs makes: one for 16 KiB."""
        return self._room(self.bytes_on_disk)

    @property
    def copy_size(self) -> int:
        """The same for a copy of the tree that has no hard links."""
        return self._room(self.copied_bytes)

    def _room(self, size: int) -> int:
        return -(-(size * 5 // 4 + self.inodes * _FOR_INODE + _STEP) // _STEP) * _STEP


def small_files(inputs: Inputs, count: int) -> Path:
    """A tree of so many small files of text. Half of them are in its folder `half`, and so on."""

    def make(root: Path) -> None:
        source = random.Random(_SEED)
        text = b"".join(b"%08x service[%d]: accepted\n" % (source.getrandbits(32), line) for line in range(4000))
        for level in range(LEVELS):
            here = root.joinpath(*[HALF] * level)
            inside = count >> level
            if level + 1 < LEVELS:
                inside -= count >> (level + 1)
            _fill(here, inside, source, text)

    return _made(inputs, f"small-{count}", count * _MOST * 2, make)


def one_large_file(inputs: Inputs, size: int) -> Path:
    """A tree of one file, which holds a volume of that size."""

    def make(root: Path) -> None:
        root.mkdir()
        shutil.copyfile(inputs.volume(size), root / "large")

    return _made(inputs, f"large-{inputs.kind}-{size}", 2 * size, make)


def measure(root: Path) -> Measure:
    """Count the tree's inodes on its own file system."""
    top = root.stat()
    seen, device, waiting = {top.st_ino}, top.st_dev, [root]
    blocks = copied = top.st_blocks
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                if about.st_dev != device:
                    continue
                copied += about.st_blocks
                if about.st_ino in seen:
                    continue
                seen.add(about.st_ino)
                blocks += about.st_blocks
                if stat.S_ISDIR(about.st_mode):
                    waiting.append(Path(entry))
    return Measure(inodes=len(seen), bytes_on_disk=blocks * 512, copied_bytes=copied * 512)


def warm(root: Path) -> None:
    """Bring the tree into the page cache."""
    # GNU tar reads nothing when it sees that its output is /dev/null.
    subprocess.run(["bash", "-c", 'tar -cf - -C "$0" . | cat >/dev/null', root], capture_output=True, check=False)


def _fill(here: Path, count: int, source: random.Random, text: bytes) -> None:
    here.mkdir()
    for number in range(count):
        folder = here / f"{number // _IN_FOLDER:05d}"
        if number % _IN_FOLDER == 0:
            folder.mkdir()
        start = source.randrange(len(text) - _MOST)
        (folder / f"file-{number:06d}.txt").write_bytes(text[start : start + source.randint(0, _MOST)])


def _made(inputs: Inputs, name: str, disk: int, make: Callable[[Path], None]) -> Path:
    path = inputs.cache / f"tree-{name}"
    if path.exists():
        return path
    if shutil.disk_usage(inputs.cache).free < disk + _ROOM:
        raise BenchmarkError(
            f"cannot make the tree {path.name}: {disk / GIB:.1f} GiB are needed and {_ROOM / GIB:.0f} must stay free; "
            "give --files a smaller number, or another --cache"
        )
    temporary = path.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make(temporary)
    # Else the kernel writes it back while something is timed.
    subprocess.run(["sync", "-f", temporary], check=True)
    temporary.rename(path)
    return path
