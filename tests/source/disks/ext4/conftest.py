"""Images that several tests of ext4 look at; none of them changes one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol

import pytest

from source.disks.ext4 import filled

if TYPE_CHECKING:
    from pathlib import Path

    from source.disks.ext4.filled import Filled


class GetImage(Protocol):
    def __call__(self, variant: str) -> Filled: ...


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("mke2fs", "debugfs", "dumpe2fs", "e2fsck"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian package e2fsprogs)")
    return tmp_path_factory.mktemp("ext4")


@pytest.fixture(scope="session")
def tree(folder: Path) -> Path:
    """The files that every image holds at first."""
    return filled.write_tree(folder / "tree")


@pytest.fixture(scope="session")
def image(folder: Path, tree: Path) -> GetImage:
    """Get the image of a variant; each is made once."""
    made: dict[str, Filled] = {}

    def get(variant: str) -> Filled:
        if variant not in made:
            path = folder / f"{list(filled.VARIANTS).index(variant)}.img"
            made[variant] = filled.looked_at(filled.make(path, variant, tree))
        return made[variant]

    return get
