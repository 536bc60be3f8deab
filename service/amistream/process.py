"""Settings of the process itself: protection of its secrets, its standard input, and limits of its memory.

**Secrets**: no core dump, no debugger, private files.

**Memory**: glibc returns freed megabyte blocks to the kernel and fetches them again for the next block, page by page:
measured, 15 % of the CPU time of a whole pass. It also keeps one heap for every few threads, so blocks that one thread
allocates and another frees pile up in several. Measured on the way back, 1 GiB and 4 GiB: 225 and 260 MiB with many
heaps, 165 and 173 with one, in the same time. The memory kept is bounded by the blocks in flight, which
`settings.memory_ceiling` counts. Part buffers are larger, pooled by ourselves, and still go back to the kernel when a
job ends.

The garbage collector scans every loaded module and SDK and stops all threads meanwhile: 2 % of the CPU time of
unbundling 1 GiB. Objects present at the start stay until the end, so the collector skips them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
from functools import cache
from pathlib import Path

from amistream.sizes import MIB

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a command to stop."""

DEFAULT_CONFIG = Path("/etc/amistream/amistream.toml")
DEFAULT_SOCKET = Path("/run/amistream/amistream.sock")
_PR_SET_DUMPABLE = 4
_OWNER_ONLY = 0o077
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_KEPT = 8 * MIB
_KEPT_AT_MOST = 16 * MIB


def keep_secrets_in() -> None:
    """Allow no core dump, and no debugger or reader of the process's memory but root.

    Called once, by the entry point. Children inherit only the core dump limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # For core dumps that are piped to a program, which ignores the limit.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def make_files_private() -> None:
    """Make new files accessible to the process's user alone, unless their mode is set explicitly."""
    os.umask(_OWNER_ONLY)


def close_stdin() -> None:
    """Give the process an empty standard input: nothing that it runs can ask the terminal and wait for an answer."""
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)


@cache
def settle_memory() -> None:
    """Call once, after the modules are loaded and before threads start.

    Sets glibc's mallopt(3); other C libraries are left alone.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
        libc.mallopt(_M_ARENA_MAX, 1)
    gc.freeze()
