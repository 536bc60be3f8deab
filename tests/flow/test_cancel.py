"""Work that finishes despite a cancel, which is raised afterwards."""

from __future__ import annotations

import asyncio

import pytest

from amistream.flow.cancel import SETTLE_S, await_answer, finish_despite_cancel
from support.loop import clock


class Work:
    """Waits until released, then fails or answers."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = False
        self._error = error

    async def __call__(self) -> str:
        self.entered.set()
        await self.go.wait()
        self.ended = True
        if self._error is not None:
            raise self._error
        return "answer"


async def test_answer() -> None:
    """Without a cancel the work's answer or error is returned."""
    work = Work()
    work.go.set()
    assert await finish_despite_cancel(work()) == "answer"
    work = Work(ValueError("why"))
    work.go.set()
    with pytest.raises(ValueError, match="why"):
        await finish_despite_cancel(work())


@pytest.mark.parametrize("cancels", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("why"), asyncio.CancelledError()], ids=["well", "failed", "cut"])
async def test_cancel(error: BaseException | None, cancels: int) -> None:
    """Any number of cancels leaves the work running to its end, and then raises the cancel."""
    work = Work(error)
    task = asyncio.create_task(finish_despite_cancel(work()))
    await work.entered.wait()
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended


async def test_a_cancel_may_bring_the_work_to_its_end() -> None:
    """A cancel calls `on_cancel`, and replaces the error of the work."""
    work = Work(ValueError("stopped"))
    task = asyncio.create_task(finish_despite_cancel(work(), on_cancel=work.go.set))
    await work.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended


@pytest.mark.parametrize("cancels", [1, 3])
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("deadline", [True, False], ids=["deadline first", "cancel only"])
async def test_answer_after_cancels(answers: bool, cancels: int, deadline: bool) -> None:
    """Neither a deadline nor any number of cancels shortens the wait for an answer."""
    work = Work()
    put_forward = clock(SETTLE_S).loop.put_forward

    async def request() -> str:
        async with asyncio.timeout(1 if deadline else None):
            return await await_answer(work(), lambda: True)

    task = asyncio.create_task(request())
    await work.entered.wait()
    if deadline:
        put_forward(2)
    for _ in range(cancels):
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    work.go.set() if answers else put_forward(SETTLE_S + 1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended == answers


async def test_a_request_that_is_not_sent_is_given_up() -> None:
    """A cancel before the last byte was sent waits for nothing: nothing can come to exist."""
    work = Work()
    task = asyncio.create_task(await_answer(work(), lambda: False))
    await work.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not work.ended
