"""A tree and its image: the kernel, e2fsck and debugfs see the same in both."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from amistream.source.tree.profiles import PROFILES
from source.tree.images import GIB, MIB, content_of, debugfs, is_clean, opened, shown_by_kernel, write_image
from source.tree.nasty import described
from support.mounts import mounted

SIZE = 48 * MIB
NO_FINE_TIMES = "ext3-128"


@pytest.fixture(scope="module", params=sorted(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(nasty_tree: Path, profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with opened(nasty_tree, SIZE, profile=profile, clean=()) as volume:
        return write_image(volume, tmp_path_factory.mktemp("image") / f"{profile}.img")


def test_clean(image: Path) -> None:
    """e2fsck finds nothing to mend."""
    assert is_clean(image)


def test_same_in_the_kernel(image: Path, profile: str, nasty_tree: Path, tmp_path: Path) -> None:
    """The mounted image holds the same tree: content, owner, mode, times, links, devices, attributes, ACLs, holes."""
    fine = profile != NO_FINE_TIMES
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        found = described(mount, fine=fine)
    del found[b"/lost+found"]
    assert found == described(nasty_tree, fine=fine)


def test_written_afterwards(image: Path, tmp_path: Path) -> None:
    """The kernel goes on with the file system: files come, grow, move and go, and it stays clean."""
    copy = tmp_path / "copy.img"
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    with shown_by_kernel(copy, tmp_path / "mnt", writable=True) as mount:
        for number in range(300):
            (mount / "many" / f"new{number}-{'n' * (number % 90)}").write_bytes(b"n" * number * 11)
        for path in sorted((mount / "many").iterdir())[:700]:
            path.unlink()
        os.setxattr(mount / "attributes" / "same0", "user.shared", b"other")
        (mount / "files" / "size60").rename(mount / "renamed")
        with (mount / "files" / "sparse").open("r+b") as file:
            file.seek(12_345_678)
            file.write(b"x" * MIB)
        (mount / "deep2").mkdir()
    assert is_clean(copy)


def test_resized(image: Path, tmp_path: Path) -> None:
    """resize2fs makes the file system larger and smaller, and it stays clean."""
    copy = tmp_path / "copy.img"
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    for argv in (["resize2fs", str(copy), "3G"], ["resize2fs", "-M", str(copy)]):
        if argv[-1] == "3G":
            os.truncate(copy, 3 * GIB)
        assert subprocess.run(["e2fsck", "-fp", copy], capture_output=True, check=False).returncode == 0
        subprocess.run(argv, check=True, capture_output=True)
        assert is_clean(copy)


def test_grub_reads(image: Path) -> None:
    """GRUB's own reader finds the bytes of a file: direct, by maps, and in an indexed directory."""
    for name in ("size60", "size2097159", "fragments"):
        done = subprocess.run(["grub-fstest", image, "cat", f"/files/{name}"], capture_output=True, check=True)
        assert done.stdout == content_of(image, f"/files/{name}")


def test_names_and_ids(nasty_tree: Path, tmp_path: Path) -> None:
    """Label, UUID and kind of the tree's file system are those of the image, and the size of its disk is its size."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 40 * MIB)
    argv = [
        "mke2fs",
        "-q",
        "-t",
        "ext3",
        "-L",
        "sixteen-letters!",
        "-U",
        "6dd7aef2-0e40-4d2b-a2d9-ea5d9a6e1c4f",
        str(disk),
    ]
    subprocess.run(argv, check=True)
    with mounted(disk, tmp_path / "mnt", "-o", "loop") as mount:
        (mount / "file").write_text("content")
        with opened(mount, 0) as volume:
            image = write_image(volume, tmp_path / "tree.img")
    head = debugfs(image, "show_super_stats -h")
    assert volume.size == 40 * MIB
    assert "sixteen-letters!" in head
    assert "6dd7aef2-0e40-4d2b-a2d9-ea5d9a6e1c4f" in head
    assert "has_journal" in head
    assert "extent" not in head
    assert is_clean(image)


def test_ten_thousand_names(tmp_path: Path) -> None:
    """The kernel finds each of 10,000 names of random bytes by the index of their directory, and e2fsck agrees."""
    chance = random.Random(8)
    root = tmp_path / "tree"
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    names = {chance.randbytes(chance.randrange(1, 60)).translate(None, b"/\0.") or b"x" for _ in range(10_000)}
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    with opened(root, SIZE) as volume:
        image = write_image(volume, tmp_path / "image")
    assert is_clean(image)
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        folder = os.open(mount, os.O_RDONLY)
        assert all(os.stat(name, dir_fd=folder).st_size == 0 for name in names)
        assert len(os.listdir(folder)) == len(names) + 1  # noqa: PTH208 - a descriptor
        os.close(folder)


def test_same_plan_again(nasty_tree: Path) -> None:
    """Two plans of one tree give the same bytes, in whatever order and pieces these are read."""
    chance = random.Random(3)
    with opened(nasty_tree, SIZE, clean=()) as first, opened(nasty_tree, SIZE, clean=()) as second:
        assert first.digest == second.digest
        assert first.extents() == second.extents()
        whole = memoryview(bytearray(b"\xaa" * SIZE))
        first.read_into(0, whole)
        for _ in range(200):
            start = chance.randrange(SIZE)
            length = chance.randrange(1, min(SIZE - start, 30_000) + 1)
            piece = memoryview(bytearray(b"\x55" * length))
            second.read_into(start, piece)
            assert piece == whole[start : start + length]


def test_outside_of_extents(nasty_tree: Path) -> None:
    """Everything outside of the extents reads as zeros."""
    with opened(nasty_tree, SIZE, clean=()) as volume:
        at = 0
        for extent in (*volume.extents(), None):
            gap = memoryview(bytearray(b"\xaa" * ((extent.offset if extent else SIZE) - at)))
            volume.read_into(at, gap)
            assert not any(gap)
            at = extent.end if extent else SIZE
