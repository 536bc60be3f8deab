"""Starts guards: programs of this package that hold mounts or freezes, each in its own process with a socket to it.

A guard runs its own file alone, without a package or site, and gets no more of this process than it is given. It ends
when its socket does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

MOST = 100
"""Bytes of a guard's message."""


def start_guard(
    program: ModuleType, *words: object, keep: Sequence[int] = (), stderr: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start `program` with its end of the socket and `words` as arguments, and the descriptors in `keep` open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program.__file__), str(theirs.fileno()), *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(theirs.fileno(), *keep),
                cwd="/",
                env={},
                start_new_session=True,  # Ctrl-C is for this process
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


@contextmanager
def guarded(
    program: ModuleType, *words: object, keep: Sequence[int] = (), stderr: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Run a guard as `start_guard` does, and kill it at the end of the block."""
    process, connection = start_guard(program, *words, keep=keep, stderr=stderr)
    with connection:
        try:
            yield process, connection
        finally:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


def receive(connection: socket.socket) -> tuple[str, int | None]:
    """The guard's next message, '' if it is gone, and the descriptor that came with it."""
    message, descriptors, _, _ = socket.recv_fds(connection, MOST, 1)
    for each in descriptors:
        os.set_inheritable(each, False)
    return message.decode(), descriptors[0] if descriptors else None
