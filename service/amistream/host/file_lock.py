"""Locks between processes. Another process may stop while it has one, so nobody waits for it without end."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 10.0
"""Guess: what is done under a lock takes less than a second."""
_PAUSE_S = 0.02


@contextmanager
def locked(path: Path, *, create: bool = False) -> Iterator[None]:
    """Have the lock of a file or directory during the block. Blocks; raises OSError, TimeoutError after `PATIENCE_S`.

    With `create` the file, of this user alone, is made if it is missing, and stays.
    """
    descriptor = os.open(path, (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY) | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    holder = f"another process has held {path} for {PATIENCE_S:g} s (`fuser -v {path}` shows it)"
                    raise TimeoutError(errno.ETIMEDOUT, holder) from None
                time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)
