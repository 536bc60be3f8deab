"""The event loop of the tests: its clock can be put forward, so that no test waits for a time-out."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

TURNS = 5
"""Turns of the loop in which a request whose time is up closes its connection."""


class TidyLoop(asyncio.SelectorEventLoop):
    """A loop that aborts closed connections at its end, whether or not their peers still read.

    A closed connection to a stalled server keeps its unsent bytes until the kernel gives up; no test waits for that.
    A connection that nobody closed stays, and is reported.
    """

    _transports: MutableMapping[int, asyncio.Transport]
    _ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self._ahead_s

    def put_forward(self, seconds: float) -> None:
        """Let `seconds` pass at once; all timers that are due then run."""
        self._ahead_s += seconds

    def has_connection(self, address: tuple[str, int]) -> bool:
        """Report whether a connection from this local address is open and not closing."""
        return any(
            each.get_extra_info("sockname") == address and not each.is_closing() for each in self._transports.values()
        )

    def close(self) -> None:
        for transport in list(self._transports.values()):
            is_open = transport.get_extra_info("socket").fileno() >= 0
            if is_open and transport.is_closing():
                transport.abort()
        if not self.is_closed():
            self.run_until_complete(asyncio.sleep(0))
        super().close()


@dataclass(frozen=True)
class Clock:
    """Puts a client's clock forward by `step_s`, past its time-out, for a server on another thread."""

    loop: TidyLoop
    step_s: float

    async def pass_for(self, address: tuple[str, int]) -> bool:
        """Let one step pass if the client at `address` still waits, and let it act; returns whether it waited."""
        done: Future[bool] = Future()
        self.loop.call_soon_threadsafe(self._step, address, done)
        return await asyncio.wrap_future(done)

    def _step(self, address: tuple[str, int], done: Future[bool]) -> None:
        waits = self.loop.has_connection(address)
        if waits:
            self.loop.put_forward(self.step_s)
        self._turn(done, TURNS, waits=waits)

    def _turn(self, done: Future[bool], turns: int, *, waits: bool) -> None:
        if turns:
            self.loop.call_soon(functools.partial(self._turn, done, turns - 1, waits=waits))
        elif not done.cancelled():
            done.set_result(waits)


def clock(step_s: float) -> Clock:
    """The clock of the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TidyLoop)
    return Clock(loop, step_s)
