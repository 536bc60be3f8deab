"""The daemon's application for the length of a test, on uvloop as in production."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from amistream.daemon.access import AccessPolicy
from amistream.daemon.app import make_app, serving
from amistream.daemon.handlers import Examine
from amistream.daemon.listener import listening
from amistream.daemon.metrics import Metrics
from amistream.jobs.journal import Journal
from amistream.jobs.queue import JobQueue
from amistream.settings import OnStop
from daemon.rig import Daemon, Script, StartDaemon, find_nothing


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the daemon on uvloop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Make a path for a socket in a directory that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "a.sock"


@pytest.fixture
def start_daemon(tmp_path: Path) -> StartDaemon:
    """Give a function that runs the application for the length of an `async with`."""

    @asynccontextmanager
    async def start(
        *,
        path: Path = tmp_path / "amistream.sock",
        max_jobs: int = 2,
        max_queued: int = 10,
        policy: AccessPolicy | None = None,
        extra: Callable[[web.Application], object] = lambda _: None,
        doors: dict[str, Any] | None = None,
        examine: Examine = find_nothing,
        **limits: Any,
    ) -> AsyncIterator[Daemon]:
        script, metrics = Script(), Metrics()
        with listening(path, None) as listener:
            async with (
                Journal(tmp_path / "state", by_itself=True) as journal,
                JobQueue(
                    metrics.watched(script.run),
                    script.clean,
                    journal,
                    max_jobs=max_jobs,
                    max_queued=max_queued,
                    default_prefix="image",
                ) as queue,
            ):
                app = make_app(queue, metrics, policy or AccessPolicy(), examine, **limits)
                extra(app)
                session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)))
                async with serving(app, listener, **(doors or {})), session:
                    try:
                        yield Daemon(path, queue, script, session)
                    finally:
                        await queue.drain(OnStop.CANCEL)

    return start
