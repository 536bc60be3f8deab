"""The event loop of the tests: its clock can be put forward, so that no test waits for a time-out."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, MutableMapping

Address: TypeAlias = tuple[str, int]
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

    def connections_to(self, peer: Address) -> dict[Address, socket.socket]:
        """The open connections to that address, by their own."""
        return {
            each.get_extra_info("sockname"): each.get_extra_info("socket")
            for each in self._transports.values()
            if each.get_extra_info("peername") == peer and not each.is_closing()
        }

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

    async def pass_for(
        self, held: Address, server: Address, is_quiet: Callable[[set[Address]], Coroutine[None, None, bool]]
    ) -> bool:
        """Let one step pass if the client at `held` still waits, and let it act; returns whether it waits.

        No step passes while another of its connections carries a request, or a reply that it has not read:
        `is_quiet`, called on the server's loop while the client's loop stands still, reports the requests.
        """
        done: Future[bool] = Future()
        serving = asyncio.get_running_loop()

        def step(turns: int) -> None:
            if done.cancelled():
                return
            connections = self.loop.connections_to(server)
            read_all = not any(map(unread, connections.values()))
            if not read_all or not asyncio.run_coroutine_threadsafe(is_quiet(set(connections)), serving).result():
                turned(0)
            elif turns:
                self.loop.call_soon(step, turns - 1)
            else:
                if held in connections:
                    self.loop.put_forward(self.step_s)
                turned(TURNS)

        def turned(turns: int) -> None:
            if turns:
                self.loop.call_soon(turned, turns - 1)
            elif not done.cancelled():
                done.set_result(held in self.loop.connections_to(server))

        self.loop.call_soon_threadsafe(step, TURNS)
        return await asyncio.wrap_future(done)


def unread(connection: socket.socket) -> int:
    """Count the bytes that were received and not read."""
    return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def clock(step_s: float) -> Clock:
    """The clock of the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TidyLoop)
    return Clock(loop, step_s)
