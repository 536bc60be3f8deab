"""Makes the C library keep what the workers free, so that the next block is written to memory that is there
already.

glibc gives freed megabyte blocks back to the kernel and gets them again for the next block, page by page: measured,
that is 15 % of the CPU time of a whole pass. What is kept is bounded by the blocks in flight, which
`settings.memory_ceiling` counts. Part buffers are larger, pooled by ourselves, and still go back to the kernel at a
job's end.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache

from amistream.values import MIB

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_KEPT = 8 * MIB
_KEPT_AT_MOST = 16 * MIB


@cache
def keep_freed_blocks() -> None:
    """Once in a process: set glibc's mallopt(3). Another C library has no such call and is left as it is."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
