"""The page in front of a daemon with scripted jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bundles.bucket import bucket, bundle, cloud, ministack
from daemon.rig import Daemon, running_app
from web.rig import Served, serving_page

__all__ = ["bucket", "bundle", "cloud", "ministack"]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running_app(tmp_path) as daemon:
        yield daemon


@pytest.fixture
async def served(daemon: Daemon) -> AsyncIterator[Served]:
    async with serving_page(daemon.path) as served:
        yield served
