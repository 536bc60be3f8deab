"""The line: every item through every stage in order, bounded, and an end that tells the first cause in the stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from amistream.flow.line import HAND_OVER, Line, LineStoppedError


def nothing() -> None:
    pass


class Each:
    """A stage that makes a few items of one by a function, and some more at the end."""

    def __init__(self, work: Callable[[Any], list[Any]], end: tuple[Any, ...] = ()) -> None:
        self._work = work
        self._end = end

    def feed(self, item: Any) -> Iterator[Any]:
        yield from self._work(item)

    def finish(self) -> Iterator[Any]:
        yield from self._end


class Collect(Each):
    """A last stage that keeps what comes."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        super().__init__(self._keep)

    def _keep(self, item: Any) -> list[Any]:
        self.items.append(item)
        return []


async def send(line: Line, items: list[Any]) -> None:
    def put_all() -> None:
        for item in items:
            line.put(item)
        line.end()

    await asyncio.to_thread(put_all)


async def passed(line: Line, items: list[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(line.run())
        await send(line, items)
    await ended()


async def ended() -> None:
    """Join the line's threads on their way out; fail when one stays."""
    for thread in threading.enumerate():
        if thread.name.startswith("amistream-line"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_order_and_number() -> None:
    """A stage may make any number of items of one; they arrive in order, and what comes at the end too."""
    last = Collect()
    line = Line(
        [Each(lambda n: [n] * n, end=(7,)), Each(lambda n: [n, -n], end=(8,)), last], capacity=1, release=nothing
    )
    await passed(line, [3, 0, 1])
    assert last.items == [3, -3, 3, -3, 3, -3, 1, -1, 7, -7, 8]


async def test_nothing_to_carry() -> None:
    """A line that is ended at once finishes every stage."""
    last = Collect()
    await passed(Line([Each(lambda n: [n], end=(1,)), last], capacity=1, release=nothing), [])
    assert last.items == [1]


async def test_what_waits_is_bounded() -> None:
    """Whoever hands items in waits while a stage is busy: no more than the channel holds are taken meanwhile."""
    gate, begun = threading.Event(), threading.Event()

    def slow(item: int) -> list[int]:
        begun.set()
        gate.wait(10)
        return [item]

    line = Line([Each(slow)], capacity=2, release=nothing)
    running = asyncio.create_task(line.run())
    for item in range(3):  # one in the stage, two in the channel
        await asyncio.to_thread(line.put, item)
        await asyncio.to_thread(begun.wait)
    putting = asyncio.create_task(asyncio.to_thread(line.put, 3))
    while not line._channels[0]._changed._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110 - to see it block
        await asyncio.sleep(0)
    assert not putting.done()
    gate.set()
    await putting
    line.end()
    await running
    await ended()


def failing(at: int, error: Exception) -> Each:
    def work(item: int) -> list[int]:
        if item == at:
            raise error
        return [item]

    return Each(work)


@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_a_failure_is_the_cause(stage: int) -> None:
    """The error of any stage is what the line raises, and whoever hands items in is told to stop."""
    stages: list[Any] = [Each(lambda n: [n]) for _ in range(3)]
    stages[stage] = failing(5, ValueError("five"))
    line = Line(stages, capacity=1, release=nothing)
    running = asyncio.create_task(line.run())
    with pytest.raises(LineStoppedError):
        await send(line, list(range(1000)))
    with pytest.raises(ValueError, match="five"):
        await running
    await ended()


async def test_a_failure_need_not_wait_for_more() -> None:
    """A stage that fails ends the line at once, also when nothing more is handed in."""
    line = Line([Each(lambda n: [n]), failing(1, ValueError("one"))], capacity=1, release=nothing)
    running = asyncio.create_task(line.run())
    await asyncio.to_thread(line.put, 1)
    with pytest.raises(ValueError, match="one"):
        await running
    await ended()


async def test_the_first_in_the_stream_is_the_cause() -> None:
    """What fails later in the stream waits for the stages behind to work off what is before it."""
    failed = threading.Event()

    def first(item: int) -> list[int]:
        if item == 3:
            failed.set()
            raise ValueError("later in the stream")
        return [item]

    def second(item: int) -> list[int]:
        failed.wait(10)
        if item == 2:
            raise KeyError("earlier in the stream")
        return [item]

    line = Line([Each(first), Each(second)], capacity=5, release=nothing)
    with pytest.raises(ExceptionGroup) as raised:
        await passed(line, [1, 2, 3])
    assert isinstance(raised.value.exceptions[0], KeyError)
    await ended()


async def test_stopping() -> None:
    """A line that is stopped drops what it holds, wakes what blocks, and says so."""
    blocked, woken = threading.Event(), threading.Event()

    def block(_: int) -> list[int]:
        blocked.set()
        woken.wait(10)
        return []

    line = Line([Each(lambda n: [n]), Each(block)], capacity=1, release=woken.set)
    running = asyncio.create_task(line.run())
    putting = asyncio.create_task(send(line, list(range(100))))
    await asyncio.to_thread(blocked.wait)
    line.stop()
    with pytest.raises(LineStoppedError):
        await putting
    with pytest.raises(LineStoppedError):
        await running
    await ended()


async def test_a_failure_at_the_end_wakes_who_waits_for_it() -> None:
    """What the last stage would have given back does not come any more: a stage that waits for that is let go."""
    woken = threading.Event()

    def wait(number: int) -> list[int]:
        if number == 2:
            assert woken.wait(10)
        return [number]

    line = Line([Each(wait), failing(1, ValueError("one"))], capacity=1, release=woken.set)
    running = asyncio.create_task(line.run())
    with suppress(LineStoppedError):
        await send(line, [1, 2, 3])
    with pytest.raises(ValueError, match="one"):
        await running
    assert woken.is_set()
    await ended()


async def test_a_cancel_waits_for_running_calls() -> None:
    """A cancelled line lets go only when the calls that were running have returned."""
    blocked, woken = threading.Event(), threading.Event()
    returned = False

    def block(_: int) -> list[int]:
        nonlocal returned
        blocked.set()
        woken.wait(10)
        returned = True
        return []

    line = Line([Each(block)], capacity=1, release=woken.set)
    running = asyncio.create_task(line.run())
    await asyncio.to_thread(line.put, 1)
    await asyncio.to_thread(blocked.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert returned
    await ended()


@pytest.mark.parametrize("weight", [HAND_OVER, HAND_OVER // 3, 1])
async def test_what_was_made_before_a_failure_is_handed_on(weight: int) -> None:
    """However many items go on together, they keep their order, and none that came before a failure is lost."""

    class Breaks(Each):
        """A stage that fails after it has made something."""

        def feed(self, item: Any) -> Iterator[Any]:
            yield from range(item * 10, item * 10 + 5)
            if item == 2:
                raise ValueError("two")

    last = Collect()
    line = Line([Breaks(lambda _: []), last], capacity=1, release=nothing, weigh=lambda _: weight)
    running = asyncio.create_task(line.run())
    with suppress(LineStoppedError):
        await send(line, [0, 1, 2])
    with pytest.raises(ValueError, match="two"):
        await running
    await ended()
    assert last.items == [*range(5), *range(10, 15), *range(20, 25)]


async def test_nothing_is_taken_of_what_was_handed_over_before_a_stop() -> None:
    """A stage that is stopped takes no further item, not even one that came together with its last."""
    taken: list[int] = []

    def take(item: int) -> list[int]:
        taken.append(item)
        line.stop()
        return []

    line = Line([Each(lambda n: [n] * 3), Each(take)], capacity=1, release=nothing, weigh=lambda _: 1)
    running = asyncio.create_task(line.run())
    with suppress(LineStoppedError):
        await send(line, [7])
    with pytest.raises(LineStoppedError):
        await running
    await ended()
    assert taken == [7]
