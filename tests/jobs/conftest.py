"""Fixtures of whole jobs in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from jobs.converting import Conversions, make_disk
from jobs.runs import Cloud, open_scene
from jobs.work import settings, use_endpoint
from support.proxy import dry_run_answered
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from jobs.runs import MakeScene, Scene
    from support.ebs_endpoint import EbsEndpoint
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 3_000_000)


@pytest.fixture
def make_scene(image: Path, tmp_path: Path, key_ring: KeyRing) -> MakeScene:
    """A function that opens an engine on the state directory: about 12 parts of the image, a few at a time."""

    def make(*, by_itself: bool = True, **changes: Any) -> AbstractAsyncContextManager[Scene]:
        chosen = settings(tmp_path, **{"upload_concurrency": 2, "block_size": "64KiB", **changes})
        return open_scene(chosen, image, key_ring, tmp_path / "out", by_itself=by_itself)

    return make


@pytest.fixture
async def scene(make_scene: MakeScene) -> AsyncIterator[Scene]:
    async with make_scene() as opened:
        yield opened


@pytest.fixture
def cloud(
    ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> Cloud:
    use_endpoint(ministack, monkeypatch)
    return Cloud(endpoint=ministack, proxy=make_proxy(ministack, dry_run_answered()), make_bucket=make_bucket)


@pytest.fixture
def conversions(ebs_endpoint: EbsEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conversions:
    use_endpoint(ebs_endpoint, monkeypatch)
    return Conversions(disk=make_disk(tmp_path / "converted.img"), endpoint=ebs_endpoint, directory=tmp_path)
