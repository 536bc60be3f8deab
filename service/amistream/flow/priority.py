"""Lets the calling thread stand back: a lower scheduling priority, and the idle class for its disk reads.

Linux keeps both per thread. Python has no call for the second, ioprio_set(2), so it is made through the C library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS = 1
_CLASS_IDLE = 3 << 13


def yield_to_others(nice: int) -> None:
    """Give the calling thread `nice` (1 to 19) and idle disk priority, as far as this system lets it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _WHO_PROCESS, 0, _CLASS_IDLE)
