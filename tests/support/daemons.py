"""The real daemon in a process of its own and the real command, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support import commands
from support.commands import COMMANDS
from support.processes import ServerProcess

if TYPE_CHECKING:
    from support.endpoints import Endpoint
    from support.keys import KeyRing

PATIENCE_S = 240


def peak_rss(pid: int) -> int:
    """Read the peak memory of a process in bytes."""
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found) << 10


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A running `amistreamd` and its clients."""

    process: ServerProcess
    socket: Path
    environ: dict[str, str]
    forked: bool

    def command(self, *argv: object) -> subprocess.CompletedProcess[str]:
        """Run `amistream ARGV` against this daemon."""
        line = [COMMANDS / "amistream", *argv, "--socket", self.socket]
        return commands.run(line, forked=self.forked, env=self.environ, timeout=PATIENCE_S)

    def curl(self, path: str, *options: str) -> tuple[int, Any]:
        """Request a path of the API with curl; return the status and the JSON or text."""
        line = ["curl", "-sS", "--unix-socket", str(self.socket), "-w", "\n%{http_code}", *options, f"http://d{path}"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        body, _, status = done.stdout.rpartition("\n")
        try:
            return int(status), json.loads(body)
        except json.JSONDecodeError:
            return int(status), body

    def submit(self, **request: object) -> str:
        """Submit a job and return its id; None leaves a field out."""
        given = {name: value for name, value in request.items() if value is not None}
        status, job = self.curl("/v1/jobs", "-d", json.dumps(given))
        assert status == 202, job
        return str(job["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        status, job = self.curl(f"/v1/jobs/{job_id}")
        assert status == 200, job
        found: dict[str, Any] = job
        return found

    def wait_ended(self, job_id: str) -> dict[str, Any]:
        """Return the job once the stream of its events ends."""
        status, _ = self.curl(f"/v1/jobs/{job_id}/events", "-N")
        assert status == 200
        return self.job(job_id)

    def peak_rss(self) -> int:
        """Read the daemon's peak memory in bytes."""
        return peak_rss(self.process.pid)

    def threads(self) -> list[str]:
        return sorted(path.read_text().strip() for path in Path(f"/proc/{self.process.pid}/task").glob("*/comm"))


@contextmanager
def running_daemon(
    directory: Path, endpoint: Endpoint | None, *, forked: bool = True, **settings: object
) -> Iterator[Daemon]:
    """Run `amistreamd` with these settings against `endpoint`; it is stopped with SIGTERM at the end.

    With `forked=False` it and its commands are started as a user starts them.
    """
    socket = directory / "amistream.sock"
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        # Else commands that work by themselves would take the keys of this machine's own daemon.
        "AMISTREAM_STATE_DIR": str(directory / "state"),
        **(endpoint.environ() if endpoint else {}),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        **{f"AMISTREAM_{name.upper()}": str(value) for name, value in settings.items()},
    }
    argv = [str(COMMANDS / "amistreamd"), "--socket", str(socket)]
    process = ServerProcess(argv, log=directory / "daemon.log", environ=environ, directory=directory, forked=forked)
    daemon = Daemon(process=process, socket=socket, environ=environ, forked=forked)
    try:
        process.wait_ready(lambda: socket.exists() and daemon.curl("/v1/health")[0] == 200)
        yield daemon
    finally:
        process.stop()


def identity(keys: KeyRing) -> Sequence[object]:
    """Give the command line options of the bundle's owner."""
    return (
        *("--cert", keys.user.certificate, "--private-key", keys.user.key),
        *("--ec2-cert", keys.ec2.certificate, "--account", "123456789012"),
    )


def owner(keys: KeyRing) -> dict[str, str]:
    """Give the same as fields of a request."""
    return {
        "account": "123456789012",
        "certificate": str(keys.user.certificate),
        "private_key": str(keys.user.key),
        "ec2_certificate": str(keys.ec2.certificate),
    }
