"""Runs one function on its own thread, fed in order through a bounded channel.

For work that waits on the disk, or serial work that can overlap the slowest stage.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from amistream.flow.cancel import finish_despite_cancel

T = TypeVar("T")


class StoppedError(Exception):
    """The channel carries no more items. Never the first cause of a failure."""


class ClosedError(StoppedError):
    """This side of the channel was closed, by its own owner."""


class BrokenError(StoppedError):
    """The other side of the channel is gone: its owner closed it, or failed."""


class Channel(Generic[T]):
    """A bounded queue from one thread to another.

    The sender ends it (`end`) or gives up (`break_off`); the receiver gives up with `close`. Giving up drops what is
    queued and wakes both sides: its own side gets `ClosedError`, the other side `BrokenError`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._ended = False
        self._broken_off = False
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Queue an item; waits while the queue is full. Raises `StoppedError`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                raise ClosedError if self._broken_off else BrokenError
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """Let the receiver have what is queued, and then the end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Give up as the sender. No effect after the receiver has reached the end."""
        with self._changed:
            self._broken_off = True
            self._drop()

    def close(self) -> None:
        """Give up as the receiver."""
        with self._changed:
            self._closed = True
            self._drop()

    def __iter__(self) -> Iterator[T]:
        """Yield each item until the end. Raises `StoppedError`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._items or self._ended)
                if self._stopped:
                    raise ClosedError if self._closed else BrokenError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    @property
    def _stopped(self) -> bool:
        return self._broken_off or self._closed

    def _drop(self) -> None:
        self._items.clear()
        self._changed.notify_all()


class SideWorker(Channel[Any]):
    """Calls `work` with each item put, in order, on a thread while `run` runs; used once."""

    def __init__(
        self, work: Callable[[Any], object], *, capacity: int, release: Callable[[], None] = lambda: None
    ) -> None:
        """At most `capacity` items are queued. `release` is called on `stop`, and when the work failed: it must wake
        whatever blocks in the work or waits for its completion.
        """
        super().__init__(capacity)
        self._work = work
        self._release = release

    def stop(self) -> None:
        """Start no more work; queued items are dropped."""
        self.break_off()
        self._release()

    async def run(self) -> None:
        """Work until the end, or until stopped. Raises what the work raises.

        When cancelled, waits for the running call first.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="amistream-side")
        working = asyncio.get_running_loop().run_in_executor(pool, self._work_off)
        pool.shutdown(wait=False)
        await finish_despite_cancel(working, on_cancel=self.stop)

    def _work_off(self) -> None:
        try:
            for item in self:
                self._work(item)
        except BrokenError:
            return
        except BaseException:
            self.close()
            self._release()
            raise
