"""A directory, and files of the job's options, are laid over a tree. The image has the merged tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from amistream.source.tree.report import MOVED, Fate
from source.tree.images import content_of, debugfs, is_clean, names_in, opened, shown_by_kernel, write_image
from source.tree.nasty import described


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/conf.d").mkdir(parents=True)
    (root / "etc/fstab").write_text("LABEL=root / ext4 defaults 0 1\n")
    (root / "etc/hostname").write_text("old\n")
    (root / "etc/conf.d/kept").write_text("kept\n")
    (root / "file").write_text("a file\n")
    (root / "folder/inside").mkdir(parents=True)
    (root / "folder/inside/gone").write_text("hidden by a file\n")
    (root / "tmp").mkdir()
    return root


@pytest.fixture
def over(tmp_path: Path) -> Path:
    root = tmp_path / "over"
    (root / "etc/conf.d").mkdir(parents=True)
    (root / "etc/conf.d").chmod(0o750)
    os.utime(root / "etc/conf.d", ns=(0, 1_111_111_111_000_000_001))
    (root / "etc/hostname").write_text("new\n")
    (root / "etc/conf.d/more").write_text("more\n" * 3_000)
    os.setxattr(root / "etc/conf.d/more", "user.laid", b"over")
    (root / "file").mkdir()
    (root / "file/now").write_text("a directory\n")
    (root / "folder").mkdir()
    (root / "folder/inside").symlink_to("/etc")
    (root / "tmp").mkdir()
    (root / "tmp/wanted").write_text("wanted\n")
    root.chmod(0o700)
    return root


def test_merged(tree: Path, over: Path, tmp_path: Path) -> None:
    """Files of the overlay win, with their own owner, mode, times and attributes; the rest of the tree is as it was."""
    before = described(tree), described(over)
    with opened(tree, overlay=over) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
        assert volume.report.paths(Fate.COVERED) == [b"file", b"folder/inside"]
    assert is_clean(image)
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        found = described(mount)
    of_tree, of_over = before
    for path in of_over.keys() - {b"", b"/"}:
        assert found[path] == of_over[path], path
    for path in (b"/etc/fstab", b"/etc/conf.d/kept"):
        assert found[path] == of_tree[path]
    assert found.keys() == (of_over | of_tree).keys() - {b"/folder/inside/gone"} | {b"/lost+found"}
    assert (described(tree), described(over)) == before


def test_root_stays(tree: Path, over: Path, tmp_path: Path) -> None:
    """The root directory keeps the owner and mode of the tree: the overlay's own directory is only a place."""
    with opened(tree, overlay=over) as volume:
        image = write_image(volume, tmp_path / "image")
    assert "Mode:  0755" in debugfs(image, "stat /")


def test_digest(tree: Path, over: Path) -> None:
    """The digest of the plan changes with a file of the overlay."""

    def digest(**wishes: object) -> str:
        with opened(tree, **wishes) as volume:  # type: ignore[arg-type]
            return volume.digest

    with_it = digest(overlay=over)
    assert with_it == digest(overlay=over) != digest()
    os.utime(over / "tmp/wanted", ns=(0, 5_000_000_000))
    assert digest(overlay=over) != with_it


def test_changed_meanwhile(tree: Path, over: Path, tmp_path: Path) -> None:
    """A file of the overlay that changes or is swapped for a link is named, and nothing from outside comes in."""
    secret = tmp_path / "secret"
    secret.write_text("from outside of both")
    with opened(tree, overlay=over) as volume:
        (over / "etc/hostname").unlink()
        (over / "etc/hostname").symlink_to(secret)
        with (over / "etc/conf.d/more").open("a") as file:
            file.write("grown")
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(Fate.GONE) == [b"etc/hostname"]
        assert volume.report.paths(Fate.CUT) == [b"etc/conf.d/more"]
    assert is_clean(image)
    assert content_of(image, "/etc/hostname") == bytes(4)
    assert b"from outside" not in image.read_bytes()


def test_links_between_layers(tree: Path, over: Path, tmp_path: Path) -> None:
    """Hard links within each layer stay links; a covered name is none of them."""
    os.link(tree / "etc/hostname", tree / "etc/second")
    os.link(tree / "etc/hostname", tree / "etc/third")
    os.link(over / "tmp/wanted", over / "etc/linked")
    with opened(tree, overlay=over) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
    assert is_clean(image)
    with shown_by_kernel(image, tmp_path / "mnt") as mount:
        assert (mount / "etc/second").samefile(mount / "etc/third")
        assert (mount / "etc/linked").samefile(mount / "tmp/wanted")
        assert (mount / "etc/second").stat().st_nlink == 2
        assert (mount / "etc/second").read_text() == "old\n"
        assert (mount / "etc/hostname").read_text() == "new\n"
        assert stat.S_IMODE((mount / "etc/conf.d").stat().st_mode) == 0o750


def test_fstab_of_the_overlay(tree: Path, over: Path, tmp_path: Path) -> None:
    """Another fstab is made of the one that lies over the tree, and that stays beside it."""
    (over / "etc/fstab").write_text("LABEL=over / ext4 noatime 0 1\n")
    with opened(tree, overlay=over, mend_fstab=True) as volume:
        image = write_image(volume, tmp_path / "image")
        volume.check_unchanged()
        assert volume.report.paths(*MOVED) == []
    assert is_clean(image)
    assert b"/ ext4 noatime" in content_of(image, "/etc/fstab")
    assert content_of(image, "/etc/fstab.old") == b"LABEL=over / ext4 noatime 0 1\n"
    assert names_in(image, "/etc") == {"conf.d", "fstab", "fstab.old", "hostname"}
