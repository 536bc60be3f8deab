"""One of the two processes that thaw file systems in time (`frozen` starts them, and has the table of who may die).

    python freeze_guard.py PARENT freezer|watcher OTHER PID LIMIT_S PLACE...

PARENT and OTHER are the descriptors of sockets to the parent and to the other guard, whose process is PID for the
watcher. The PLACEs are those of directories in the file systems. While these are frozen a guard opens no file, writes
no log, and needs no page that is not in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
_MCL_CURRENT_AND_FUTURE = 3
_ENDING = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
CANNOT_LOCK = os.EX_OSERR
"""Exit status of a guard that may not lock its memory."""
_MOST = 100
"""Bytes of a message."""


def thaw(place: int) -> bool:
    """Thaw a file system; False if that fails, as it does for one that is not frozen."""
    try:
        fcntl.ioctl(place, FITHAW, 0)
    except OSError:
        return False
    return True


class Guard:
    """Serves the parent until all is thawed: by its word, or when the limit has passed, or when somebody is gone."""

    def __init__(self, parent: socket.socket, other: socket.socket, limit_s: float) -> None:
        self._parent = parent
        self._other = other
        self._limit_s = limit_s
        self.frozen: list[int] = []
        """The file systems that this guard has to thaw."""

    def serve(self, places: Sequence[int], *, freezer: bool) -> None:
        self._answer("ready")
        if not self._wait(None):
            return
        end = time.monotonic() + self._limit_s
        self._answer(self._freeze(places) if freezer else self._watch(places))
        if self._wait(max(0.0, end - time.monotonic())):
            self._answer(self.thaw_all())
            self._wait(None)

    def thaw_all(self) -> str:
        results = [thaw(place) for place in self.frozen]
        self.frozen.clear()
        return "thawed" if all(results) else "lost"

    def _freeze(self, places: Sequence[int]) -> str:
        for number, place in enumerate(places):
            try:
                fcntl.ioctl(place, FIFREEZE, 0)
            except OSError as error:
                self.thaw_all()
                return f"failed {number} {error.errno}"
            self.frozen.append(place)
        return "frozen"

    def _watch(self, places: Sequence[int]) -> str:
        # From now on the other one may freeze them at any moment.
        self.frozen.extend(places)
        return "watching"

    def _answer(self, word: str) -> None:
        self._parent.send(word.encode())

    def _wait(self, seconds: float | None) -> bool:
        """Wait for the parent's next word; False if the time has passed, or the parent or the other guard is gone."""
        waiting = select.poll()
        for each in (self._parent, self._other):
            waiting.register(each, select.POLLIN)
        ready = waiting.poll(None if seconds is None else seconds * 1000)
        # The other guard sends nothing: its socket is ready once it is gone.
        return ready == [(self._parent.fileno(), select.POLLIN)] and bool(self._parent.recv(_MOST))


def main() -> None:
    parent, role, other, pid, limit_s, *places = sys.argv[1:]
    watched = os.pidfd_open(int(pid)) if role == "watcher" else None
    peer = socket.socket(fileno=int(other))
    guard = Guard(socket.socket(fileno=int(parent)), peer, float(limit_s))
    for number in _ENDING:
        signal.signal(number, lambda *_: sys.exit())
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE):
        sys.exit(CANNOT_LOCK)
    try:
        guard.serve([int(place) for place in places], freezer=role == "freezer")
    finally:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        kept = list(guard.frozen)
        if guard.thaw_all() == "lost" and watched is not None:
            # The freezer has thawed, or is still about to freeze: FIFREEZE cannot be interrupted, and ends before it.
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            while peer.recv(_MOST):
                pass
            for place in kept:
                thaw(place)


if __name__ == "__main__":
    main()
