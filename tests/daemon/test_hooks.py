"""The commands that run when a job has ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from amistream.daemon import hooks as module
from amistream.daemon.hooks import MOST_OUTPUT, Hooks
from amistream.errors import RefusedError
from amistream.events import State
from amistream.jobs.job import End, Job
from amistream.settings import Settings
from jobs.queueing import RESULT, request

DONE = End(State.DONE, result=RESULT)
REFUSED = End(State.REFUSED, error=RefusedError("source.missing", "cannot read /volumes/a: it does not exist"))


async def end_jobs(settings: Settings, *ends: End, hurry: asyncio.Event | None = None) -> Counter[tuple[str, str]]:
    """Bring a job to each end, and wait for the hooks."""
    counts: Counter[tuple[str, str]] = Counter()
    hooks = Hooks(settings, counts)
    async with hooks.running(hurry or asyncio.Event()):
        for end in ends:
            job = Job(request("a"))

            async def run(job: Job, end: End = end) -> None:
                job.move(State.CHECKING)
                if end.state is State.DONE:
                    job.move(State.COMMITTING)
                job.end(end)

            await hooks.watched(run)(job)
    return counts


def shell(script: str, **changes: Any) -> Settings:
    return Settings(on_failure=("/bin/sh", "-c", script), **changes)


def no_descriptor(*_: object) -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_the_hook_of_an_end_gets_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each end has its hook, which gets the job as JSON and no credentials; a job that was cancelled has none."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    good, bad = tmp_path / "good", tmp_path / "bad"
    settings = Settings.model_validate(
        {"on_success": f"/bin/sh -c 'cat >{good}'", "on_failure": ["/bin/sh", "-c", f"cat >{bad}; env >&2"]}
    )
    with capture_logs() as log:
        counts = await end_jobs(settings, DONE, REFUSED, End(State.CANCELLED), End(State.INTERRUPTED))
    assert counts == {("on_success", "ok"): 1, ("on_failure", "ok"): 1}
    done, refused = (json.loads(path.read_text()) for path in (good, bad))
    assert (done["hook"], done["state"], done["result"]["bundled_size"]) == ("on_success", "done", 400)
    assert (refused["hook"], refused["state"], refused["error"]["code"]) == ("on_failure", "refused", "source.missing")
    assert done["host"] == os.uname().nodename
    output = "".join(line["output"] for line in log)
    assert "PATH=" in output
    assert "AWS_" not in output


@pytest.mark.parametrize(
    ("command", "settings", "outcome", "statuses"),
    [
        ("echo no >&2; exit 3", {}, "failed", {3}),
        ("while :; do echo 0123456789; done", {"hook_timeout_s": 0.05}, "timeout", {-signal.SIGTERM, -signal.SIGKILL}),
        ("exec >&- 2>&-; sleep 3600 & exit 0", {}, "ok", {0}),
    ],
)
async def test_a_hook_is_limited(command: str, settings: dict[str, Any], outcome: str, statuses: set[int]) -> None:
    """A hook that fails, does not end, or leaves a process behind is ended, logged with a part of its output."""
    with capture_logs() as log:
        counts = await end_jobs(shell(command, **settings), REFUSED)
    assert counts == {("on_failure", outcome): 1}
    [line] = log
    assert (line["event"], line["outcome"]) == ("hook.end", outcome)
    assert line["status"] in statuses
    assert len(line["output"]) <= MOST_OUTPUT


async def test_a_stop_waits_for_no_more_than_one_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that run or wait at a stop are ended once the time of one is over, with a line each."""
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "KILLED_AFTER_S", 0.3)
    with capture_logs() as log:
        counts = await end_jobs(shell("sleep 3600", hook_timeout_s=0.2), *[REFUSED] * 5)
    assert counts["on_failure", "stopped"] >= 3
    assert counts.total() == 5
    assert "hook_timeout_s" in log[-1]["reason"]


async def test_a_command_that_is_not_there() -> None:
    """A command that cannot be started is a failed hook, and no other job notices."""
    with capture_logs() as log:
        counts = await end_jobs(Settings(on_success=("/no/such",)), DONE, DONE)
    assert counts == {("on_success", "failed"): 2}
    assert log[0]["output"] == "cannot start /no/such: No such file or directory"


async def test_no_descriptor_for_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that cannot even get its pipes has failed, and the daemon goes on."""
    await end_jobs(Settings(on_success=("/bin/true",)), DONE)  # the first process of a loop opens files that stay
    before = len([*Path("/proc/self/fd").iterdir()])
    for name in ("memfd_create", "pipe"):
        monkeypatch.setattr(os, name, no_descriptor)
        assert await end_jobs(Settings(on_success=("/bin/true",)), DONE) == {("on_success", "failed"): 1}
    assert len([*Path("/proc/self/fd").iterdir()]) == before


async def test_hooks_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks beyond the limit are dropped; the second signal ends those that run and those that wait."""
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, hurry.set)
    try:
        counts = await end_jobs(shell("kill -USR1 $PPID; sleep 3600"), REFUSED, REFUSED, REFUSED, hurry=hurry)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
    assert counts == {("on_failure", "dropped"): 1, ("on_failure", "stopped"): 2}
