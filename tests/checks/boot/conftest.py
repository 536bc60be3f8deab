"""The good disk, made once, and a copy of it for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.boot.good_system import Image, copy_of, good_disk
from support.boot_disks import BootDisk


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> BootDisk:
    return good_disk(tmp_path_factory.mktemp("good"))


@pytest.fixture
def image(disk: BootDisk, tmp_path: Path) -> Image:
    return copy_of(disk, tmp_path)
