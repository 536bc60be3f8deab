"""Runs the same request for many items, a limited number at a time; or the same work on each, despite failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from amistream.errors import AmistreamError, first_cause

SMALL_REQUESTS = 16
"""Small requests in flight, such as HEAD. Guess."""

T = TypeVar("T")
S = TypeVar("S")


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

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(waiting))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [answers[number] for number in range(len(waiting))]


async def try_each(work: Callable[[S], Awaitable[object]], items: Iterable[S]) -> None:
    """Work on all items at the same time; once all have ended, raise the first failure in their order.

    For removals: a destination that fails must not keep the others from being cleaned.
    """
    failures: dict[int, AmistreamError] = {}

    async def one(numbered: tuple[int, S]) -> None:
        number, item = numbered
        try:
            await work(item)
        except AmistreamError as error:
            failures[number] = error

    await gather_limited(one, enumerate(items))
    if failures:
        raise failures[min(failures)]
