"""Moves items along a line of stages: a thread for each, and between them channels that hold a few items.

The relay (`flow.relay`) carries a block through every stage on one thread, which suits stages that all cores can share
and that make about as much as they take. A line suits the way back: inflating is serial, takes longer than all else
together, and may make a thousand times what it takes. So it has a thread to itself that never waits for another's turn,
and what it makes is handed on piece by piece.

What fails does so in the order of the stream: a stage that fails lets those after it work off what it handed on, and an
error that they find in that, further ahead in the stream, is the cause.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from amistream.flow.relay import Transform
from amistream.values import MIB


class LineStoppedError(Exception):
    """The line takes nothing more: a stage failed, or the pass is being given up. Never the first cause."""


HAND_OVER = 2 * MIB
"""Bytes that are handed over at once: waking another thread costs as much as hashing some tens of KiB."""


class Line:
    """One pass of items through stages; used once. What the last stage makes is dropped: it should make nothing."""

    def __init__(
        self,
        stages: Sequence[Transform],
        *,
        capacity: int,
        release: Callable[[], None],
        weigh: Callable[[Any], int] = lambda _: HAND_OVER,
    ) -> None:
        """Each channel holds `capacity` hand-overs: of what a stage made of one, as many as weigh `HAND_OVER`.

        `weigh` tells bytes. `release` is called on `stop`, and when the last stage failed: it must wake whatever blocks
        in a stage.
        """
        self._stages = stages
        self._weigh = weigh
        self._channels = [_Channel(capacity) for _ in stages]
        self._release = release
        self._cause: BaseException | None = None

    def put(self, item: Any) -> None:
        """Hand the next item to the first stage; blocks while there is no room. Raises `LineStoppedError`."""
        self._channels[0].put((item,))

    def end(self) -> None:
        """Say that no more items come."""
        self._channels[0].end()

    async def run(self) -> None:
        """Work until the last stage has finished. Raises the cause when one failed, `LineStoppedError` when stopped.

        When cancelled, waits for the calls that are running before it lets go.
        """
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(len(self._stages), thread_name_prefix="amistream-line")
        pending = {loop.run_in_executor(pool, self._work, number) for number in range(len(self._stages))}
        cancelled: asyncio.CancelledError | None = None
        while pending:
            try:
                _, pending = await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                cancelled = error
                self.stop()
        pool.shutdown(wait=False)
        if cancelled is not None:
            raise cancelled
        if self._cause is not None:
            raise self._cause

    def stop(self) -> None:
        """Make every stage stop at its next item; what is in the channels is dropped."""
        for channel in self._channels:
            channel.stop()
        self._release()

    def _work(self, number: int) -> None:
        inbox, stage = self._channels[number], self._stages[number]
        outbox = self._channels[number + 1] if number + 1 < len(self._channels) else None
        try:
            for items in inbox:
                self._hand_on(chain.from_iterable(map(stage.feed, items)), outbox)
            self._hand_on(stage.finish(), outbox)
        except BaseException as error:  # noqa: BLE001 - handed on as the cause
            for channel in self._channels[: number + 1]:
                channel.stop()
            if outbox is None:
                self._cause = error
                # Nothing comes after it that should be worked off.
                self._release()
            else:
                outbox.end(error)
        else:
            if outbox is not None:
                outbox.end()

    def _hand_on(self, made: Iterator[Any], outbox: _Channel | None) -> None:
        items: list[Any] = []
        weight = 0
        try:
            for item in made:
                items.append(item)
                weight += self._weigh(item)
                if weight >= HAND_OVER:
                    full, items, weight = items, [], 0
                    if outbox is not None:
                        outbox.put(full)
        finally:
            # Also what was made before a failure.
            if items and outbox is not None:
                outbox.put(items)


class _Channel:
    """A bounded queue of hand-overs from one thread to another. It ends, well or with the sender's error, or is
    stopped.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Sequence[Any]] = deque()
        self._ended = False
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, items: Sequence[Any]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            if self._stopped:
                raise LineStoppedError
            self._items.append(items)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Let the receiver have what was put, and then the end or `error`."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Let both sides go with `LineStoppedError`."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Iterator[Any]]:
        """One hand-over after the other, each item by item."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._items or self._ended)
                if self._stopped:
                    raise LineStoppedError
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                items = self._items.popleft()
                self._changed.notify_all()
            yield self._going(items)

    def _going(self, items: Sequence[Any]) -> Iterator[Any]:
        for item in items:
            if self._stopped:
                raise LineStoppedError
            yield item
