"""Runs the commands of `on_success` and `on_failure` when a job of the daemon has ended.

A hook runs at most once for each end: after the end is in the journal, and not again after a crash. It runs as the
daemon's user, without a shell, and gets the job as JSON on its standard input. Time, output, and the number of hooks
that run or wait are limited. Nothing that a hook does changes a job: it is logged and counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from amistream.events import State
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import task_group
from amistream.jobs.job import Job
from amistream.settings import Settings
from amistream.values import KIB

AT_ONCE = 4
"""Hooks that run at the same time. Guess."""
MOST_WAITING = 100
"""Hooks that run or wait at most; a further one is dropped. Guess: each holds the text of a job."""
MOST_OUTPUT = 4 * KIB
"""Bytes of a hook's output that are logged; the rest is read and dropped."""
KILLED_AFTER_S = 2.0
"""From SIGTERM to SIGKILL, for a hook that takes too long. Guess."""
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ", "USER")
"""Variables that a hook gets. The daemon's others may hold credentials."""
HOOKS = {State.DONE: "on_success", State.FAILED: "on_failure", State.REFUSED: "on_failure"}
"""The hook of each end. A job that was cancelled or interrupted has none."""
OUTCOMES = ("ok", "failed", "timeout", "stopped", "dropped")

LOG: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a hook. `outcome`: ok, failed or timeout."""

    outcome: str
    status: int | None = None
    output: str = ""


class Hooks:
    """`watched(run)` begins a hook behind each run of a job, while the block of `running` lasts."""

    def __init__(self, settings: Settings, counts: Counter[tuple[str, str]]) -> None:
        """`counts` gets the ends of hooks, by hook and outcome (`OUTCOMES`)."""
        self._commands = {"on_success": settings.on_success, "on_failure": settings.on_failure}
        self._timeout_s = settings.hook_timeout_s
        self._counts = counts
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reason = ""
        """Why the hooks are ended."""

    @asynccontextmanager
    async def running(self, hurry: asyncio.Event) -> AsyncIterator[None]:
        """Run hooks while the block lasts; its exit waits for them, as long as one hook may take.

        `hurry` ends all that run or wait.
        """

        async def end_in_a_hurry() -> None:
            await hurry.wait()
            self._end_all("the daemon was told to stop at once")

        async with task_group() as around:
            hurrying = around.create_task(end_in_a_hurry(), name="end hooks")
            async with task_group() as self._group:
                yield
                # A hook that has just begun has the time that it has otherwise.
                most_s = self._timeout_s + KILLED_AFTER_S
                reason = f"the daemon stops, and has waited {most_s:g} s for its hooks (hook_timeout_s)"
                ending = asyncio.get_running_loop().call_later(most_s, self._end_all, reason)
            self._group = None
            ending.cancel()
            hurrying.cancel()

    def _end_all(self, reason: str) -> None:
        self._group, self._reason = None, reason
        for task in self._tasks:
            task.cancel()

    def watched(self, run: Callable[[Job], Awaitable[None]]) -> Callable[[Job], Awaitable[None]]:
        async def run_and_tell(job: Job) -> None:
            try:
                await run(job)
            finally:
                self._begin(job)

        return run_and_tell

    def _begin(self, job: Job) -> None:
        hook = HOOKS.get(job.state, "")
        command = self._commands.get(hook)
        if not command or self._group is None:
            return
        if len(self._tasks) >= MOST_WAITING:
            self._counts[hook, "dropped"] += 1
            LOG.warning("hook.dropped", hook=hook, job=job.id, reason=f"{MOST_WAITING} hooks run or wait already")
            return
        # As it is now: an ended job may be put away.
        facts = {"hook": hook, "host": socket.gethostname(), **job.view().model_dump(mode="json")}
        work = self._run(hook, command, json.dumps(facts).encode(), job.id)
        task = self._group.create_task(work, name=f"{hook} {job.id}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._settle(done, hook, job.id))

    def _settle(self, task: asyncio.Task[None], hook: str, job_id: str) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._counts[hook, "stopped"] += 1
            LOG.warning("hook.stopped", hook=hook, job=job_id, reason=self._reason)

    async def _run(self, hook: str, command: Sequence[str], document: bytes, job_id: str) -> None:
        async with self._slots:
            began = time.monotonic()
            try:
                end = await _run_command(command, document, self._timeout_s)
            except (OSError, ValueError) as error:  # a word has a NUL, for example
                why = getattr(error, "strerror", None) or error
                end = _End("failed", output=f"cannot start {command[0]}: {why}")
        self._counts[hook, end.outcome] += 1
        level = LOG.info if end.outcome == "ok" else LOG.warning
        elapsed_s = round(time.monotonic() - began, 3)
        level(
            "hook.end",
            hook=hook,
            job=job_id,
            outcome=end.outcome,
            status=end.status,
            elapsed_s=elapsed_s,
            output=end.output,
        )


class _Output(asyncio.Protocol):
    """The beginning of a hook's output."""

    def __init__(self) -> None:
        self.is_closed = asyncio.Event()
        self._kept = b""

    def data_received(self, data: bytes) -> None:
        self._kept += data[: MOST_OUTPUT - len(self._kept)]

    def connection_lost(self, _: Exception | None) -> None:
        self.is_closed.set()

    def text(self) -> str:
        return self._kept.decode(errors="replace").strip()


async def _run_command(command: Sequence[str], document: bytes, timeout_s: float) -> _End:
    """Run a command to its end, with `document` as its standard input. Its process group ends with it."""
    outlet, inlet = os.pipe()
    listening, output = await asyncio.get_running_loop().connect_read_pipe(
        _Output, os.fdopen(outlet, "rb", buffering=0)
    )
    try:
        try:
            # A file in memory: the hook need not read it, and nothing waits until it does.
            with os.fdopen(os.memfd_create("job"), "w+b", buffering=0) as given:
                given.write(document)
                given.seek(0)
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=given,
                    stdout=inlet,
                    stderr=inlet,
                    cwd="/",
                    env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                    start_new_session=True,
                )
        finally:
            os.close(inlet)
        outcome = "timeout"
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    outcome = "failed" if await process.wait() else "ok"
        finally:
            await finish_despite_cancel(_end_group(process))
        # A process that has left the group may keep the output open.
        with suppress(TimeoutError):
            await asyncio.wait_for(output.is_closed.wait(), KILLED_AFTER_S)
        return _End(outcome, process.returncode, output.text())
    finally:
        listening.close()


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the process and all that it started in its group: with SIGTERM if it still runs, at last with SIGKILL."""
    with suppress(ProcessLookupError, TimeoutError):
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await asyncio.wait_for(process.wait(), KILLED_AFTER_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
