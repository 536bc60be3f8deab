"""Fixtures of the tests of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from source.images import DATA, MIB, SIZE
from support.volumes import sparse_image


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with holes, noise, and compressible text."""
    path = sparse_image(tmp_path_factory.mktemp("disk") / "disk.img", SIZE, DATA)
    with path.open("r+b") as file:
        file.seek(12 * MIB)
        file.write(b"all work and no play\n" * 100_000)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder
