"""Undo: the last thing first, each one tried, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amistream.flow.undo import Undo


def noting(notes: list[str], what: str) -> Callable[[], Awaitable[None]]:
    async def action() -> None:
        notes.append(what)

    return action


async def fail(error: Exception) -> None:
    raise error


async def hang() -> None:
    await asyncio.Event().wait()


async def test_last_in_first_out() -> None:
    """What was made last goes first, once: a second run finds nothing to do."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    for what in ("a", "b", "c"):
        undo.push(what, noting(notes, what))
    assert await undo.run() == []
    assert notes == ["c", "b", "a"]
    assert await undo.run() == []
    assert notes == ["c", "b", "a"]


async def test_forget() -> None:
    """What is to be kept is not undone."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    undo.push("kept", noting(notes, "kept"))
    undo.forget()
    assert await undo.run() == []
    assert notes == []


async def test_failure_stops_no_other() -> None:
    """An undo that fails is reported with its reason, and the others are done all the same."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    undo.push("a", noting(notes, "a"))
    undo.push("b", lambda: fail(RuntimeError("the bucket is gone")))
    undo.push("c", lambda: fail(KeyError()))
    undo.push("d", noting(notes, "d"))
    assert await undo.run() == ["c: KeyError", "b: the bucket is gone"]
    assert notes == ["d", "a"]


async def test_deadline() -> None:
    """An undo that does not come to an end is given up and reported, and the others are done."""
    undo, notes = Undo(deadline_s=0.001), []  # type: tuple[Undo, list[str]]
    undo.push("a", noting(notes, "a"))
    undo.push("stuck", hang)
    assert await undo.run() == ["stuck: TimeoutError"]
    assert notes == ["a"]


@pytest.mark.parametrize("cancels", [1, 3])
async def test_cancel_does_not_cut_short(cancels: int) -> None:
    """However often it is cancelled, everything is undone before the cancel is passed on."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        entered.set()
        await go.wait()
        notes.append("slow")

    undo.push("a", noting(notes, "a"))
    undo.push("slow", slow)
    task = asyncio.create_task(undo.run())
    await entered.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes == ["slow", "a"]


async def test_undo_that_is_cancelled_inside() -> None:
    """An undo whose own request was cancelled counts as failed, and the others are done."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]

    async def cancelled_inside() -> None:
        raise asyncio.CancelledError

    undo.push("a", noting(notes, "a"))
    undo.push("b", cancelled_inside)
    assert await undo.run() == ["b: CancelledError"]
    assert notes == ["a"]


async def test_cancelled_for_good() -> None:
    """When the loop itself is being shut down, the undoing gives way instead of going on."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    entered = asyncio.Event()

    async def stuck() -> None:
        entered.set()
        await hang()

    undo.push("a", noting(notes, "a"))
    undo.push("stuck", stuck)
    task = asyncio.create_task(undo.run())
    await entered.wait()
    (inner,) = asyncio.all_tasks() - {task, asyncio.current_task()}
    inner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes == []
