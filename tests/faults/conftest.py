"""Fixtures of whole jobs that meet faults."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from faults.scene import MakeScene, Scene, quick_settings, watched_proxy
from jobs.work import use_endpoint
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action, Fault, Request

SIZE = 1_200_000
"""Five parts."""


@pytest.fixture
def scene(
    ministack: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MakeScene:
    """A function that makes a `Scene` with these faults and settings, before ministack unless told otherwise."""

    @asynccontextmanager
    async def make(
        *faults: Fault,
        endpoint: Endpoint | None = None,
        size: int = SIZE,
        at_random: Callable[[Request], Action | None] | None = None,
        **changes: Any,
    ) -> AsyncIterator[Scene]:
        chosen = endpoint or ministack
        use_endpoint(chosen, monkeypatch)
        bucket = make_bucket(chosen)
        async with watched_proxy(chosen, faults, at_random) as proxy:
            yield Scene(
                endpoint=chosen,
                proxy=proxy,
                bucket=bucket,
                image=random_image(tmp_path / "disk.img", size),
                keys=key_ring,
                directory=tmp_path,
                settings=quick_settings(tmp_path, **changes),
            )

    return make
