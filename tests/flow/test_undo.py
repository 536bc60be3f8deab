"""Undo: last in first out, each undo tried, despite failures and cancels."""

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
    """Undos run once, the newest first; a second run does nothing."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    for what in ("a", "b", "c"):
        undo.push(what, noting(notes, what))
    assert await undo.run() == []
    assert notes == ["c", "b", "a"]
    assert await undo.run() == []
    assert notes == ["c", "b", "a"]


async def test_forget() -> None:
    """Forgotten objects are not removed."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    undo.push("kept", noting(notes, "kept"))
    undo.forget()
    assert await undo.run() == []
    assert notes == []


async def test_failure_stops_no_other() -> None:
    """A failed undo is reported with its reason, and the others still run."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]
    undo.push("a", noting(notes, "a"))
    undo.push("b", lambda: fail(RuntimeError("the bucket is gone")))
    undo.push("c", lambda: fail(KeyError()))
    undo.push("d", noting(notes, "d"))
    assert await undo.run() == ["c: KeyError", "b: the bucket is gone"]
    assert notes == ["d", "a"]


async def test_deadline() -> None:
    """An undo that exceeds its deadline is reported, and the others still run."""
    undo, notes = Undo(deadline_s=0.001), []  # type: tuple[Undo, list[str]]
    undo.push("a", noting(notes, "a"))
    undo.push("stuck", hang)
    assert await undo.run() == ["stuck: TimeoutError"]
    assert notes == ["a"]


@pytest.mark.parametrize("cancels", [1, 3])
async def test_cancel_does_not_cut_short(cancels: int) -> None:
    """Any number of cancels lets all undos run before the cancel is raised."""
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
    """An undo whose own request was cancelled counts as failed, and the others still run."""
    undo, notes = Undo(), []  # type: tuple[Undo, list[str]]

    async def cancelled_inside() -> None:
        raise asyncio.CancelledError

    undo.push("a", noting(notes, "a"))
    undo.push("b", cancelled_inside)
    assert await undo.run() == ["b: CancelledError"]
    assert notes == ["a"]


async def test_cancelled_for_good() -> None:
    """A shutdown of the loop stops the undoing."""
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
