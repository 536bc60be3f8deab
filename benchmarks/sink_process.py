"""Starts the discarding sink in its own process, with its address."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.authority import make_authority
from benchmarks.environ import CREDENTIALS
from benchmarks.sink import REGION, STATS_PATH
from benchmarks.timing import BenchmarkError

BUCKET = "benchmark"
_STOP_S = 10


@dataclass(frozen=True, slots=True)
class Sink:
    """A running sink; `ca` is the authority to trust when it speaks HTTPS."""

    url: str
    ca: Path | None = None

    def environ(self) -> dict[str, str]:
        """Environment for clients, without any of the user's own credentials."""
        trust = {"AWS_CA_BUNDLE": str(self.ca)} if self.ca else {}
        return {**CREDENTIALS, "AWS_REGION": REGION, **trust}

    def stats(self) -> dict[str, Any]:
        """Its counters, see `sink.Stats`."""
        context = ssl.create_default_context(cafile=str(self.ca)) if self.ca else None
        with urllib.request.urlopen(self.url + STATS_PATH, context=context) as reply:  # noqa: S310 - our own URL
            counters: dict[str, Any] = json.load(reply)
        return counters


@contextmanager
def running_sink(
    directory: Path,
    *,
    https: bool = False,
    bytes_per_s: float = 0.0,
    connection_bytes_per_s: float = 0.0,
    round_trip_s: float = 0.0,
) -> Iterator[Sink]:
    """Run one until the block ends; certificates are written to `directory`."""
    command = [sys.executable, "-m", "benchmarks.sink"]
    command += [f"--bytes-per-s={bytes_per_s}", f"--round-trip-s={round_trip_s}"]
    command += [f"--connection-bytes-per-s={connection_bytes_per_s}"]
    ca = None
    if https:
        authority = make_authority(directory)
        ca = authority.ca
        command += ["--tls", str(authority.certificate), str(authority.key)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stdin is not None  # noqa: S101 - for the type checker
        port = process.stdout.readline().strip()
        if not port:
            raise BenchmarkError("cannot start the discarding sink: it ended at once")
        try:
            yield Sink(f"{'https' if https else 'http'}://127.0.0.1:{port}", ca)
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
