"""The used blocks of every kind of ext2, ext3 and ext4, against `dumpe2fs`, partclone, e2fsck and the kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from source.disks.ext4.filled import DELETED, FILES, MARKER, VARIANTS, blocks_of, content, restore, run, used
from support.mounts import mounted

if TYPE_CHECKING:
    from pathlib import Path

    from source.disks.ext4.conftest import GetImage

KEEPS_PREALLOCATED = {"uninit_bg", "uninit_bg, 32 bit", "no checksums"}
IN_CLUSTERS = {"bigalloc", "bigalloc, 1 KiB"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_used_blocks(image: GetImage, variant: str) -> None:
    """The map is what `dumpe2fs` calls used, less unused inode tables and, where checksums prove it, preallocation."""
    here = image(variant)
    found = used(here.path)
    left_out = frozenset() if variant in KEEPS_PREALLOCATED else here.unwritten
    assert blocks_of(found, here.block_size) == here.used - here.unused_tables - left_out
    assert found.keeps_preallocated == (variant in KEEPS_PREALLOCATED | IN_CLUSTERS)
    assert found.unused_inodes == len(here.unused_tables) * here.block_size
    assert found.preallocated == len(left_out) * here.block_size
    assert found.free + len(here.used) * here.block_size == found.size == here.path.stat().st_size


@pytest.mark.parametrize("variant", VARIANTS)
def test_restored(image: GetImage, variant: str) -> None:
    """With zeros outside of the map, e2fsck finds nothing, every file is equal, and what was deleted is gone."""
    here = image(variant)
    assert here.path.read_bytes().count(MARKER) > 50_000
    copy = restore(here.path, used(here.path))
    run("e2fsck", "-fn", str(copy))
    if variant not in KEEPS_PREALLOCATED | IN_CLUSTERS:
        assert MARKER not in copy.read_bytes()
    with mounted(copy, copy.with_name("mounted"), "-o", "loop,ro") as where:
        assert _files(where) == {number: content(number) for number in range(FILES) if number not in DELETED}
        if variant != "ext2, first revision":
            assert os.getxattr(where / "file01", "user.long") == b"a" * 600
        assert (where / "folder" / "small").read_bytes() == b"small enough for an inode\n"
        assert (where / "long").readlink().as_posix() == "/".join(["folder"] * 20)
    copy.unlink()


def _files(where: Path) -> dict[int, bytes]:
    return {int(path.name[4:]): path.read_bytes()[: len(content(int(path.name[4:])))] for path in where.glob("file*")}


@pytest.mark.skipif(shutil.which("partclone.extfs") is None, reason="partclone is not installed")
def test_partclone(image: GetImage) -> None:
    """All variants that partclone reads have the used blocks that it finds; it refuses bigalloc."""
    images = {variant: image(variant) for variant in VARIANTS if variant not in IN_CLUSTERS}
    # Each sleeps for two seconds, so they run side by side.
    running = {
        variant: subprocess.Popen(
            ["partclone.extfs", "-D", "-q", "-s", here.path, "-o", f"{here.path}.domain", "-L", f"{here.path}.log"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for variant, here in images.items()
    }
    assert {variant: process.wait() for variant, process in running.items()} == dict.fromkeys(running, 0)
    for variant, here in images.items():
        assert _domain(here.path.with_name(here.path.name + ".domain"), here.block_size) == here.used, variant


def _domain(path: Path, block_size: int) -> frozenset[int]:
    found: set[int] = set()
    for offset, length in re.findall(r"^0x(\w+) +0x(\w+) +\+$", path.read_text(), re.MULTILINE):
        found.update(range(int(offset, 16) // block_size, (int(offset, 16) + int(length, 16)) // block_size))
    return frozenset(found)


@pytest.mark.parametrize(("features", "keeps"), [("^bigalloc", False), ("bigalloc", True)])
def test_the_rest_of_a_cluster(tmp_path: Path, features: str, keeps: bool) -> None:
    """With clusters of several blocks, the blocks that no file has of a used cluster count as preallocated and kept."""
    image = tmp_path / "image"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", features, "-b", "1024", image, "16M"], check=True)
    assert used(image).keeps_preallocated == keeps
