"""Settles how a process handles its memory, so that neither the C library nor the interpreter works without need while
a volume streams by.

glibc gives freed megabyte blocks back to the kernel and gets them again for the next block, page by page: measured,
that is 15 % of the CPU time of a whole pass. And it has a heap for each few threads: blocks that one thread makes and
another frees pile up in several. Measured on the way back, 1 GiB and 4 GiB: 225 and 260 MiB with many heaps, 165 and
173 with one, in the same time. What is kept is bounded by the blocks in flight, which `settings.memory_ceiling` counts.
Part buffers are larger, pooled by ourselves, and still go back to the kernel at a job's end.

The interpreter's garbage collector looks through every module and SDK that was loaded, holding up all threads: 2 % of
the CPU time of taking 1 GiB apart. What is there at the start lives to the end, so it is told to leave that alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from functools import cache

from amistream.values import MIB

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_KEPT = 8 * MIB
_KEPT_AT_MOST = 16 * MIB


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
