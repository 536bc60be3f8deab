"""Cut: find where a gzip stream can be taken up in its middle, so that every core inflates a run of it.

Format: RFC 1951, section 3.2.4. A compressor that was asked to flush writes an empty stored block: `00 00 FF FF` on a
byte's bound, and a new block begins behind it. amistream ends every block of the volume so, and some have one more
behind their first 16 bytes, to which the rest may refer; pigz writes them too, the older tools never do. The same bytes
may stand elsewhere by chance, above all in what was stored: whoever inflates a run must prove that it began and ended
well. One such place is told by what follows: between stored blocks of 65535 bytes, if the first ends in a zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from amistream.values import KIB, MIB, Buffer

MARKER = b"\0\0\xff\xff"
MOST = 4 * MIB
"""Bytes of a run at most: it ends without a marker then."""
_MARKER = re.compile(re.escape(MARKER))
_NOT_BEFORE = b"\0\0"
"""What follows where two stored blocks of 65535 bytes meet."""
_LEAST_SKIP, _MOST_SKIP = 2 * KIB, MIB
HEAD = 32
"""A marker that comes so soon after another is that of a block's first bytes. They become 24 at most."""

Run = tuple[memoryview, ...]
"""Bytes that follow each other in the stream, in several pieces."""


class Cut:
    """Transform: a gzip stream in, the same in runs out. A run is made of views of what was fed."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._length = 0
        self._tail = b""
        """The last 3 bytes: a marker may have begun there."""
        self._skip = _LEAST_SKIP
        """Markers in the first so many bytes of a run are passed over: looking for them costs a tenth of inflating."""

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
        """Bytes of `view` up to the end of the next marker, or 0."""
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
        # The next block is mostly about as long; what is passed over is inflated with it.
        self._skip = max(_LEAST_SKIP, min(self._length * 3 // 4, _MOST_SKIP))
        self._length = 0
        self._tail = b""
        return run
