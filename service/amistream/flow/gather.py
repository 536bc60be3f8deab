"""The same question about many things, several at a time; or the same work on each, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from amistream.errors import AmistreamError, first_cause

QUESTIONS = 16
"""Small requests in flight, such as HEAD. Guess."""

T = TypeVar("T")
S = TypeVar("S")


async def gather_limited(question: Callable[[S], Awaitable[T]], about: Iterable[S], limit: int = QUESTIONS) -> list[T]:
    """Put the question about each, `limit` at a time; answers in order. Raises the first cause, the others cancelled.

    Nothing is begun before its turn, so that a failure in the first of many costs no more than `limit` questions.
    """
    waiting = list(about)
    answers: dict[int, T] = {}
    turns = iter(enumerate(waiting))

    async def ask() -> None:
        for number, each in turns:
            answers[number] = await question(each)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(waiting))):
                group.create_task(ask())
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return [answers[number] for number in range(len(waiting))]


async def try_each(work: Callable[[S], Awaitable[object]], about: Iterable[S]) -> None:
    """Do the work on each at the same time, and when all have come to their end raise the first failure in their order.

    For removals: one place that fails must not keep another from being cleaned.
    """
    failures: dict[int, AmistreamError] = {}

    async def one(numbered: tuple[int, S]) -> None:
        number, each = numbered
        try:
            await work(each)
        except AmistreamError as error:
            failures[number] = error

    await gather_limited(one, enumerate(about))
    if failures:
        raise failures[min(failures)]
