"""Freezes mounted file systems for a bounded time: their writers wait, and what is on the disk is consistent.

A frozen file system stays so when the process that froze it dies (ioctl_fsfreeze(2)), and its writers cannot even be
killed. So three processes hold it: this one, and two guards (`freeze_guard`) that have nothing else to do. The freezer
freezes and thaws by this one's word. The watcher waits. Each holds a directory of the file system open, so that a lazy
umount does not take away the way to thaw.

| dead or stopped                     | who thaws, and when                                             |
|-------------------------------------|-----------------------------------------------------------------|
| this process killed                 | the freezer, at the end of its socket                           |
| this process stopped or hanging     | the freezer, at the limit                                       |
| freezer killed                      | the watcher, at the end of its socket                           |
| freezer stopped                     | the watcher, at the limit; this process, when it has read all   |
| freezer killed before FIFREEZE ends | the watcher: the socket ends after FIFREEZE has                 |
| watcher killed                      | the freezer, at the end of its socket                           |
| watcher stopped                     | the freezer, as if it ran                                       |
| this process and the freezer killed | the watcher, at the end of a socket                             |
| this process killed, freezer stopped| the watcher, at the end of its socket                           |
| this process and the watcher killed | the freezer, at the end of a socket                             |
| freezer and watcher killed          | this process, a moment after the limit, or when it has read all |
| freezer and watcher stopped         | the same                                                        |
| one stopped, this process stopped   | the other guard, at the limit                                   |
| all three killed or stopped         | nobody: `fsfreeze --unfreeze`                                   |

A guard that has thawed for any of these reasons ends, and the job fails: only a freezer that at the end, by this
process's word, thaws all of them proves that they were frozen until then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from amistream.errors import RefusedError, SourceError
from amistream.host import freeze_guard
from amistream.host.freeze_guard import CANNOT_LOCK, thaw
from amistream.host.guard import MOST, start_guard
from amistream.host.mounts import shown
from amistream.values import quoted

PATIENCE_S = 60.0
"""Time for a guard to start, or to freeze: a busy disk may take long to write what is pending. Guess."""
ANSWER_S = 5.0
"""Time for a guard to thaw, or to end. Guess: it has nothing else to do."""
GRACE_S = 2.0
"""Time after the limit by which a guard must have thawed. Guess."""

CAPABLE = (
    "run it as root; for the daemon: systemctl edit amistream, then [Service] and "
    "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_IPC_LOCK, then systemctl restart amistream"
)


class Frozen:
    """File systems that are frozen; `release` or `close` it. The calls block, and may come from several threads."""

    def __init__(self, places: Sequence[Path], *, limit_s: float) -> None:
        """Freeze what is mounted at `places`. Raises `RefusedError`, and nothing is frozen then."""
        self.places = tuple(places)
        self._limit_s = limit_s
        self._open: list[int] = []
        self._guards: list[_Guard] = []
        self._may_be_frozen = False
        """By this object, not by somebody else."""
        self._held: bool | None = None
        """Were frozen until they were thawed by this object's word; None as long as that has not come."""
        self._lock = threading.Lock()
        self._timer = threading.Timer(limit_s + GRACE_S, self._thaw_late)
        self._timer.daemon = True
        try:
            self._freeze()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise `SourceError` if a guard is gone, or has something to report: then all is thawed, or soon will be."""
        if self._held is not None or any(guard.has_news() for guard in self._guards):
            raise self._lost()

    def release(self) -> None:
        """Thaw all. Raises `SourceError` unless all were frozen until now."""
        if not self._thaw():
            raise self._lost()

    def close(self) -> None:
        """Thaw all, if that has not been done."""
        self._thaw()

    def _freeze(self) -> None:
        for place in self.places:
            try:
                self._open.append(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                _write_out(self._open[-1])
            except OSError as error:
                raise _refused(place, error.errno or 0) from error
        try:
            self._start()
        except OSError as error:
            raise self._no_guard() from error
        freezer, watcher = self._guards
        for guard in self._guards:
            if guard.answer(PATIENCE_S) != "ready":
                raise self._no_guard(guard)
        if watcher.ask("watch", ANSWER_S) != "watching":
            raise self._no_guard(watcher)
        self._timer.start()
        self._may_be_frozen = True
        word, *about = freezer.ask("freeze", min(PATIENCE_S, self._limit_s)).split() or [""]
        if word == "failed":
            self._may_be_frozen = False
            raise _refused(self.places[int(about[0])], int(about[1]))
        if word != "frozen":
            raise self._no_guard(freezer)

    def _start(self) -> None:
        """Start the freezer and the watcher, which have a socket to each other."""
        links = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with links[0], links[1]:
            for role, link in zip(("freezer", "watcher"), links, strict=True):
                other = self._guards[0].process.pid if self._guards else 0
                numbers = (link.fileno(), other, self._limit_s, *self._open)
                keep = (link.fileno(), *self._open)
                self._guards.append(_Guard(*start_guard(freeze_guard, role, *numbers, keep=keep)))

    def _thaw(self) -> bool:
        """Thaw all and end the guards; False if they were thawed before, or that cannot be known."""
        with self._lock:
            if self._held is None:
                self._timer.cancel()
                self._held = self._may_be_frozen and self._guards[0].ask("thaw", ANSWER_S) == "thawed"
                self._end_guards(thaw_too=self._may_be_frozen and not self._held)
                for place in self._open:
                    os.close(place)
            return self._held

    def _end_guards(self, *, thaw_too: bool) -> None:
        if not thaw_too:
            # The watcher first: alone it would thaw, and somebody else may have frozen the same meanwhile.
            for guard in reversed(self._guards):
                guard.end()
            return
        freezer, watcher = self._guards
        is_gone = freezer.end()
        for place in self._open:
            thaw(place)
        if is_gone:
            # Else it is within FIFREEZE still, and the watcher thaws behind it.
            watcher.end()

    def _thaw_late(self) -> None:
        """Thaw what two guards should have thawed, and have not."""
        with self._lock:
            if self._held is None and any(guard.process.poll() != 0 for guard in self._guards):
                for place in self._open:
                    thaw(place)

    def _lost(self) -> SourceError:
        names = ", ".join(map(shown, self.places))
        return SourceError(
            "freeze.lost",
            f"cannot use the data read from the file systems on {names}: they were thawed before all was read, so the "
            "image would not be consistent",
            hint=f"a freeze ends after freeze_timeout_s ({self._limit_s:g} s), or when one of its processes is ended: "
            "allow more time if the writers can wait, or use a snapshot",
            field="freeze",
        )

    def _no_guard(self, guard: _Guard | None = None) -> RefusedError:
        names = ", ".join(map(shown, self.places))
        if guard is not None and guard.status() == CANNOT_LOCK:
            why = "its guard may not lock its memory (CAP_IPC_LOCK)"
            return RefusedError("freeze.not_allowed", f"cannot freeze {names}: {why}", hint=CAPABLE, field="freeze")
        return RefusedError(
            "freeze.guard",
            f"cannot freeze {names}: the process that would thaw it does not answer",
            hint="the machine may be too busy, or short of memory: try again later",
            field="freeze",
        )


class _Guard:
    """A process of `freeze_guard`, and the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.process = process
        self._connection = connection

    def ask(self, word: str, seconds: float) -> str:
        try:
            self._connection.send(word.encode())
        except OSError:
            return ""  # it has ended
        return self.answer(seconds)

    def answer(self, seconds: float) -> str:
        """The next word of the guard; '' if it is gone, or none comes in time."""
        self._connection.settimeout(seconds)
        try:
            return self._connection.recv(MOST).decode()
        except OSError:
            return ""

    def has_news(self) -> bool:
        waiting = select.poll()
        waiting.register(self._connection, select.POLLIN)
        return bool(waiting.poll(0))

    def status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(ANSWER_S)
        return None

    def end(self) -> bool:
        """Kill the guard; False if it cannot end yet."""
        self.process.kill()
        ended = self.status() is not None
        self._connection.close()
        return ended


def _write_out(place: int) -> None:
    """Write what is pending. A freeze does so too, but its writers wait from the beginning on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(place) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _refused(place: Path, number: int) -> RefusedError:
    name = quoted(shown(place))
    why, hint = os.strerror(number), "bundle it unmounted, or from a snapshot"
    if number == errno.EBUSY:
        why = "somebody else has frozen it already"
        hint = f"fsfreeze --unfreeze {name} thaws it; while it stays frozen, bundle with --live instead of --freeze"
    elif number == errno.EPERM:
        why, hint = "that needs CAP_SYS_ADMIN", CAPABLE
    elif number == errno.EOPNOTSUPP:
        why = "its file system cannot be frozen"
    return RefusedError("freeze.failed", f"cannot freeze {shown(place)}: {why}", hint=hint, field="freeze")
