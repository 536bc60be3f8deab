"""Trees as xfs, and their referees: xfs_repair, xfs_db, and the kernel."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.xfs_tree.volume import CopiedVolume
from amistream.values import GIB, MIB
from source.tree.images import write_image
from support.mounts import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 304 * MIB
"""mkfs.xfs makes nothing below 300 MiB."""


@contextmanager
def copied(path: Path, scratch: Path | None, size: int = SIZE, **wishes: object) -> Iterator[CopiedVolume]:
    """Open a directory as an xfs."""
    made = {"most": 10 * GIB, "size": size, "profile": "xfs", "scratch": scratch, **wishes}
    volume = open_tree(path, TreeWishes(**made))  # type: ignore[arg-type]
    try:
        assert isinstance(volume, CopiedVolume)
        yield volume
    finally:
        volume.close()


@contextmanager
def shown(volume: CopiedVolume, folder: Path) -> Iterator[Path]:
    """The tree that the kernel shows of a volume, which xfs_repair finds whole."""
    image = write_image(volume, folder / "image")
    assert is_clean(image)
    # The tree that it was copied from may be mounted, with the same UUID.
    with mounted(image, folder / "mnt", "-o", "loop,ro,nouuid") as mount:
        yield mount


def is_clean(image: Path) -> bool:
    done = subprocess.run(["xfs_repair", "-n", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def superblock(image: Path) -> dict[str, str]:
    """The fields of a superblock, by xfs_db."""
    words = ["xfs_db", "-r", "-f", "-c", "sb 0", "-c", "print", str(image)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)


def nothing_left(scratch: Path) -> bool:
    """Nothing is mounted there, nothing is in it, and no loop device shows a file of it."""
    loops = [each.read_text() for each in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [each for each in loops if str(scratch) in each]
    assert str(scratch) not in Path("/proc/self/mountinfo").read_text()
    return not list(scratch.iterdir())
