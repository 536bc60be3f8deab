"""Server programs in processes of their own.

`ServerProcess` starts one, keeps what it prints in a file, waits until its own API answers, and ends
exactly the process group it started. It does not know what the programs are, but that `support.commands` can fork some.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from support import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 10.0
LONGEST_END_S = 60.0
POLL_SECONDS = 0.05
LOG_TAIL = 6000


class StartError(Exception):
    """A test server did not become ready; the message holds what it printed."""


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that nothing used a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class ServerProcess:
    """A running server program and the file that holds its output."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        directory: Path,
        stop_with: signal.Signals = signal.SIGTERM,
        forked: bool = False,
    ) -> None:
        # The servers must not outlive a test run that was killed outright; those that are forked do not.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") and not forked else []
        start = commands.Popen[bytes] if forked else subprocess.Popen[bytes]
        self.log = log
        self._stop_with = stop_with
        with log.open("wb") as output:
            self._process = start(
                [*guard, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**_plain_environ(), **environ},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, probe: Callable[[], bool], *, seconds: float = START_SECONDS) -> Self:
        """Poll `probe` until it says yes; raise StartError, and stop, when the server ends or is too slow."""
        deadline = time.monotonic() + seconds
        try:
            while not probe():
                if self._ended_within(POLL_SECONDS):
                    raise StartError(self._report(f"ended with status {self._process.returncode}"))
                if time.monotonic() > deadline:
                    raise StartError(self._report(f"is not ready after {seconds:.0f} s"))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process group that was started here, by force when asking does not help."""
        for number in (self._stop_with, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, number)
            if self._ended_within(STOP_SECONDS):
                return

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _report(self, what: str) -> str:
        return f"{self._process.args!r} {what}; it printed:\n{self.output()[-LOG_TAIL:]}"


class Killable(ServerProcess):
    """A daemon that is ended by a signal."""

    def end(self, number: signal.Signals, *, twice: bool) -> None:
        """Send `number`, a second time too where `twice` and it is SIGTERM, and wait for the end."""
        self._process.send_signal(number)
        if number == signal.SIGTERM and twice:
            self._process.send_signal(number)
        self.wait_end(number)

    def wait_end(self, number: signal.Signals) -> None:
        """Wait for the end that `number` brings."""
        status = self._process.wait(LONGEST_END_S)
        assert status == (-number if number == signal.SIGKILL else 0), self.output()


def _plain_environ() -> dict[str, str]:
    """Return this environment without the settings of any cloud, emulator or coverage run."""
    private = ("AWS_", "EC2_", "MOTO_", "MINISTACK_", "S3_", "COV_CORE_", "COVERAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(private)}
