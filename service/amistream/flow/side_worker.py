"""What is done aside: a thread of its own works off a bounded channel, in order.

For what waits for something other than the processor, such as the disk, or what is serial and can go on beside that
which takes longest.
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
    """The channel takes and gives nothing more: something failed, or the pass is given up. Never the first cause."""


class Channel(Generic[T]):
    """A bounded queue from one thread to another. It ends, or is stopped."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._ended = False
        self._stopped = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Wait for room. Raises `StoppedError`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                raise StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """Let the receiver have what was put, and then the end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Let both sides go with `StoppedError`; what waits is dropped. After the end was received it means nothing."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """One item after the other until the end. Raises `StoppedError`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._items or self._ended)
                if self._stopped:
                    raise StoppedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class SideWorker:
    """Work on what is put, one after the other, on a thread while `run` runs; used once."""

    def __init__(
        self, work: Callable[[Any], object], *, capacity: int, release: Callable[[], None] = lambda: None
    ) -> None:
        """`capacity` items wait at most. `release` is called on `stop`, and when the work failed: it must wake whatever
        blocks in the work, and whoever waits for it to be done.
        """
        self._work = work
        self._channel: Channel[Any] = Channel(capacity)
        self._release = release

    def put(self, item: Any) -> None:
        """Hand it over; waits for room. Raises `StoppedError` when the work failed or was stopped."""
        self._channel.put(item)

    def end(self) -> None:
        """Say that nothing more comes."""
        self._channel.end()

    def stop(self) -> None:
        """Begin with nothing more; what waits is dropped."""
        self._channel.stop()
        self._release()

    async def run(self) -> None:
        """Work until the end, or until stopped. Raises what the work does.

        When cancelled, waits for the call that is running before it lets go.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="amistream-aside")
        working = asyncio.get_running_loop().run_in_executor(pool, self._work_off)
        pool.shutdown(wait=False)
        await finish_despite_cancel(working, on_cancel=self.stop)

    def _work_off(self) -> None:
        try:
            for item in self._channel:
                self._work(item)
        except StoppedError:
            return
        except BaseException:
            self.stop()
            raise
