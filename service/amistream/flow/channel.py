"""A bounded channel within one event loop: items go from senders to receivers in their order.

It tells apart *ended* (by the sender; the rest can still be received), *broken* (the receiver takes no more) and
*closed* (one's own end). A cancelled `send` has sent nothing, and a cancelled `receive` has taken nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ChannelError(Exception):
    """The channel takes or gives no item any more."""


class EndedError(ChannelError):
    """The sender ended the channel, and all its items are received."""


class BrokenError(ChannelError):
    """The receiver closed the channel: nobody takes the item."""


class ClosedError(ChannelError):
    """This end itself was closed before."""


class Channel(Generic[T]):
    """`async for item in channel` receives until the sender ends it."""

    def __init__(self, most: int | None = None) -> None:
        """At most `most` items wait in it; None: something else bounds them."""
        self._most = most
        self._items: deque[T] = deque()
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._senders: deque[asyncio.Future[None]] = deque()
        self._ended = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that can be received at once."""
        return len(self._items)

    async def send(self, item: T) -> None:
        """Wait for a place, and send. Raises `BrokenError` and `ClosedError`."""
        while self._is_full and not self._ended:
            await _turn(self._senders)
        self.send_nowait(item)

    def send_nowait(self, item: T) -> None:
        """Send as `send` does; raises `asyncio.QueueFull` without a place."""
        if self._closed:
            raise BrokenError
        if self._ended:
            raise ClosedError
        if self._is_full:
            raise asyncio.QueueFull
        self._items.append(item)
        _wake_next(self._receivers)

    async def receive(self) -> T:
        """Wait for the next item. Raises `EndedError` and `ClosedError`."""
        while not (self._items or self._ended or self._closed):
            await _turn(self._receivers)
        return self.receive_nowait()

    def receive_nowait(self) -> T:
        """Receive as `receive` does; raises `asyncio.QueueEmpty` without an item."""
        if self._closed:
            raise ClosedError
        if not self._items:
            raise EndedError if self._ended else asyncio.QueueEmpty
        item = self._items.popleft()
        _wake_next(self._senders)
        return item

    def end(self) -> None:
        """End the channel, as its sender."""
        self._ended = True
        self._wake_all()

    def close(self) -> None:
        """Take no more, as its receiver. Items that wait are dropped."""
        self._closed = True
        self._items.clear()
        self._wake_all()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except EndedError:
            raise StopAsyncIteration from None

    @property
    def _is_full(self) -> bool:
        return self._most is not None and len(self._items) >= self._most

    def _wake_all(self) -> None:
        while self._receivers:
            _wake_next(self._receivers)
        while self._senders:
            _wake_next(self._senders)


async def _turn(waiting: deque[asyncio.Future[None]]) -> None:
    """Wait until `_wake_next` comes to this call. A turn that a cancel makes useless passes to the next."""
    turn = asyncio.get_running_loop().create_future()
    waiting.append(turn)
    try:
        await turn
    except asyncio.CancelledError:
        if turn.cancelled():
            with suppress(ValueError):
                waiting.remove(turn)
        else:
            _wake_next(waiting)
        raise


def _wake_next(waiting: deque[asyncio.Future[None]]) -> None:
    while waiting:
        turn = waiting.popleft()
        if not turn.done():
            turn.set_result(None)
            return
