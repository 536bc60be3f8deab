"""Runs the same request for many items, a limited number at a time; or the same work on each, despite failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from amistream.errors import AmistreamError, first_cause

SMALL_REQUESTS = 16
"""Small requests in flight, such as HEAD. Guess."""

T = TypeVar("T")
S = TypeVar("S")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first cause of its failure alone."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None


async def gather_limited(
    request: Callable[[S], Awaitable[T]], items: Iterable[S], limit: int = SMALL_REQUESTS
) -> list[T]:
    """Call `request` with each item, `limit` at a time; returns the answers in order.

    The first failure cancels the others and is raised. No request begins before its turn, so a failure in the first of
    many costs at most `limit` requests.
    """
    waiting = list(items)
    answers: dict[int, T] = {}
    turns = iter(enumerate(waiting))

    async def work() -> None:
        for number, item in turns:
            answers[number] = await request(item)

    async with task_group() as group:
        for _ in range(min(limit, len(waiting))):
            group.create_task(work())
    return [answers[number] for number in range(len(waiting))]


async def try_each(work: Callable[[S], Awaitable[object]], items: Iterable[S]) -> None:
    """Work on all items at the same time; once all have ended, raise the first failure and count the others.

    For removals: a destination that fails must not keep the others from being cleaned.
    """

    async def one(item: S) -> AmistreamError | None:
        try:
            await work(item)
        except AmistreamError as error:
            return error
        return None

    failures = [error for error in await gather_limited(one, items) if error is not None]
    if failures:
        more = f" (and {len(failures) - 1} more such failures)" * (len(failures) > 1)
        raise failures[0].reworded(message=failures[0].message + more)
