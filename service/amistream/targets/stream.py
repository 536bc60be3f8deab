"""Writes an unbundled image to the standard output, zeros included."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator
from contextlib import suppress

from amistream.errors import RefusedError
from amistream.stages.back.unarchive import Piece
from amistream.targets.blocks import ZEROS, write_errors
from amistream.values import MIB

_POLL_MS = 200


_MOST_HELD = 256
"""Most pieces that go to the writing thread together. Each is a view that keeps a larger buffer alive."""


class StreamTarget:
    """The standard output. Bytes that were written cannot be taken back."""

    name = "-"

    def __init__(self, descriptor: int) -> None:
        self._given = descriptor
        self._descriptor = -1
        self._pipe = False
        self._stopped = False
        self._position = 0
        self._size = 0
        self._held: list[Piece] = []
        self._held_bytes = 0

    def open(self, size: int, least: int) -> None:
        del least
        if os.isatty(self._given):
            raise RefusedError(
                "target.terminal",
                "cannot unbundle to the terminal: an image is not text",
                hint="send it to a file or a program: amistream unbundle MANIFEST - | ...",
                field="destination",
            )
        self._size = size
        self._pipe = stat.S_ISFIFO(os.fstat(self._given).st_mode)
        if self._pipe:
            # A second descriptor can be non-blocking without changing the one that others share. So a cancel works
            # even while the reader takes nothing.
            with suppress(OSError):
                self._descriptor = os.open(f"/proc/self/fd/{self._given}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            self._descriptor = os.dup(self._given)

    def gather(self, offset: int, data: memoryview) -> Iterator[list[Piece]]:
        # A sparse archive may come in pieces of 4 KiB: waking a thread for each takes longer than writing it.
        self._held.append(Piece(offset, data))
        self._held_bytes += len(data)
        if self._held_bytes >= MIB or len(self._held) == _MOST_HELD:
            yield self._let_go()

    def rest(self) -> Iterator[list[Piece]]:
        # The rest is zeros.
        self._held.append(Piece(self._size, memoryview(b"")))
        yield self._let_go()

    def write(self, gathered: list[Piece]) -> None:
        for piece in gathered:
            self._fill(piece.offset)
            self._write(piece.data)

    def commit(self) -> None:
        self._close()

    def abandon(self) -> str:
        self._close()
        return (
            f"{self._position} bytes were written to the standard output: they are not a valid image"
            if self._position
            else ""
        )

    def stop(self) -> None:
        self._stopped = True

    def _let_go(self) -> list[Piece]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _fill(self, end: int) -> None:
        while self._position < end and not self._stopped:
            self._write(memoryview(ZEROS)[: end - self._position])

    def _write(self, data: memoryview) -> None:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while data and not self._stopped:
            if self._pipe and not ready.poll(_POLL_MS):
                continue
            with write_errors("the standard output"):
                try:
                    written = os.write(self._descriptor, data)
                except BlockingIOError:
                    continue
            self._position += written
            data = data[written:]

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
