"""Moves blocks through the stages on worker threads.

Each worker carries one block through every stage. A parallel stage lets all workers work at once; at an ordered
stage each waits for its turn, so blocks pass in the volume's order. A block thus stays in one core's cache, is
handed over without any copy, and the event loop sees only finished parts. What is in flight is bounded by the
number of workers; when the last stage blocks (no free buffer), all workers soon stand behind it and the reader is
not called: back pressure without a queue to size.

A pass that goes on where an earlier one stopped leads the blocks before that through the first turn only.

Consecutive ordered stages may share a turn (`same_turn`): their transforms are then chained lazily, item by item,
which lets a transform reuse its output buffer.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.priority import yield_to_others


class Transform(Protocol):
    """A pure stage: see `amistream.stages`."""

    def feed(self, item: Any, /) -> Iterator[Any]: ...

    def finish(self) -> Iterator[Any]: ...


class Reader(Protocol):
    """Where blocks come from. `read` fills a prefix of the buffer, or has a block of its own, and says whether that was
    the last.
    """

    def read(self, buffer: memoryview, /) -> tuple[Any, bool]: ...


@dataclass(slots=True)
class Meter:
    """What one stage did so far. Written by workers, read by anyone; a reader may see it a block late."""

    name: str
    bytes_out: int = 0
    busy_s: float = 0.0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the data path: a transform in order, or a function of a block's number and all its items."""

    name: str
    transform: Transform | None = None
    parallel: Callable[[int, Sequence[Any]], Any] | None = None
    same_turn: bool = False


class RelayStoppedError(Exception):
    """Another worker failed or the job was cancelled. Never the first cause."""


class Relay:
    """One pass of a reader's blocks through steps; used once."""

    def __init__(
        self,
        reader: Reader,
        steps: Sequence[Step],
        emit: Callable[[Any], None],
        *,
        block_size: int,
        release: Callable[[], None],
        slots: AbstractContextManager[Any] | None = None,
        nice: int = 0,
        resume_at: int = 0,
    ) -> None:
        """`emit` takes what the last step yields, on a worker thread, in order, and may block.

        `release` is called when the relay is stopped: it must wake whatever blocks in a transform or in `emit`.
        `slots` is entered around parallel work: a semaphore there shares the cores among relays. Workers run at the
        scheduling priority `nice` (19 yields the most) and, when it is not 0, read from disk when nobody else does.
        Blocks before number `resume_at` (from 0) go no further than the first step and those that share its turn.
        """
        self._reader = reader
        self._emit = emit
        self._block_size = block_size
        self._release = release
        self._slots = slots or nullcontext()
        self._nice = nice
        self._turns = [list(turn) for turn in _group(steps)]
        self._resume_at = resume_at
        self._gates = [_Gate(resume_at if number else 0) for number in range(len(self._turns))]
        self._read_lock = threading.Lock()
        self._tickets = itertools.count()
        self._ended = False
        self._meter_lock = threading.Lock()
        self.cause: BaseException | None = None
        self.read_meter = Meter("read")
        self.meters = {step.name: Meter(step.name) for step in steps}

    async def run(self, workers: int) -> None:
        """Carry everything; returns when the last item was emitted. Raises the first worker's error.

        When cancelled, waits for the calls that are running before it lets go, so that buffers are free afterwards.
        """
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="amistream-worker")
        working = [loop.run_in_executor(pool, self._work) for _ in range(workers)]
        pool.shutdown(wait=False)
        await finish_despite_cancel(asyncio.wait(working), on_cancel=lambda: self.stop(RelayStoppedError()))
        if self.cause is not None:
            raise self.cause

    def stop(self, cause: BaseException) -> None:
        """Make every worker stop at its next step; the first cause counts."""
        with self._meter_lock:
            if self.cause is None:
                self.cause = cause
        for gate in self._gates:
            gate.close()
        self._release()

    def _work(self) -> None:
        buffer = memoryview(bytearray(self._block_size))
        try:
            if self._nice:
                yield_to_others(self._nice)
            while self._carry_one(buffer):
                pass
        except BaseException as error:  # noqa: BLE001 - handed to the event loop as the cause
            self.stop(error)

    def _carry_one(self, buffer: memoryview) -> bool:
        with self._read_lock:
            if self._ended or self.cause is not None:
                return False
            started = perf_counter()
            ticket = next(self._tickets)
            block, last = self._reader.read(buffer)
            self._ended = last
            self.read_meter.bytes_out += len(block)
            self.read_meter.busy_s += perf_counter() - started
        items: Sequence[Any] = (block,)
        turns = self._turns if ticket >= self._resume_at else self._turns[:1]
        for turn, gate in zip(turns, self._gates, strict=False):
            is_last_turn = turn is self._turns[-1]
            if turn[0].parallel is not None:
                items = self._work_in_parallel(turn[0], ticket, items)
                continue
            self.meters[turn[0].name].waiting_s += gate.enter(ticket)
            made = self._work_in_order(turn, items, last=last)
            if is_last_turn:
                for item in made:
                    self._emit(item)
            else:
                items = list(made)
            gate.leave()
        return not last

    def _work_in_parallel(self, step: Step, number: int, items: Sequence[Any]) -> Sequence[Any]:
        assert step.parallel is not None  # noqa: S101 - for the type checker; _carry_one looked
        queued = perf_counter()
        with self._slots:
            started = perf_counter()
            made = step.parallel(number, items)
            ended = perf_counter()
        meter = self.meters[step.name]
        with self._meter_lock:
            meter.waiting_s += started - queued
            meter.busy_s += ended - started
            meter.bytes_out += len(made)
        return (made,)

    def _work_in_order(self, turn: Sequence[Step], items: Iterable[Any], *, last: bool) -> Iterator[Any]:
        for step, outer in itertools.zip_longest(turn, turn[1:]):
            assert step.transform is not None  # noqa: S101 - for the type checker; _group saw to it
            passed = _through(step.transform, items, last=last)
            items = _metered(passed, self.meters[step.name], self.meters[outer.name] if outer else None)
        return iter(items)


class _Gate:
    """Lets tickets `first`, `first` + 1 ... through, one at a time."""

    def __init__(self, first: int) -> None:
        self._turn = first
        self._closed = False
        self._lock = threading.Lock()
        # Each waits at a lock of its own, held until its turn: a leaving ticket wakes the next and nobody else.
        self._waiting: dict[int, threading.Lock] = {}

    def enter(self, ticket: int) -> float:
        """Wait for `ticket`'s turn; returns the seconds waited. Raises `RelayStoppedError` when closed."""
        started = perf_counter()
        own = threading.Lock()
        with self._lock:
            if self._turn != ticket and not self._closed:
                own.acquire()
                self._waiting[ticket] = own
        with own:
            if self._closed:
                raise RelayStoppedError
        return perf_counter() - started

    def leave(self) -> None:
        with self._lock:
            self._turn += 1
            following = self._waiting.pop(self._turn, None)
        if following is not None:
            following.release()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for each in waiting:
            each.release()


def _group(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps that share a turn, together."""
    turn: list[Step] = []
    for step in steps:
        if turn and not step.same_turn:
            yield turn
            turn = []
        turn.append(step)
    yield turn


def _through(transform: Transform, items: Iterable[Any], *, last: bool) -> Iterator[Any]:
    for item in items:
        yield from transform.feed(item)
    if last:
        yield from transform.finish()


def _metered(items: Iterator[Any], meter: Meter, outer: Meter | None) -> Iterator[Any]:
    """Pass `items` on and time their making; `outer`, which pulls them in its own time, is relieved of it."""
    while True:
        started = perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            elapsed = perf_counter() - started
            meter.busy_s += elapsed
            if outer is not None:
                outer.busy_s -= elapsed
        meter.bytes_out += len(item)
        yield item
