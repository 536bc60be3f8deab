"""Hosts of a fleet: daemons that are forked, each with a socket, a state directory and a name of its own."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.commands import COMMANDS
from support.processes import Killable
from support.unix_http import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.endpoints import Endpoint


@dataclass(kw_only=True)
class Host:
    """A daemon, with its files, which stay when it is killed."""

    name: str
    directory: Path
    process: Killable | None = None
    starts: int = 0
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.directory / "s"

    @property
    def running(self) -> Killable:
        assert self.process is not None
        return self.process

    def start(self, endpoint: Endpoint, settings: Mapping[str, object], **environ: str) -> None:
        """Start the daemon with these settings; it has the credentials of `endpoint` and finds it by itself."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.directory),
            **endpoint.environ(),
            "AWS_SDK_UA_APP_ID": self.name,
            "AWS_ENDPOINT_URL": endpoint.url,
            **environ,
            **{f"AMISTREAM_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.start_again()

    def start_again(self) -> None:
        """Start the daemon as before."""
        argv = [str(COMMANDS / "amistreamd"), "--socket", str(self.socket), "--state-dir", f"{self.directory}/state"]
        self.socket.unlink(missing_ok=True)
        log = self.directory / f"daemon-{self.starts}.log"
        self.process = Killable(argv, log=log, environ=self.environ, directory=self.directory, forked=True)
        self.starts += 1

    def kill(self) -> None:
        """End the daemon as the kernel does when memory is short."""
        self.running.end(signal.SIGKILL, twice=False)
        self.process = None

    def wait_ready(self) -> None:
        self.running.wait_ready(self.answers)

    def ask(self, path: str) -> bytes:
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("/v1/health"))
        return found

    def answers(self) -> bool:
        try:
            return bool(self.health()["status"] == "ok")
        except OSError:
            return False

    def metric(self, name: str) -> float:
        """The metric of the queue with this name."""
        text = self.ask("/metrics").decode()
        found = re.search(rf"^amistream_queue_{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def memory(self) -> int:
        """Bytes of memory that the daemon shares with no other process."""
        text = Path(f"/proc/{self.running.pid}/smaps_rollup").read_text()
        return sum(int(each) for each in re.findall(r"^Private_\w+:\s+(\d+) kB$", text, re.MULTILINE)) << 10
