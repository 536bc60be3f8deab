"""Sets once per process what protects its secrets and what keeps its memory from growing.

**Secrets**: no core dump, no debugger, private files.

**Memory**: glibc gives freed megabyte blocks back to the kernel and gets them again for the next block, page by page:
measured, 15 % of the CPU time of a whole pass. It also keeps a heap for each few threads, so blocks that one thread
makes and another frees pile up in several. Measured on the way back, 1 GiB and 4 GiB: 225 and 260 MiB with many heaps,
165 and 173 with one, in the same time. The memory kept is bounded by the blocks in flight, which
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

from amistream.values import MIB

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a command to stop."""

_PR_SET_DUMPABLE = 4
_OWNER_ONLY = 0o077
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_KEPT = 8 * MIB
_KEPT_AT_MOST = 16 * MIB


def keep_secrets_in() -> None:
    """No core dump, whatever kills it, and no debugger or reader of its memory that is not root.

    Once in a process, by its entry point. Children inherit the first only.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Also for core dumps that go to a program, which heeds no limit. A kernel that refuses has nothing to dump.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def make_files_private() -> None:
    """What the process creates from now on is its own user's alone, unless it says otherwise."""
    os.umask(_OWNER_ONLY)


@cache
def settle_memory() -> None:
    """Once in a program, when its modules are loaded and before its threads begin.

    Sets glibc's mallopt(3), and leaves another C library as it is.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
        libc.mallopt(_M_ARENA_MAX, 1)
    gc.freeze()
