"""Fixtures of the checks' tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jobs.work import use_endpoint
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing
from checks.scene import Scene


@pytest.fixture
def scene(tmp_path: Path, key_ring: KeyRing) -> Scene:
    return Scene(image=random_image(tmp_path / "disk.img", 700_000), keys=key_ring, tmp_path=tmp_path)


@pytest.fixture
def bucket(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(ministack, monkeypatch)
    return make_bucket(ministack)
