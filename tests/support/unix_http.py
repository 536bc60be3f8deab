"""HTTP over the daemon's socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any


class UnixConnection(http.client.HTTPConnection):
    """A connection to a socket of the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("daemon", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, url: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """The daemon's answer as JSON. `key` is that of idempotency. Raises AssertionError for an error."""
    connection = UnixConnection(path)
    try:
        headers = {"Idempotency-Key": key} if key else {}
        connection.request(method, url, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        assert answer.status < 400, document
        return document
    finally:
        connection.close()


def is_healthy(path: Path) -> bool:
    """True if a daemon answers, and is well."""
    try:
        return bool(ask(path, "GET", "/v1/health")["status"] == "ok")
    except OSError:
        return False


def wait_ended(path: Path, job_id: str, patience_s: float) -> dict[str, Any]:
    """Follow a job to its end; the job as it is then. Raises AssertionError when it takes longer."""
    deadline = time.monotonic() + patience_s
    connection = UnixConnection(path)
    try:
        connection.request("GET", f"/v1/jobs/{job_id}/events")
        for line in connection.getresponse():
            assert time.monotonic() < deadline, line
    finally:
        connection.close()
    job: dict[str, Any] = ask(path, "GET", f"/v1/jobs/{job_id}")
    return job
