"""Cut: split a gzip stream into runs that can be inflated separately, one on each core.

Format: RFC 1951, section 3.2.4. A flush of the compressor writes an empty stored block, `00 00 FF FF` on a byte
boundary, and a new block begins behind it. amistream ends every block of the volume with a flush; pigz writes flushes
too, the older tools never do. Some blocks have a second flush after their first 16 bytes. Data after it may refer back
to those bytes, so it cannot be inflated alone. The marker's bytes may occur elsewhere by chance, above all in stored
blocks, so each inflated run must be checked to begin and end at a block. One false marker is recognised here: two
stored blocks of 65535 bytes meet, and the first ends in a zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from amistream.values import KIB, MIB, Buffer

MARKER = b"\0\0\xff\xff"
MOST = 4 * MIB
"""Maximum bytes of a run; a run of this size ends without a marker."""
_MARKER = re.compile(re.escape(MARKER))
_NOT_BEFORE = b"\0\0"
"""Bytes after a false marker, where two stored blocks of 65535 bytes meet."""
_LEAST_SKIP, _MOST_SKIP = 2 * KIB, MIB
HEAD = 32
"""A marker this close to the last is the flush after a block's first 16 bytes (at most 24 compressed), no boundary."""

Run = tuple[memoryview, ...]
"""Consecutive bytes of the stream, in several pieces."""


class Cut:
    """Transform: a gzip stream in, its runs out. A run consists of views of the input."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._length = 0
        self._tail = b""
        """The last 3 bytes, in which a marker may have begun."""
        self._skip = _LEAST_SKIP
        """First bytes of a run in which markers are not searched: the search costs a tenth of inflating."""

    def feed(self, data: Buffer) -> Iterator[Run]:
        view = memoryview(data)
        while view and (end := self._find(view)):
            self._hold(view[:end])
            view = view[end:]
            yield self._run()
        self._hold(view)
        if self._length >= MOST:
            yield self._run()

    def finish(self) -> Iterator[Run]:
        if self._length:
            yield self._run()

    def _find(self, view: memoryview) -> int:
        """Find the end of the next marker in `view`; 0 if there is none."""
        start = max(0, self._skip - self._length)
        if not start:
            across = _MARKER.search(self._tail + bytes(view[: len(MARKER) - 1]))
            if across:
                return across.end() - len(self._tail)
        for found in _MARKER.finditer(view, start):
            before = bytes(view[max(0, found.start() - HEAD) : found.start()])
            if view[found.end() : found.end() + len(_NOT_BEFORE)] != _NOT_BEFORE and MARKER not in before:
                return found.end()
        return 0

    def _hold(self, view: memoryview) -> None:
        if view:
            self._pieces.append(view)
            self._length += len(view)
            self._tail = (self._tail + bytes(view[1 - len(MARKER) :]))[1 - len(MARKER) :]

    def _run(self) -> Run:
        run = tuple(self._pieces)
        self._pieces.clear()
        # The next block mostly has a similar length; a marker that is skipped only makes the run longer.
        self._skip = max(_LEAST_SKIP, min(self._length * 3 // 4, _MOST_SKIP))
        self._length = 0
        self._tail = b""
        return run
