"""Reads a bundle's parts from where they lie, in order, several ranges ahead of who takes them.

A range is what one request brings: a part of usual size takes a few, so that a part of any size is read with the same
memory. What is in flight or waiting to be taken is `AHEAD` ranges at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from amistream.bundles.parts import SeenPart
from amistream.errors import first_cause
from amistream.ports.store import Store
from amistream.values import MIB

RANGE = 4 * MIB
AHEAD = 8
"""Ranges of which the requests may be under way, or the replies wait. Guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bytes of one part, asked for in one request."""

    part: SeenPart
    offset: int
    length: int

    @property
    def ends_part(self) -> bool:
        return self.offset + self.length == self.part.size


async def fetch(store: Store, parts: Sequence[SeenPart], take: Callable[[Range, bytes], Awaitable[bool]]) -> bool:
    """Hand every range to `take`, in order, until it says False; returns whether it took all.

    What it gets is shorter than the range when the part has become so. Raises `StoreError`.
    """
    ahead: deque[tuple[Range, asyncio.Task[bytes]]] = deque()
    try:
        async with asyncio.TaskGroup() as group:
            for each in _ranges(parts):
                ahead.append((each, group.create_task(store.read(each.part.name, each.offset, each.length))))
                if len(ahead) == AHEAD and not await _take_next(ahead, take):
                    raise _EnoughError
            while ahead:
                if not await _take_next(ahead, take):
                    raise _EnoughError
    except BaseExceptionGroup as errors:
        cause = first_cause(errors)
        if isinstance(cause, _EnoughError):
            return False
        raise cause from None
    return True


class _EnoughError(Exception):
    """Nothing more is wanted: ends the requests that are under way."""


async def _take_next(
    ahead: deque[tuple[Range, asyncio.Task[bytes]]], take: Callable[[Range, bytes], Awaitable[bool]]
) -> bool:
    each, reading = ahead.popleft()
    return await take(each, await reading)


def _ranges(parts: Sequence[SeenPart]) -> Iterator[Range]:
    for part in parts:
        for offset in range(0, part.size, RANGE):
            yield Range(part=part, offset=offset, length=min(RANGE, part.size - offset))
