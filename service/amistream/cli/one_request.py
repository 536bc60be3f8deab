"""One request to the daemon over its Unix socket, by the standard library's socket alone.

A command that asks one question is thus not kept waiting for the libraries of `client`. Whatever goes wrong gives None:
the caller then asks by `client`, which repeats lost requests and explains failures.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from urllib.parse import quote

_CONNECT_S = 5.0
_ANSWER_S = 30.0
_PIECE = 1 << 16


def job_path(job_id: str) -> str:
    # The id comes from a command line: quoted, it stays one component of the path.
    return f"/v1/jobs/{quote(os.fsencode(job_id), safe='')}"


def fetch(address: Path, path: str, *, within_s: float | None = None) -> bytes | None:
    """The body of a whole answer with status 200 to a GET, or None.

    `within_s` limits the time of all of it; without it, only that of each step is limited.
    """
    end = None if within_s is None else time.monotonic() + within_s

    def wait_at_most(step_s: float) -> None:
        left_s = step_s if end is None else min(step_s, end - time.monotonic())
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)

    def receive() -> bytes:
        wait_at_most(_ANSWER_S)
        return connection.recv(_PIECE)

    try:
        with socket.socket(socket.AF_UNIX) as connection:
            wait_at_most(_CONNECT_S)
            connection.connect(os.fspath(address))
            connection.sendall(b"GET %b HTTP/1.0\r\nHost: localhost\r\n\r\n" % path.encode("ascii"))
            answer = b"".join(iter(receive, b""))
    except (OSError, ValueError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    length = next((each for each in fields if each.lower().startswith(b"content-length:")), b"").partition(b":")[2]
    # An answer of another length was cut off.
    return body if status.split(b" ")[1:2] == [b"200"] and length.strip() == b"%d" % len(body) else None
