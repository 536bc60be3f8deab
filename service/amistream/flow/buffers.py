"""A fixed number of equal buffers, shared by threads and the event loop: the memory budget of the data in flight.

`take` blocks the thread until a buffer is free: that is the back pressure from a slow upload to the reader. Buffers
are allocated when first needed and reused, because touching fresh memory costs more than copying. They begin on a page
boundary, as direct writes to disk require, and use huge pages where the kernel has some: a write of 4 MiB pins 2 of
those instead of 1024 pages (measured: 2 % of the time of `unbundle`).
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from time import perf_counter


class BuffersClosedError(Exception):
    """The pool was closed because the job is given up. Never the first cause of a failure."""


class Buffers:
    """`count` buffers of `size` bytes; the taker of a buffer owns it until it gives it back."""

    def __init__(self, *, count: int, size: int, wake_at: int = 1) -> None:
        """A taker that waits is woken when so many are free: to be woken for each one costs more than its work.

        So many must become free while all takers wait.
        """
        self._wake_at = wake_at
        self._size = size
        self._count = count
        self._unmade = count
        self._lent = 0
        self._free: list[memoryview] = []
        self._closed = False
        self._changed = threading.Condition()
        self._waited_s = 0.0
        self._waiting_since: set[float] = set()

    @property
    def waited_s(self) -> float:
        """Seconds that takers have waited, in total, up to now."""
        now = perf_counter()
        return self._waited_s + sum(now - since for since in tuple(self._waiting_since))

    def used(self) -> float:
        """The share of buffers in use, 0 to 1."""
        return self._lent / self._count

    def take(self) -> memoryview:
        """Wait for a buffer. Raises `BuffersClosedError` once the pool is closed."""
        with self._changed:
            started = perf_counter()
            self._waiting_since.add(started)
            if not self._free and not self._unmade:
                self._changed.wait_for(lambda: self._closed or len(self._free) >= self._wake_at)
            self._waiting_since.remove(started)
            self._waited_s += perf_counter() - started
            if self._closed:
                raise BuffersClosedError
            self._lent += 1
            if self._free:
                return self._free.pop()
            self._unmade -= 1
        memory = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(memory)

    def give(self, buffer: memoryview) -> None:
        with self._changed:
            self._lent -= 1
            self._free.append(buffer)
            if len(self._free) >= self._wake_at:
                self._changed.notify()

    def close(self) -> None:
        """Wake every waiting thread with `BuffersClosedError` and release the free buffers."""
        with self._changed:
            self._closed = True
            self._free.clear()
            self._changed.notify_all()
