"""Reads a small file of a user whole: a key, a certificate, a manifest. Never waits for longer than a bound.

The file is opened and read once; with roots it must lie within them. The functions block: call them on a thread.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

from amistream.errors import RefusedError
from amistream.roots import Roots, open_pinned, pinned
from amistream.values import KIB, quoted

PIPE_PATIENCE_S = 10.0
"""Time for data to come through a pipe. Guess."""


def read_small_file(
    path: Path, roots: Roots | None, *, what: str, field: str, code: str, largest: int
) -> tuple[bytes, int]:
    """Read the file of at most `largest` bytes; returns it and its mode when it was opened.

    Without roots it may be a pipe. Raises `RefusedError` with that `code`; its message calls the file `what`.
    """

    def refused(why: str | None, hint: str) -> RefusedError:
        return RefusedError(code, f"cannot read the {what} {path}: {why}", hint=hint, field=field)

    try:
        with pinned(path, roots, field=field) as pin:
            about = os.fstat(pin)
            # A shell passes data that is not in a file through a pipe: <(...). Only the daemon's own user may give one.
            if not (stat.S_ISREG(about.st_mode) or (stat.S_ISFIFO(about.st_mode) and roots is None)):
                kind = "is a directory" if stat.S_ISDIR(about.st_mode) else "is not a file"
                raise OSError(errno.EINVAL, f"it {kind}")
            # A lease on a file, which its owner may take, would block the opening, and so would a pipe.
            descriptor = open_pinned(pin, os.O_RDONLY | os.O_NONBLOCK)
            try:
                # A file that shows no size is empty, or the kernel's: /proc/kmsg has no end, and loses what is read.
                has_data = about.st_size or not stat.S_ISREG(about.st_mode)
                data = _read_at_most(descriptor, largest + 1) if has_data else b""
            finally:
                os.close(descriptor)
    except BlockingIOError as error:
        raise refused(
            "another program has a lease on it",
            f"find it in /proc/locks by the number that `ls -i {path}` shows, and end it; then try again",
        ) from error
    except OSError as error:
        raise refused(error.strerror, f"check the path and its permissions: ls -l {quoted(path)}") from error
    if len(data) > largest:
        raise refused(f"it has more than {largest // KIB} KiB", f"check that {path} is the {what}")
    return data, about.st_mode


def _read_at_most(descriptor: int, size: int) -> bytes:
    """Read a file, or a pipe until its writers are gone. Raises OSError, TimeoutError for a pipe that has no end."""
    pieces: list[bytes] = []
    left = size
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    until = time.monotonic() + PIPE_PATIENCE_S
    while left:
        # A pipe that nobody has opened to write has no end yet.
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError(errno.ETIMEDOUT, f"the pipe had no end within {PIPE_PATIENCE_S:g} s")
        if not (piece := os.read(descriptor, left)):
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
