"""Moves blocks through the stages on worker threads.

Each worker carries one block through every step. A parallel step runs on all workers at once; at an ordered step each
worker waits for its turn, so blocks pass in the volume's order. A block thus stays in one core's cache, is handed over
without a copy, and the event loop sees only finished parts. The number of workers bounds the blocks in flight; when the
last step blocks (no free buffer), all workers soon wait behind it and the reader is not called: back pressure without a
queue to size.

A resumed pass leads the blocks before its checkpoint through the first turn only.

Consecutive ordered steps may share a turn (`same_turn`): their transforms are then chained lazily, item by item, which
lets a transform reuse its output buffer.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import Any, Protocol, TypeAlias

from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.priority import yield_to_others


class Transform(Protocol):
    """A pure stage: see `amistream.stages`."""

    def feed(self, item: Any, /) -> Iterator[Any]: ...

    def finish(self) -> Iterator[Any]: ...

    def result(self) -> Any:
        """The stage's measurements, once it has finished."""


class Reader(Protocol):
    """The source of blocks."""

    def read(self, buffer: memoryview, /) -> tuple[Any, bool]:
        """Fill a prefix of the buffer, or return a block of its own, and say whether the block is the last."""


@dataclass(slots=True)
class Meter:
    """The counters of one stage. Workers write them, any thread may read them; a reader may see them a block late."""

    name: str
    bytes_out: int = 0
    busy_s: float = 0.0
    """Seconds of CPU; of the reader, which waits for the disk, seconds."""
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ordered:
    """A step that takes the blocks in order, one at a time. `same_turn`: together with the ordered step before it."""

    name: str
    transform: Transform
    same_turn: bool = False


@dataclass(frozen=True, slots=True)
class Parallel:
    """A step that runs on all workers at once: a function of a block's number and the items made of the block."""

    name: str
    work: Callable[[int, Sequence[Any]], Any]


Step: TypeAlias = Ordered | Parallel
"""One line of the data path."""


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
        """`emit` takes the items of the last step, which is an ordered one, on a worker thread, in order; it may block.

        `release` is called when the relay is stopped: it must wake whatever blocks in a transform or in `emit`.
        `slots` is entered around parallel work: a semaphore there shares the cores among relays. Workers run at the
        scheduling priority `nice` (19 yields the most) and, unless it is 0, read from disk only when it is idle.
        Blocks before number `resume_at` (from 0) pass only the first step and the steps that share its turn.
        """
        self._reader = reader
        self._emit = emit
        self._block_size = block_size
        self._release = release
        self._slots = slots or nullcontext()
        self._nice = nice
        self._turns = list(_turns(steps))
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
        """Carry all blocks; returns when the last item was emitted. Raises the first worker's error.

        When cancelled, waits for the running calls first, so that their buffers are free afterwards.
        """
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="amistream-worker")
        working: list[asyncio.Future[None]] = []
        try:
            while len(working) < workers:
                working.append(loop.run_in_executor(pool, self._work))
        except RuntimeError as error:  # no thread is left: those that have begun must end first
            self.stop(error)
        pool.shutdown(wait=False)
        if working:
            await finish_despite_cancel(asyncio.wait(working), on_cancel=lambda: self.stop(RelayStoppedError()))
        if self.cause is not None:
            raise self.cause

    def stop(self, cause: BaseException) -> None:
        """Make every worker stop at its next step; the first cause is kept."""
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
            if isinstance(turn, Parallel):
                items = self._work_in_parallel(turn, ticket, items)
                continue
            self.meters[turn[0].name].waiting_s += gate.enter(ticket)
            made = self._work_in_order(turn, items, last=last)
            if turn is self._turns[-1]:
                for item in made:
                    self._emit(item)
            else:
                items = list(made)
            gate.leave()
        return not last

    def _work_in_parallel(self, step: Parallel, number: int, items: Sequence[Any]) -> Sequence[Any]:
        queued = perf_counter()
        with self._slots:
            waited_s, started = perf_counter() - queued, thread_time()
            made = step.work(number, items)
            busy_s = thread_time() - started
        meter = self.meters[step.name]
        with self._meter_lock:
            meter.waiting_s += waited_s
            meter.busy_s += busy_s
            meter.bytes_out += len(made)
        return (made,)

    def _work_in_order(self, turn: Sequence[Ordered], items: Iterable[Any], *, last: bool) -> Iterator[Any]:
        for step, outer in itertools.zip_longest(turn, turn[1:]):
            passed = _through(step.transform, items, last=last)
            items = _metered(passed, self.meters[step.name], self.meters[outer.name] if outer else None)
        return iter(items)


class _Gate:
    """Lets tickets `first`, `first` + 1 ... through, one at a time."""

    def __init__(self, first: int) -> None:
        self._turn = first
        self._closed = False
        self._lock = threading.Lock()
        # Each ticket waits at a lock of its own, held until its turn: a leaving ticket wakes only the next.
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


def _turns(steps: Sequence[Step]) -> Iterator[Parallel | list[Ordered]]:
    """The parallel steps, and the ordered steps in lists that share a turn."""
    turn: list[Ordered] = []
    for step in steps:
        if turn and not (isinstance(step, Ordered) and step.same_turn):
            yield turn
            turn = []
        if isinstance(step, Parallel):
            yield step
        else:
            turn.append(step)
    yield turn


def _through(transform: Transform, items: Iterable[Any], *, last: bool) -> Iterator[Any]:
    for item in items:
        yield from transform.feed(item)
    if last:
        yield from transform.finish()


def _metered(items: Iterator[Any], meter: Meter, outer: Meter | None) -> Iterator[Any]:
    """Yield `items` and time their making; `outer`, which pulls them, is not charged for that time."""
    while True:
        started = thread_time()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            elapsed = thread_time() - started
            meter.busy_s += elapsed
            if outer is not None:
                outer.busy_s -= elapsed
        meter.bytes_out += len(item)
        yield item
