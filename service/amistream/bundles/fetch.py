"""Reads a bundle's parts in order, several ranges ahead of the consumer.

A range is the data of one request; a part of usual size takes a few, so that parts of any size need the same memory.
`Window` bounds the ranges in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from amistream.bundles.parts import StoredPart
from amistream.flow.gather import task_group
from amistream.ports.store import Store
from amistream.values import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Maximum sizes and numbers of ranges. The consumer holds one more, and one waits to be queued."""

    size: int
    """Bytes of a range."""
    ahead: int
    """Ranges that are requested, or fetched and not taken."""
    queued: int
    """Ranges that wait for a worker."""


WIDE = Window(size=4 * MIB, ahead=8, queued=3)
"""52 MiB. Guess."""
NARROW = Window(size=2 * MIB, ahead=6, queued=1)
"""18 MiB, for where the image is sent on and most memory is needed there. Guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bytes of one part, fetched with one request."""

    part: StoredPart
    offset: int
    length: int

    @property
    def ends_part(self) -> bool:
        return self.offset + self.length == self.part.size


async def fetch(
    store: Store, parts: Sequence[StoredPart], take: Callable[[Range, bytes], Awaitable[bool]], window: Window = WIDE
) -> bool:
    """Pass every range to `take`, in order, until it returns False; returns True if it took all.

    Data shorter than its range means that the part has shrunk. Raises `StoreError`.
    """
    ahead: deque[tuple[Range, asyncio.Task[bytes]]] = deque()
    ranges = _ranges(parts, window.size)
    async with task_group() as group:
        while True:
            for each in islice(ranges, window.ahead - len(ahead)):
                ahead.append((each, group.create_task(store.read(each.part.name, each.offset, each.length))))
            if not ahead:
                return True
            fetched, reading = ahead.popleft()
            if not await take(fetched, await reading):
                for _, unwanted in ahead:
                    unwanted.cancel()
                return False


def _ranges(parts: Sequence[StoredPart], most: int) -> Iterator[Range]:
    for part in parts:
        for offset in range(0, part.size, most):
            yield Range(part=part, offset=offset, length=min(most, part.size - offset))
