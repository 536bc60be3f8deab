"""Buffers: a fixed number, lent to threads, which wait for a free one."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from amistream.flow.buffers import Buffers, BuffersClosedError


def start_takers(pool: ThreadPoolExecutor, buffers: Buffers, count: int) -> list[Future[memoryview]]:
    """Start `count` takes, each on a thread that is known to run."""
    running = threading.Barrier(count + 1)

    def take() -> memoryview:
        running.wait(10)
        return buffers.take()

    takers = [pool.submit(take) for _ in range(count)]
    running.wait(10)
    return takers


def test_count_and_size() -> None:
    """`count` buffers are lent at once, all different and of the given size."""
    buffers = Buffers(count=3, size=100)
    taken = [buffers.take() for _ in range(3)]
    assert [len(buffer) for buffer in taken] == [100] * 3
    assert len({id(buffer) for buffer in taken}) == 3


def test_reused() -> None:
    """A returned buffer is lent again, unchanged, before a new one is allocated."""
    buffers = Buffers(count=2, size=4)
    first = buffers.take()
    first[:] = b"used"
    buffers.give(first)
    assert buffers.take() is first
    assert bytes(first) == b"used"


def test_waits_for_give() -> None:
    """A taker waits until a buffer is returned, and gets that one."""
    buffers = Buffers(count=1, size=4)
    only = buffers.take()
    with ThreadPoolExecutor(1) as pool:
        (taker,) = start_takers(pool, buffers, 1)
        assert not taker.done()
        buffers.give(only)
        assert taker.result(10) is only


def test_one_give_one_taker() -> None:
    """A returned buffer wakes one waiting taker, and the next when that one returns it."""
    buffers = Buffers(count=1, size=4)
    only = buffers.take()
    with ThreadPoolExecutor(3) as pool:
        waiting = set(start_takers(pool, buffers, 3))
        while waiting:
            buffers.give(only)
            done, waiting = wait(waiting, timeout=10, return_when="FIRST_COMPLETED")
            assert [taker.result() is only for taker in done] == [True]


def test_woken_for_several() -> None:
    """A taker that waits gets a buffer when `wake_at` are free, and then the others without waiting."""
    buffers = Buffers(count=3, size=4, wake_at=2)
    taken = [buffers.take() for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        (taker,) = start_takers(pool, buffers, 1)
        buffers.give(taken[0])
        assert not taker.done()
        buffers.give(taken[1])
        assert taker.result(10) is taken[1]
    assert buffers.take() is taken[0]


def test_close_wakes_takers() -> None:
    """Closing raises an error in all waiting takers and all later ones."""
    buffers = Buffers(count=1, size=4)
    buffers.take()
    with ThreadPoolExecutor(2) as pool:
        takers = start_takers(pool, buffers, 2)
        buffers.close()
        for taker in takers:
            with pytest.raises(BuffersClosedError):
                taker.result(10)
    with pytest.raises(BuffersClosedError):
        buffers.take()


def test_closed_pool_lends_nothing() -> None:
    """A closed pool lends neither free buffers nor buffers returned afterwards."""
    buffers = Buffers(count=2, size=4)
    taken = buffers.take()
    buffers.give(buffers.take())
    buffers.close()
    buffers.give(taken)
    buffers.close()
    with pytest.raises(BuffersClosedError):
        buffers.take()


def test_waiting_is_measured() -> None:
    """The waiting times of takers add up."""
    buffers = Buffers(count=1, size=4)
    only = buffers.take()
    before = buffers.waited_s
    with ThreadPoolExecutor(1) as pool:
        (taker,) = start_takers(pool, buffers, 1)
        buffers.give(only)
        taker.result(10)
    assert buffers.waited_s > before
