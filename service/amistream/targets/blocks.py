"""Writes an image front to back in whole, aligned blocks: past the page cache where that can be, and without its zeros.

The page cache would be paid for twice, in the copying and in what it pushes out: measured, 1 GiB costs 1.6 CPU seconds
through it and 0.3 past it. Direct writes (open(2), O_DIRECT) are waited for, and want memory, place and length on
bounds of the disk: what is short, or does not lie so, goes the ordinary way.

Two threads share the work: one copies what it has just made into blocks, while that is still in its core's cache
(elsewhere the copying takes three times as long), the other waits for the disk. Blocking: for threads. Raises OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from amistream.flow.buffers import Buffers
from amistream.targets.failures import write_errors
from amistream.values import KIB, MIB

BLOCK = 4 * MIB
"""Bytes written at once: with 1 MiB the waking and waiting takes a tenth longer (measured)."""
IN_FLIGHT = 3
"""Blocks that are being filled, wait, or are being written. More than are handed over at once, which is one."""
ZERO_UNIT = 16 * KIB
"""Aligned runs of so many zeros are left out. File systems' blocks mostly have 4 KiB, but looking for those costs
three times as much."""
ALIGNMENT = 4 * KIB
WORTH_WAITING = 256 * KIB
"""Bytes from which on a direct write pays, as each waits for the disk. Guess."""
ZEROS = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Block:
    """The first `length` bytes of the buffer are the image's from `offset` on."""

    offset: int
    buffer: memoryview
    length: int

    def __len__(self) -> int:
        return self.length


class BlockWriter:
    """One image on its way to a descriptor, which stays the caller's.

    One thread calls `gather` and `rest`, another passes what they yield to `write`; then `finish`. What was yielded
    must get there before the next is asked for: its buffer may be the one that is waited for.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        on_zeros: Callable[[int, int], None],
        *,
        direct: bool = True,
        keep_first: Callable[[bytes], None] | None = None,
    ) -> None:
        """`on_zeros` is told each run of bytes that is left out because it is zeros, in order.

        Without `direct` all goes through the page cache. `keep_first` gets the first block instead of its being
        written.
        """
        self._descriptor = descriptor
        self._size = size
        self._on_zeros = on_zeros
        self._keep_first = keep_first
        self._may_be_direct = direct
        self._is_direct = False
        self._buffers = Buffers(count=IN_FLIGHT, size=BLOCK)
        self._buffer = self._buffers.take()
        self._base = 0
        self._filled = 0
        self._next = 0

    def gather(self, offset: int, data: memoryview) -> Iterator[Block]:
        """Copy bytes of the image, in ascending order, and yield blocks as they fill; what is passed over are zeros.

        Waits while all blocks are in flight. Raises `BuffersClosedError` when stopped.
        """
        while data:
            inside = offset % BLOCK
            if offset - inside != self._base:
                yield from self.rest()
                self._base = offset - inside
            self._clear(inside)
            taken = data[: BLOCK - inside]
            self._buffer[inside : inside + len(taken)] = taken
            self._filled = inside + len(taken)
            offset += len(taken)
            data = data[len(taken) :]

    def rest(self) -> Iterator[Block]:
        """The block that is being filled, as far as it is."""
        if not self._filled:
            return
        self._clear(min(-(-self._filled // ALIGNMENT) * ALIGNMENT, self._size - self._base))
        yield Block(self._base, self._buffer, self._filled)
        self._filled = 0
        self._buffer = self._buffers.take()

    def write(self, block: Block) -> None:
        """Write a block but for its zeros; its buffer is the writer's again, whatever becomes of it."""
        try:
            self._write(block.offset, block.buffer[: block.length])
        finally:
            self._buffers.give(block.buffer)

    def finish(self) -> None:
        """All is written; nothing is synchronised."""
        self._pass_over(self._size)

    def stop(self) -> None:
        """Let a thread go that waits for a block. From any thread."""
        self._buffers.close()

    def _write(self, offset: int, data: memoryview) -> None:
        if self._keep_first is not None and offset == 0:
            self._keep_first(bytes(data))
            self._next = len(data)
            return
        begin = None
        for at in range(0, len(data), ZERO_UNIT):
            is_zeros = ZEROS.startswith(data[at : at + ZERO_UNIT])
            if is_zeros and begin is not None:
                self._put(offset + begin, data[begin:at])
                begin = None
            elif not is_zeros and begin is None:
                begin = at
        if begin is not None:
            self._put(offset + begin, data[begin:])

    def _clear(self, end: int) -> None:
        """Make zeros of the block's bytes from what is filled up to `end`."""
        if end > self._filled:
            self._buffer[self._filled : end] = ZEROS[: end - self._filled]
            self._filled = end

    def _put(self, offset: int, data: memoryview) -> None:
        self._pass_over(offset)
        self._next = offset + len(data)
        self._set_direct(on=len(data) >= WORTH_WAITING and not len(data) % ALIGNMENT)
        try:
            write_all(self._descriptor, offset, data)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._is_direct:
                raise
            # This disk has other bounds.
            self._may_be_direct = False
            self._set_direct(on=False)
            write_all(self._descriptor, offset, data)

    def _set_direct(self, *, on: bool) -> None:
        """Turn direct writes on or off. Not every file system knows them."""
        on = on and self._may_be_direct
        if on == self._is_direct:
            return
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | (os.O_DIRECT if on else 0))
            self._is_direct = on
        except OSError:
            self._may_be_direct = False

    def _pass_over(self, end: int) -> None:
        if end > self._next:
            self._on_zeros(self._next, end)
            self._next = end


def write_all(descriptor: int, offset: int, data: memoryview | bytes) -> None:
    """Write all of `data` from `offset` on."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


class BlockTarget:
    """The part of a target that files and devices share. `open` makes the `writer`."""

    name: str
    _opened: BlockWriter | None = None

    @property
    def writer(self) -> BlockWriter:
        assert self._opened is not None  # noqa: S101 - for the type checker; `open` comes first
        return self._opened

    def gather(self, offset: int, data: memoryview) -> Iterator[Block]:
        return self.writer.gather(offset, data)

    def rest(self) -> Iterator[Block]:
        return self.writer.rest()

    def write(self, gathered: Block) -> None:
        with write_errors(self.name):
            self.writer.write(gathered)

    def stop(self) -> None:
        if self._opened is not None:
            self._opened.stop()
