"""The short ways for plain files: what they make is what the general ways make, in the walk and in the image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from amistream.source.tree import records
from amistream.source.tree.plain import PlainFiles
from amistream.source.tree.report import Fate
from amistream.source.tree.tree import Tree
from source.nobody import as_nobody, open_folder
from source.tree.images import opened

PEM = b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"
WISHES: dict[str, dict[str, Any]] = {
    "default": {},
    "no rules": {"clean": ()},
    "all rules": {"clean": ("secrets", "history", "identity", "logs", "caches"), "exclude": ["size4*", "/odd/gl*"]},
    "include": {"include": ["*.key"], "exclude": ["/files/size60", "with space"]},
}


class Plain:
    """Counts the files that come in by the short way, and closes it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._patch = patch
        add_files = Tree.add_files

        def counted(tree: Tree, files: Any, *given: Any, **named: Any) -> None:
            self.count += len(files)
            add_files(tree, files, *given, **named)

        patch.setattr(Tree, "add_files", counted)

    def close(self) -> None:
        self._patch.setattr(PlainFiles, "enter", lambda *_: False)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Plain:
    return Plain(monkeypatch)


def planned(root: Path, **wishes: Any) -> tuple[str, list[str]]:
    """The digest of the plan, and the report."""
    with opened(root, **wishes) as volume:
        return volume.digest, list(volume.report.lines())


@pytest.mark.parametrize("wishes", WISHES)
def test_same_plan(nasty_tree: Path, wishes: str, plain: Plain) -> None:
    """The plan of a tree with one of everything is the same by both ways."""
    found = planned(nasty_tree, size=1 << 31, **WISHES[wishes])
    by_short_way, plain.count = plain.count, 0
    plain.close()
    assert planned(nasty_tree, size=1 << 31, **WISHES[wishes]) == found
    assert plain.count == 0
    assert (by_short_way > 1_000) == (wishes in {"default", "no rules", "include"})


def test_same_rules(tree: Path, plain: Plain) -> None:
    """A file that a rule leaves out by its place, name, inode or content is left out by both ways."""
    for path in ("etc/machine-id", "etc/a.key", "home/u/.bash_history", "tmp/x", "state/journal", "var/log/x", "kept"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(PEM if path.endswith(".key") else b"x" * 100)
    os.link(tree / "kept", tree / "linked")
    wishes = {"clean": ("secrets", "history", "identity", "logs"), "own": [tree / "state/journal"]}
    found = planned(tree, **wishes)
    assert plain.count == 0
    plain.close()
    assert planned(tree, **wishes) == found
    assert len(found[1]) == 6


def test_unreadable(plain: Plain) -> None:
    """A file that cannot be read is reported, and the others come in."""
    if os.geteuid() != 0:
        pytest.skip("needs files of another user")
    with open_folder() as folder:
        for name in ("closed", "open"):
            (folder / name).write_bytes(b"x" * 100)
        (folder / "closed").chmod(0o600)
        with as_nobody(), opened(folder, allow_unreadable=True) as volume:
            assert volume.report.paths(*Fate) == volume.report.paths(Fate.UNREADABLE) == [b"closed"]
            assert volume.inodes == 4
        assert plain.count == 1


@pytest.mark.parametrize("profile", ["ext4", "ext4-csum"])
def test_same_inodes(nasty_tree: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inodes of files that are one extent are the same to the byte as the general way packs them."""
    with opened(nasty_tree, size=1 << 31, profile=profile) as volume:
        tables = memoryview(bytearray(1 << 24))
        volume.read_into(0, tables)
        packed = []
        monkeypatch.setattr(records, "pack_file_into", lambda *given: packed.append(given))
        missing = memoryview(bytearray(1 << 24))
        volume.read_into(0, missing)
        monkeypatch.undo()
        monkeypatch.setattr(records, "LARGE_INODE", 0)
        again = memoryview(bytearray(1 << 24))
        volume.read_into(0, again)
    assert len(packed) > 20
    assert missing != tables
    assert again == tables
