"""Work that finishes despite a cancel, which is raised afterwards."""

from __future__ import annotations

import asyncio

import pytest

from amistream.flow.cancel import finish_despite_cancel


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
