"""Fixtures of whole jobs that meet faults."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from faults.ground import making_ground
from faults.machine import Machine
from faults.scene import Scene, quick_settings, watched_proxy
from jobs.work import use_endpoint
from support.proxy import dry_run_answered
from support.volumes import random_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from conftest import MakeProxy
    from faults.ground import Ground
    from faults.scene import MakeScene
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import Action, Fault, Request

SIZE = 1_200_000
"""Five parts."""


@pytest.fixture(scope="session")
def ground(ministack: Endpoint) -> Iterator[Ground]:
    """A bucket of ministack's that the tests of this folder share."""
    with making_ground(ministack) as made:
        yield made


@pytest.fixture
def scene(ground: Ground, key_ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeScene:
    """A function that makes a `Scene` with these faults and settings."""

    @asynccontextmanager
    async def make(
        *faults: Fault,
        size: int = SIZE,
        at_random: Callable[[Request], Action | None] | None = None,
        **changes: Any,
    ) -> AsyncIterator[Scene]:
        use_endpoint(ground.endpoint, monkeypatch)
        chosen = quick_settings(tmp_path, **changes)
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(watched_proxy(ground.endpoint, faults, at_random))
            # One client for all runs: making one takes most of a short run.
            aws = await stack.enter_async_context(Aws(chosen))
            yield Scene(
                ground=ground,
                root=secrets.token_hex(6),
                proxy=proxy,
                image=random_image(tmp_path / "disk.img", size),
                keys=key_ring,
                directory=tmp_path,
                settings=chosen,
                aws=aws,
            )

    return make


@pytest.fixture
def machine(tmp_path: Path, ground: Ground, make_proxy: MakeProxy, key_ring: KeyRing) -> Machine:
    return Machine(
        directory=tmp_path,
        ground=ground,
        root=secrets.token_hex(6),
        proxy=make_proxy(ground.endpoint, dry_run_answered()),
        keys=key_ring,
        image=random_image(tmp_path / "disk.img", 1_200_000),
    )
