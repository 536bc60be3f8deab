"""The command, run in a thread of the test or as a process of its own, against a scripted daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from amistream.cli.main import run
from bundles.bucket import bucket, cloud, ministack
from cli.running import Cli, Outcome, Running, Spawn
from cli.scripted import ScriptedDaemon
from support import commands

__all__ = ["bucket", "cloud", "ministack"]


@pytest.fixture
def socket() -> Iterator[Path]:
    # The path of a Unix socket has 107 bytes at most; pytest's own folders may be deeper.
    with tempfile.TemporaryDirectory(prefix="amistream-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "daemon.sock"


@pytest.fixture(autouse=True)
def own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test's job gets into the journal of the machine that it runs on."""
    monkeypatch.setenv("AMISTREAM_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
async def daemon(socket: Path) -> AsyncIterator[ScriptedDaemon]:
    async with ScriptedDaemon(socket).serve() as daemon:
        yield daemon


@pytest.fixture
def cli(socket: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command in a thread: quick, and all but signals and terminals are as in a process."""
    monkeypatch.setenv("AMISTREAM_SOCKET", str(socket))

    async def call(*words: str) -> Outcome:
        status = await asyncio.to_thread(run, list(words))
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture
async def spawn(socket: Path) -> AsyncIterator[Spawn]:
    """Start the installed command as a process."""
    started: list[Running] = []

    async def start(*words: str | Path, before: tuple[str, ...] = (), **options: Any) -> Running:
        environ = {**os.environ, "AMISTREAM_SOCKET": str(socket), **options.pop("env", {})}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        line = [*before, str(commands.COMMANDS / "amistream"), *map(str, words)]
        running = await Running.start(line, forked=not before, env=environ, **{**streams, **options})
        started.append(running)
        return running

    yield start
    for running in started:
        running.process.kill()
        await running.communicate()
        await running.wait()
