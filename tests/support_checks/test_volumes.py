"""The volumes are real: the file systems check clean and the holes are holes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from support import volumes

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def test_ext4_is_clean(tmp_path: Path) -> None:
    """An ext4 image passes e2fsck, holds files, and leaves nothing beside it."""
    image = volumes.ext4_image(tmp_path / "image", 32 * MIB)
    assert image.stat().st_size == 32 * MIB
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
    listing = subprocess.run(["debugfs", "-R", "ls -p /", image], check=True, capture_output=True).stdout
    assert b"/noise/" in listing
    assert list(tmp_path.iterdir()) == [image]


def test_xfs_is_clean(tmp_path: Path) -> None:
    """An XFS image passes xfs_repair, where the tools are installed."""
    image = volumes.xfs_image(tmp_path / "image", 320 * MIB, volumes.files_tree(tmp_path / "tree", 8 * MIB))
    subprocess.run(["xfs_repair", "-n", "-f", image], check=True, capture_output=True)


def test_ext4_holds_the_given_files(tmp_path: Path) -> None:
    """The files of a given tree are in the image, byte by byte."""
    (tree := tmp_path / "tree").mkdir()
    (tree / "hello").write_bytes(b"hello" * 1000)
    image = volumes.ext4_image(tmp_path / "image", 8 * MIB, tree)
    shown = subprocess.run(["debugfs", "-R", "cat /hello", image], check=True, capture_output=True).stdout
    assert shown == b"hello" * 1000


def test_sparse_image(tmp_path: Path) -> None:
    """Data stands at its extents, the rest takes no room, and the seed decides the bytes."""
    image = volumes.sparse_image(tmp_path / "image", 64 * MIB, [(MIB, 5000), (50 * MIB, 7000)], seed=7)
    assert image.stat().st_size == 64 * MIB
    assert image.stat().st_blocks * 512 < MIB
    data = image.read_bytes()
    assert data[MIB - 1] == 0
    assert any(data[50 * MIB : 50 * MIB + 7000])


def test_random_image(tmp_path: Path) -> None:
    """The seed decides every byte."""
    size = 3 * MIB + 1
    one, same, other = (
        volumes.random_image(tmp_path / name, size, seed).read_bytes()
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert len(one) == size
    assert one == same != other


def test_loop_device(tmp_path: Path) -> None:
    """A loop device shows the image, and is gone afterwards."""
    image = volumes.random_image(tmp_path / "image", MIB)
    with volumes.loop_device(image) as device:
        assert device.read_bytes() == image.read_bytes()
    used = subprocess.run(["losetup", "-j", image], check=True, capture_output=True).stdout
    assert used == b""
