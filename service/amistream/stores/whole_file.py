"""Writes a new file at once and has it on the disk: past the page cache where the file system allows it.

Copying through the page cache costs more CPU time than compressing zeros does, and pushes out what other programs keep
there. Direct writes (open(2), O_DIRECT) want memory and lengths on page bounds: part buffers lie so, and the rest of a
last part goes the ordinary way. Blocking: for threads.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path


def write_whole_file(path: Path, data: memoryview) -> None:
    """Create `path`, which must not exist, with `data`, and return when it is on the disk. Raises OSError."""
    descriptor, direct = _create(path)
    try:
        aligned = len(data) // mmap.PAGESIZE * mmap.PAGESIZE if direct else 0
        written = _write_direct(descriptor, data[:aligned])
        if direct:
            _set_buffered(descriptor)
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # The file system knows no direct writes; some have made the file all the same.
    path.unlink(missing_ok=True)
    return os.open(path, flags, 0o666), False


def _write_direct(descriptor: int, data: memoryview) -> int:
    written = 0
    while written < len(data):
        try:
            written += os.write(descriptor, data[written:])
        except OSError as error:
            if error.errno == errno.EINVAL:
                break  # memory on no page bound, or a short write that ended off one
            raise
    return written


def _set_buffered(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
