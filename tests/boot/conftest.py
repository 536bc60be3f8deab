"""The systems that the disks of these tests hold; each is made once."""

from __future__ import annotations

import pytest

from boot.tiny_system import TinySystem, tiny_system


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    """A system that boots."""
    return tiny_system(tmp_path_factory.mktemp("system"))
