"""Mounts the file system in an open file for this process alone. Nothing is left, whatever becomes of it.

The mount is that of another process (`mount_guard`) with a namespace of its own; this process works with its open root
directory. The calls block.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amistream.host import mount_guard
from amistream.host.guard import MOST, guarded, receive


class MountRefusedError(OSError):
    """The kernel does not mount it, or not unmount it cleanly."""


@contextmanager
def mounted_image(image: int, kind: str, options: str, point: Path) -> Iterator[int]:
    """Mount the file system in the open file `image`, and give its open root directory, which closes with the block.

    `point` is any directory; it stays as it is for all other processes. At the end of the block, unless that raised,
    the file system is unmounted, and all is in the file: no other descriptor of it may be open by then. Raises
    `MountRefusedError`.
    """
    with guarded(mount_guard, image, point.absolute(), kind, options, keep=[image]) as (_, guard):
        answer, root = receive(guard)
        if root is None:
            raise _refused(answer)
        try:
            yield root
        finally:
            os.close(root)
        _unmount(guard)


def _unmount(guard: socket.socket) -> None:
    try:
        guard.send(b"u")
        answer = guard.recv(MOST).decode()
    except OSError:
        answer = ""
    if answer != "unmounted 0":
        raise _refused(answer)


def _refused(answer: str) -> MountRefusedError:
    """The error in the guard's last word."""
    match answer.split():
        case [step, number]:
            what = "no loop device can be had" if step == "loop" else f"it cannot be {step}ed"
            return MountRefusedError(int(number), f"{what}: {os.strerror(int(number))}")
        case _:
            return MountRefusedError(0, "the process that mounts it was ended")
