"""Finds the used blocks of file systems that mkfs.xfs and the kernel made, and is judged by xfsprogs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from amistream.source.disks.disk_map import map_disk
from amistream.source.disks.reading import DoubtError
from source.disks.xfs.filled import (
    VARIANTS,
    VERSION_4,
    content_of,
    free_by_xfs_db,
    free_in,
    keep_used,
    make_full,
    make_unmounted,
    map_of,
    reader,
    run,
)
from support.mounts import mounted
from support.volumes import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from source.disks.xfs.conftest import Copies


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_map_is_that_of_xfs_db(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The free blocks are those that `xfs_db` lists, whatever the features of the file system are."""
    image = make_full(tmp_path / "image", *options)
    used = map_of(image)
    assert free_in(used) == free_by_xfs_db(image)
    assert used.size == image.stat().st_size
    assert used.free == sum(length for _, length in free_in(used)) > 0
    assert used.keeps_preallocated


@pytest.mark.parametrize("options", VERSION_4.values(), ids=VERSION_4)
def test_the_map_of_version_4(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The free blocks of version 4, which this kernel may not mount, are those that `xfs_db` lists."""
    image = make_unmounted(tmp_path / "image", *options)
    assert free_in(map_of(image)) == free_by_xfs_db(image)


def test_a_tree_of_several_levels(full: Path) -> None:
    """Free space in many pieces is found by a tree of two levels."""
    assert "bnolevel = 2" in run("xfs_db", "-r", "-c", "agf 0", "-c", "p", str(full))
    assert free_in(map_of(full)) == free_by_xfs_db(full)


def test_nothing_is_missing_without_the_free_blocks(tmp_path: Path, full: Path) -> None:
    """The used blocks alone, among zeros, are a sound file system with every file."""
    kept = keep_used(full, map_of(full), tmp_path / "kept")
    run("xfs_repair", "-n", str(kept))
    assert content_of(kept) == content_of(full) != {}


def test_a_copy_made_while_mounted_is_in_doubt(in_use: Copies) -> None:
    """A log that was not unmounted makes the free blocks those of an earlier moment, so nothing is left out."""
    with pytest.raises(DoubtError, match="not unmounted"):
        map_of(in_use.mounted)
    assert "DIRTY" in run("xfs_logprint", "-t", str(in_use.mounted))
    assert subprocess.run(["xfs_repair", "-n", in_use.mounted], capture_output=True, check=False).returncode == 1


def test_a_copy_made_while_frozen(tmp_path: Path, in_use: Copies) -> None:
    """A freeze brings everything to its place: the map has the last writes, although the log reads as in use."""
    with pytest.raises(DoubtError, match="not unmounted"):
        map_of(in_use.frozen)
    used = map_of(in_use.frozen, frozen=True)
    assert free_in(used) == free_by_xfs_db(in_use.frozen)
    kept = keep_used(in_use.frozen, used, tmp_path / "kept")
    with mounted(kept, tmp_path / "replayed", "-o", "loop"):
        pass
    run("xfs_repair", "-n", str(kept))
    assert content_of(kept) == in_use.files
    assert "last/0" in in_use.files


def test_only_what_was_frozen_is_taken_so(tmp_path: Path, in_use: Copies) -> None:
    """On a disk with a frozen file system, another one that was not unmounted stays in doubt."""
    disk, start, size = tmp_path / "disk", MIB, in_use.frozen.stat().st_size
    with disk.open("wb") as file:
        file.truncate(2 * (start + size))
    table = f"label: dos\n{start // 512},{size // 512},L\n{(start + size) // 512},{size // 512},L\n"
    subprocess.run(["sfdisk", "--quiet", disk], input=table, text=True, check=True)
    for image, place in ((in_use.frozen, start), (in_use.mounted, start + size)):
        run("dd", f"if={image}", f"of={disk}", "bs=1M", f"seek={place // MIB}", "conv=notrunc,sparse", "status=none")
    frozen, dirty = map_disk(reader(disk), disk.stat().st_size, frozen={start}).areas
    assert frozen.used == map_of(in_use.frozen, frozen=True)
    assert dirty.used is None
    assert "not unmounted" in dirty.doubt
