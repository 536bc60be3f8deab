"""Fixtures of whole jobs that meet faults."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from faults.scene import MakeScene, Scene, lasting_clients, quick_settings, watched_proxy
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
        lives = quick_settings(tmp_path, **changes)
        async with AsyncExitStack() as stack:
            ec2 = stack.enter_context(chosen.blocking_client("ec2"))
            ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": ["none"]}])  # connects
            proxy = await stack.enter_async_context(watched_proxy(chosen, faults, at_random))
            await stack.enter_async_context(lasting_clients(lives, monkeypatch))
            yield Scene(
                endpoint=chosen,
                proxy=proxy,
                bucket=bucket,
                image=random_image(tmp_path / "disk.img", size),
                keys=key_ring,
                directory=tmp_path,
                settings=lives,
                ec2=ec2,
            )

    return make
