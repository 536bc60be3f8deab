"""Fixtures of the tests of trees that become an xfs: root mounts, and asks mkfs.xfs for the file system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.mounts import small_disk

NEEDED = ("mkfs.xfs", "xfs_repair", "xfs_db")


@pytest.fixture(autouse=True)
def _can_mount(tmp_path: Path) -> None:
    """Skip where nobody may mount, or xfsprogs is missing."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    if not all(map(shutil.which, NEEDED)):
        pytest.skip("xfsprogs is not installed")
    with small_disk(tmp_path / "probe", "64k"):
        pass


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The directory of the temporary file."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of the test's own."""
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("host\n")
    return root
