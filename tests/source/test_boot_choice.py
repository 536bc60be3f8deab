"""The boot area that a directory gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.boot_opening import open_with_boot_area
from amistream.source.clone import CloneVolume
from amistream.source.disk_reader import reader_of
from amistream.source.disks.facts import TableKind
from amistream.source.disks.partitions import read_table
from amistream.source.file import FileVolume
from amistream.source.opening import open_source, tree_of
from amistream.source.tree.opening import TreeWishes
from support.boot_disks import boot_disk, need_grub
from support.live_disks import in_use
from support.volumes import MIB, random_image

SIZE = 32 * MIB
WISHES = TreeWishes(most=10 << 30, size=SIZE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a kernel."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    random_image(tree / "boot" / "vmlinuz-6.1.0-1-cloud-amd64", MIB)
    return tree


def opened(path: Path, choice: BootAreaChoice) -> TableKind:
    """The table of the disk that is made of a directory, all of which has the wished size."""
    volume = open_source(
        str(path), partition=choice.table, tree=lambda directory: open_with_boot_area(choice, directory, WISHES)
    )
    try:
        assert (volume.size, tree_of(volume) is not None) == (SIZE, True)
        assert isinstance(volume, CloneVolume) is choice.words.startswith("the image gets the boot area of")
        return read_table(reader_of(volume), volume.size).kind
    finally:
        volume.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_root(tree: Path, tmp_path: Path) -> None:
    """The root of a disk gets all that its disk has, unless another table or none is wished for."""
    disk = boot_disk(tmp_path / "disk", tree, SIZE, "gpt")
    with in_use(disk, tmp_path / "root") as live:
        for wish in (Partitioning.AUTO, Partitioning.CLONE):
            choice = BootAreaChoice(wish)
            assert opened(live.root, choice) is TableKind.GPT
            assert choice.words == f"the image gets the boot area of {live.device} (GRUB 2)"
            assert (choice.is_new, choice.is_own_decision) == (False, wish is Partitioning.AUTO)
        assert opened(live.root, BootAreaChoice(Partitioning.MBR)) is TableKind.MBR
        assert opened(live.root, BootAreaChoice(Partitioning.NONE)) is TableKind.NONE


def test_a_directory_with_a_kernel(tree: Path) -> None:
    """A directory that is no root of a disk gets a new boot area, with the reason, if it is for hvm and a BIOS."""
    need_grub()
    choice = BootAreaChoice(Partitioning.AUTO)
    assert opened(tree, choice) is TableKind.MBR
    assert (choice.is_new, choice.is_own_decision) == (True, True)
    assert "a new boot area (mbr) with this machine's GRUB: amistream cannot take over the boot area" in choice.words
    for other in (
        BootAreaChoice(Partitioning.NONE),
        BootAreaChoice(Partitioning.AUTO, has_bios=False),
        BootAreaChoice(Partitioning.AUTO, is_hvm=False),
    ):
        assert opened(tree, other) is TableKind.NONE
        assert not other.is_new


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_may_not_be_read(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may read the files, and not their disk, gets a new boot area, with the reason."""
    need_grub()

    def denied(path: Path, *, live: bool) -> FileVolume:
        raise RefusedError("source.unreadable", f"cannot read {path}: Permission denied", field="source")

    disk = boot_disk(tmp_path / "disk", tree, SIZE, "mbr")
    monkeypatch.setattr("amistream.source.clone.open_volume", denied)
    with in_use(disk, tmp_path / "root") as live:
        choice = BootAreaChoice(Partitioning.AUTO)
        assert opened(live.root, choice) is TableKind.MBR
        assert choice.is_new
        assert f"cannot read {live.device}: Permission denied" in choice.words


@pytest.mark.parametrize("inside", ["", "boot", "boot/readme"])
def test_a_directory_without_a_kernel(inside: str, tmp_path: Path) -> None:
    """Any other directory is a bare file system, with the reason, unless a table is wished for."""
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).mkdir(exist_ok=True)
    choice = BootAreaChoice(Partitioning.AUTO)
    assert opened(tmp_path, choice) is TableKind.NONE
    assert (choice.words.startswith("the image gets no boot area: amistream cannot take over"), choice.is_new) == (
        True,
        False,
    )
    assert ("neither a kernel" in choice.words) is (inside == "boot/readme")
    for wish, code in ((Partitioning.CLONE, "partition.clone"), (Partitioning.GPT, "partition.no_kernel")):
        with pytest.raises(RefusedError) as caught:
            opened(tmp_path, BootAreaChoice(wish))
        assert caught.value.code == code
    assert not [each for each in Path("/proc/self/fd").iterdir() if os.path.realpath(each) == str(tmp_path)]


def test_another_refusal(tree: Path) -> None:
    """A directory that does not fit is refused for that, and nothing else is tried."""
    choice = BootAreaChoice(Partitioning.AUTO)
    with pytest.raises(RefusedError) as caught:
        open_with_boot_area(choice, tree, TreeWishes(most=MIB, size=MIB))
    assert caught.value.code == "source.no_room"
