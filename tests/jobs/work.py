"""Runs one job in this process, as `--in-process` does, against a real endpoint."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.jobs.engine import Engine
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.request import BundleRequest, parse_bundle_request
from amistream.settings import Settings
from support.daemons import owner

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.keys import KeyRing


def settings(tmp_path: Path, **changes: Any) -> Settings:
    """Settings with quick retries and a state directory of the test's own."""
    quick: dict[str, Any] = {
        "state_dir": tmp_path / "state",
        "backoff_base_s": 0.01,
        "backoff_cap_s": 0.05,
        "stall_timeout_s": 20,
        "register_poll_s": 0.01,
        "register_timeout_s": 1,
        "part_size": "256KiB",
    }
    return Settings(**{**quick, **changes})


def request(image: Path, to: str | Path, keys: KeyRing, **changes: Any) -> BundleRequest:
    """A request that would succeed, with `changes`; None takes a field out."""
    values: dict[str, Any] = {
        "source": str(image),
        "destinations": [str(to)],
        **owner(keys),
        **changes,
    }
    return parse_bundle_request({name: value for name, value in values.items() if value is not None})


def use_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in endpoint.environ().items():
        monkeypatch.setenv(name, value)


def open_files() -> set[str]:
    """The names of this process's open files."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile by another thread
            found.add(str(path.readlink()))
    return found


@asynccontextmanager
async def running_engine(chosen: Settings) -> AsyncIterator[Engine]:
    """An engine with a journal of its own in the state directory."""
    async with Journal(chosen.state_dir, by_itself=False) as journal, Aws(chosen) as aws:
        yield Engine(chosen, journal, aws)


async def run(asked: BundleRequest, chosen: Settings) -> Job:
    """Run a job to its end and prove that no thread or open file of it is left."""
    async with running_engine(chosen) as engine:
        job = Job(asked)
        await engine.enter(job)
        await engine.run(job)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("amistream-worker")]
    assert asked.source not in open_files()
    return job
