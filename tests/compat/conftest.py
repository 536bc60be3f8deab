"""Runs old commands as scripts do: as processes against a local endpoint, with old command lines."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from support import commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.endpoints import Endpoint
    from support.keys import KeyRing

PATIENCE_S = 120


@dataclass(frozen=True)
class Ended:
    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Old:
    """Runs command lines in a directory of its own."""

    directory: Path

    def __call__(
        self, line: str, *, to: Endpoint | None = None, keys: bool = True, given: bytes | None = None, **environ: str
    ) -> Ended:
        """Run a command to its end; `to` is the endpoint, whose keys are in the environment unless `keys` is false."""
        done = commands.run(
            self._words(line),
            cwd=self.directory,
            env=self._environment(to, keys=keys) | environ,
            given=given,
            timeout=PATIENCE_S,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in ended.stderr, ended.stderr
        return ended

    def begin(self, line: str, stdin: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a command."""
        return commands.Popen(
            self._words(line),
            cwd=self.directory,
            env=self._environment(None, keys=False),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _words(self, line: str) -> list[str | Path]:
        name, *words = line.split()
        return [commands.COMMANDS / name, *words]

    def _environment(self, to: Endpoint | None, *, keys: bool) -> dict[str, str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "AMISTREAM_STATE_DIR": str(self.directory / "state"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "EC2_AMITOOL_HOME": str(self.directory / "tools"),
            "AMISTREAM_PART_SIZE": "1MiB",
            "AMISTREAM_STALL_TIMEOUT_S": "5",
            "AMISTREAM_UPLOAD_ATTEMPTS": "2",
            **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PYTHON"))},
        }
        if to is not None:
            environment |= {**to.environ(), "AMISTREAM_ENDPOINT_URL": to.url}
        if not keys:
            secret = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            environment = {name: value for name, value in environment.items() if name not in secret}
        return environment


@pytest.fixture
def old(tmp_path: Path, key_ring: KeyRing) -> Old:
    """Give a runner in a directory with pk.pem and cert.pem, and EC2's certificate where the old tools keep it."""
    (tmp_path / "pk.pem").write_bytes(key_ring.user.key.read_bytes())
    (tmp_path / "pk.pem").chmod(0o600)
    (tmp_path / "cert.pem").write_bytes(key_ring.user.certificate.read_bytes())
    kept = tmp_path / "tools" / "etc" / "ec2" / "amitools"
    kept.mkdir(parents=True)
    (kept / "cert-ec2.pem").write_bytes(key_ring.ec2.certificate.read_bytes())

    return Old(tmp_path)


@contextmanager
def instance(data: Mapping[str, str]) -> Iterator[str]:
    """The URL of a metadata service (IMDSv2) that answers with `data`, by path below meta-data, to other processes."""

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer("a-token")

        def do_GET(self) -> None:
            assert self.headers["X-aws-ec2-metadata-token"] == "a-token"
            self._answer(data.get(self.path.removeprefix("/latest/meta-data/")))

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, text: str | None) -> None:
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Length", str(len(text or "")))
            self.end_headers()
            self.wfile.write((text or "").encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
