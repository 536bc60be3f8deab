"""A tree and its copy in an xfs: the kernel and xfs_repair see the same in both."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from amistream.host.scripted import run_script
from amistream.source.tree.report import MOVED
from amistream.source.xfs_tree import writing
from amistream.values import MIB
from source.tree.images import shown_by_kernel
from source.tree.nasty import described, make_nasty_tree
from source.xfs_tree.images import SIZE, copied, nothing_left, shown, superblock
from support.mounts import mounted

UUID = "6dd7aef2-0e40-4d2b-a2d9-ea5d9a6e1c4f"
FORMS = {
    "of_today": ["-m", "rmapbt=1,bigtime=1", "-i", "nrext64=1"],
    "of_2015": ["-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0,nrext64=0"],
    "other_sizes": ["-b", "size=2048", "-i", "size=1024", "-n", "size=8192", "-s", "size=1024"],
}
SAME = "blocksize sectsize inodesize dirblklog uuid fname versionnum features2 features_ro_compat features_incompat"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_same_tree_and_form(form: list[str], tmp_path: Path, scratch: Path) -> None:
    """The copy of an xfs has all that was in it, and its UUID, label, features and sizes; nothing else is left."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(400 * MIB)
    names = [*form, "-L", "twelve-chars"]
    names[1] = f"{names[1]},uuid={UUID}" if names[0] == "-m" else names[1]
    subprocess.run(["mkfs.xfs", "-q", *names, disk], check=True)
    with mounted(disk, tmp_path / "tree", "-o", "loop,nouuid") as tree:
        make_nasty_tree(tree, names=300, longest_link=1023)
        before = described(tree)
        with copied(tree, scratch, 0, clean=()) as volume:
            assert volume.size == disk.stat().st_size
            assert volume.report.paths(*MOVED) == []
            assert nothing_left(scratch)
            with shown(volume, tmp_path) as mount:
                assert described(mount) == before
    theirs, ours = superblock(disk), superblock(tmp_path / "image")
    assert [ours[name] for name in SAME.split()] == [theirs[name] for name in SAME.split()]


def test_no_xfs_before(tmp_path: Path, scratch: Path) -> None:
    """Any other tree becomes one that old boot loaders read, whose times end in 2038."""
    nasty = tmp_path / "nasty"
    nasty.mkdir()
    make_nasty_tree(nasty, names=300)
    with (
        copied(nasty, scratch, clean=(), exclude=["/links/symbolic4094"]) as volume,
        shown(volume, tmp_path) as mount,
    ):
        found, wanted = described(mount), described(nasty)
    late = found.pop(b"/time2"), wanted.pop(b"/time2")
    assert late[0]["mtime"] // 10**9 == 2**31 - 1
    del wanted[b"/links/symbolic4094"]
    for each in (found, wanted):
        each.pop(b"/links")
    assert found == wanted
    made = superblock(tmp_path / "image")
    assert (made["features_ro_compat"], made["features_incompat"]) == ("0", "0x1")


def test_only_what_is_used(tree: Path, tmp_path: Path, scratch: Path) -> None:
    """Free blocks are no part of the volume, and everything outside of its extents reads as zeros."""
    with copied(tree, scratch) as volume:
        assert sum(each.length for each in volume.extents()) < 16 * MIB  # most of it the log
        at = 0
        for each in volume.extents():
            gap = bytearray(each.offset - at)
            volume.read_into(at, memoryview(gap))
            assert not gap.strip(b"\0")
            at = each.end
        volume.check_unchanged()


def test_as_it_is_wished(tree: Path, tmp_path: Path, scratch: Path) -> None:
    """Rules, an overlay, a script's changes, another fstab and the devices of an empty /dev are in the copy, too."""
    (tree / "dev").mkdir()
    for name in ("key.pem", "left-out", "scripted"):
        (tree / "etc" / name).write_text(name)
    (tree / "etc/key.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n-----END PRIVATE KEY-----\n")
    (tree / "etc/fstab").write_text("/dev/sda1 / xfs noatime 0 0\n/dev/sdb /data ext4 defaults 0 2\n")
    over = tmp_path / "over"
    (over / "etc").mkdir(parents=True)
    (over / "etc/hostname").write_text("over\n")
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nset -e\ncd "$1"\nrm etc/scripted\necho made >etc/made\nln etc/made etc/linked\n')
    script.chmod(0o755)
    before = described(tree)
    point = tmp_path / "point"
    point.mkdir()
    changes = run_script(script, [over, tree], limit_s=3600, point=point, space=MIB, stopped=lambda: False)
    wishes: dict[str, object] = {"overlay": over, "changes": changes, "exclude": ["/etc/left-out"], "mend_fstab": True}
    with copied(tree, scratch, SIZE, **wishes) as volume, shown(volume, tmp_path) as mount:
        assert {each.name for each in (mount / "etc").iterdir()} == {
            "fstab",
            "fstab.old",
            "hostname",
            "linked",
            "made",
        }
        assert (mount / "etc/hostname").read_text() == "over\n"
        assert (mount / "etc/linked").samefile(mount / "etc/made")
        root, other = (mount / "etc/fstab").read_text().splitlines()[1:]
        assert root.endswith(" / xfs noatime 0 1")
        assert other.endswith("defaults,nofail 0 2")
        assert root.split()[0] == f"UUID={superblock(tmp_path / 'image')['uuid']}"
        assert {each.name for each in (mount / "dev").iterdir()} == {"console", "null", "tty", "zero"}
        assert (mount / "dev/null").is_char_device()
    assert described(tree) == before


def test_each_copy_is_another(tree: Path, scratch: Path) -> None:
    """No later run takes its bytes for those of an earlier one."""
    with copied(tree, scratch) as one, copied(tree, scratch) as other:
        assert one.digest != other.digest


def test_written_afterwards(tree: Path, tmp_path: Path, scratch: Path) -> None:
    """The kernel goes on with the file system."""
    with copied(tree, scratch) as volume, shown(volume, tmp_path):
        pass
    with shown_by_kernel(tmp_path / "image", tmp_path / "mnt", writable=True) as mount:
        (mount / "etc/more").write_bytes(b"m" * MIB)
        assert (mount / "etc/hostname").read_text() == "host\n"


def test_says_how_far_it_is(tree: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that takes its time reports what is copied, each time twice as much."""
    (tree / "large").write_bytes(b"x" * (5 * MIB))
    monkeypatch.setattr(writing, "FIRST_CALL", MIB)
    said: list[str] = []
    with copied(tree, scratch, says=said.append):
        pass
    assert said == [f"copies 5.0 MiB into a file in {scratch}", *(f"copied {n}.0 MiB so far" for n in (1, 2, 4))]
