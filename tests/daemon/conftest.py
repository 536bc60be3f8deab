"""The daemon's application for the length of a test, on uvloop as in production."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import uvloop

from daemon.rig import StartDaemon, running_app


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
    return partial(running_app, tmp_path)
