"""The systems that the disks of these tests hold; each is made once."""

from __future__ import annotations

import pytest

from boot.debian_system import debian_disk
from boot.tiny_system import TinySystem, tiny_system
from support.boot_disks import BootDisk


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    """A system that boots."""
    return tiny_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> BootDisk:
    """A disk with a whole Debian as it is in a cloud."""
    return debian_disk(tmp_path_factory.mktemp("debian"))
