"""Mounts the file system in an open file for this process alone. Nothing is left, whatever becomes of it.

The mount is that of another process (`mount_guard`) with a namespace of its own; this process works with its open root
directory. The calls block.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amistream.host import mount_guard

_MOST = 100
"""Bytes of an answer."""


class MountRefusedError(OSError):
    """The kernel does not mount it, or not unmount it cleanly."""


@contextmanager
def mounted_image(image: int, kind: str, options: str, point: Path) -> Iterator[int]:
    """Mount the file system in the open file `image`, and give its open root directory, which closes with the block.

    `point` is any directory; it stays as it is for all other processes. At the end of the block, unless that raised,
    the file system is unmounted, and all is in the file: no other descriptor of it may be open by then. Raises
    `MountRefusedError`.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    mount_guard.__file__,
                    str(theirs.fileno()),
                    str(image),
                    str(point.absolute()),
                    kind,
                    options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), image),
                cwd="/",
                env={},
                start_new_session=True,  # Ctrl-C is for this process
            )
        try:
            root = _root(ours)
            try:
                yield root
            finally:
                os.close(root)
            _unmount(ours)
        finally:
            process.kill()
            process.wait()


def _root(guard: socket.socket) -> int:
    message, descriptors, _, _ = socket.recv_fds(guard, _MOST, 1)
    for each in descriptors:
        os.set_inheritable(each, False)
    if not descriptors:
        raise _refused(message)
    return descriptors[0]


def _unmount(guard: socket.socket) -> None:
    try:
        guard.send(b"u")
        message = guard.recv(_MOST)
    except OSError:
        message = b""
    if message != b"unmounted 0":
        raise _refused(message)


def _refused(message: bytes) -> MountRefusedError:
    """The error in the guard's last word."""
    match message.decode().split():
        case [step, number]:
            what = "no loop device can be had" if step == "loop" else f"it cannot be {step}ed"
            return MountRefusedError(int(number), f"{what}: {os.strerror(int(number))}")
        case _:
            return MountRefusedError(0, "the process that mounts it was ended")
