"""One request to the daemon over its Unix socket, by the standard library's socket alone.

A command that asks one question is thus not kept waiting for the libraries of `client`. Whatever goes wrong gives None:
the caller then asks by `client`, which repeats lost requests and explains failures.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

_CONNECT_S = 5.0
_ANSWER_S = 30.0
_PIECE = 1 << 16


def job_path(job_id: str) -> str:
    # The id comes from a command line: quoted, it stays one component of the path.
    return f"/v1/jobs/{quote(os.fsencode(job_id), safe='')}"


def fetch(address: Path, path: str) -> bytes | None:
    """The body of a whole answer with status 200 to a GET, or None."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_S)
            connection.connect(os.fspath(address))
            connection.settimeout(_ANSWER_S)
            connection.sendall(b"GET %b HTTP/1.0\r\nHost: localhost\r\n\r\n" % path.encode("ascii"))
            answer = b"".join(iter(lambda: connection.recv(_PIECE), b""))
    except (OSError, ValueError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    length = next((each for each in fields if each.lower().startswith(b"content-length:")), b"").partition(b":")[2]
    # An answer of another length was cut off.
    return body if status.split(b" ")[1:2] == [b"200"] and length.strip() == b"%d" % len(body) else None
