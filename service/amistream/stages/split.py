"""Split: cut the ciphertext every `part_size` bytes and take each part's SHA-1.

Format: the concatenated parts are the ciphertext; the last part may be shorter and is never empty.

Contract: part buffers are borrowed through `take_buffer` and leave inside the `Part`; the receiver of the part gives
its buffer back when it is stored. `feed` copies, so its input may be reused at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from amistream.values import NO_MARK, Buffer, PartDigest, PartMark, SplitResult

LAST_CIPHER_BLOCK = 16


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A full part: its digest, its bytes (a view of `buffer`), the buffer to give back, and the stream's state."""

    digest: PartDigest
    data: memoryview
    buffer: memoryview
    mark: PartMark = NO_MARK

    def __len__(self) -> int:
        return len(self.data)


class Split:
    """Transform: ciphertext in, parts out."""

    def __init__(
        self,
        *,
        part_size: int,
        take_buffer: Callable[[], memoryview],
        parts_before: Sequence[PartDigest] = (),
        mark: Callable[[int, bytes], PartMark] | None = None,
    ) -> None:
        """`take_buffer` returns a writable buffer of at least `part_size` bytes; it may block until one is free.

        `parts_before` were cut by an earlier pass; the first byte fed comes after them. `mark` is called when a part is
        cut, with the ciphertext's size so far and its last 16 bytes, and returns the stream's state.
        """
        self._mark = mark
        self._part_size = part_size
        self._take_buffer = take_buffer
        self._buffer: memoryview | None = None
        self._fill = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._parts: list[PartDigest] = list(parts_before)
        self._size = sum(part.size for part in self._parts)

    def feed(self, data: Buffer) -> Iterator[Part]:
        view = memoryview(data)
        while view:
            if self._buffer is None:
                self._buffer = self._take_buffer()
            taken = view[: self._part_size - self._fill]
            self._buffer[self._fill : self._fill + len(taken)] = taken
            self._sha1.update(taken)
            self._fill += len(taken)
            view = view[len(taken) :]
            if self._fill == self._part_size:
                yield self._cut(self._buffer)

    def finish(self) -> Iterator[Part]:
        if self._buffer is not None:
            yield self._cut(self._buffer)

    def result(self) -> SplitResult:
        return SplitResult(parts=tuple(self._parts), bundled_size=self._size)

    def _cut(self, buffer: memoryview) -> Part:
        digest = PartDigest(index=len(self._parts), size=self._fill, sha1=self._sha1.digest())
        data = buffer[: self._fill]
        self._size += self._fill
        mark = self._mark(self._size, bytes(data[-LAST_CIPHER_BLOCK:])) if self._mark else NO_MARK
        part = Part(digest, data, buffer, mark)
        self._parts.append(digest)
        self._buffer = None
        self._fill = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        return part
