"""Inflate runs of a gzip stream on every core, and join the output.

`inflate_apart` inflates a run as if the stream began there, on any thread. `InflateRuns` takes the runs in order: the
result of `inflate_apart` counts if the run before ended at a block boundary, and this one does not refer to earlier
data. Otherwise the run is inflated again after the earlier data. If several runs in a row need that, or the stream has
no markers, the rest is inflated in one go. So the output never depends on a guess, and the CRC-32 is checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isal import isal_zlib

from amistream.stages.back.cut import MARKER, Run
from amistream.stages.back.inflate import DAMAGED, SLICE, Inflate, inflated, new_body
from amistream.values import KIB, MIB

MOST_APART = 8 * MIB
"""Maximum output of a run that is inflated apart: all of it waits in memory for its turn."""
_FINAL_BLOCK = b"\1\0\0\xff\xff"
"""An empty stored block marked as the last: ends a decompressor that is at a block boundary."""
_BLOCK_TYPE = 6
"""Bits of a block's first byte that are 0 for a stored block; after those, other writers may omit the marker."""
_WINDOW = 32 * KIB
_FEW = 4
"""Runs in a row that could not be inflated apart, after which the rest is inflated in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """The output of a run. `after`: the bytes after the end of the deflated data; None if it continues."""

    made: tuple[bytes, ...]
    crc32: int
    size: int
    after: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedRun:
    """A run, and its output if inflating it apart was tried and succeeded."""

    run: Run
    tried: bool = False
    apart: Apart | None = None

    def __len__(self) -> int:
        return sum(map(len, self.run))


def inflate_apart(run: Run) -> Apart | None:
    """Inflate a run without earlier data. None if it refers to earlier data, is invalid, or its output is too large."""
    body = new_body()
    pieces: list[bytes] = []
    size = crc = 0
    after = bytearray()
    try:
        for piece in _sliced(run):
            if body.eof:
                after += piece
                continue
            for made in inflated(body, piece):
                pieces.append(made)
                size += len(made)
                crc = isal_zlib.crc32(made, crc)
                if size > MOST_APART:
                    return None
            after += body.unused_data
    except DAMAGED:
        return None
    ended = body.eof
    if not ended and not (_ends_in_marker(run) and _is_on_bound(body)):
        return None
    return Apart(made=tuple(pieces), crc32=crc, size=size, after=bytes(after) if ended else None)


class InflateRuns(Inflate):
    """Transform: tried runs in, the inflated data out."""

    def __init__(self) -> None:
        super().__init__()
        self._in_one_go = False
        self._on_bound = True
        """A block ended right before the next run; otherwise `_body` is inside a block."""
        self._window = b""
        self._in_vain = 0
        """Runs in a row that were cut at a boundary and still had to be inflated here."""

    @property
    def worthwhile(self) -> bool:
        """True while inflating runs apart is of use."""
        return not self._in_one_go

    def feed(self, item: TriedRun) -> Iterator[bytes]:  # type: ignore[override]  # runs instead of plain bytes
        run = tuple(view for piece in item.run if (view := self._without_header(piece)))
        if self._in_one_go or self._ended:
            yield from self._inflate_here(run)
            return
        if item.apart is not None and self._on_bound:
            self._in_vain = 0
            yield from self._take_apart(item.apart)
            return
        whole = self._on_bound
        if whole:
            self._in_one_go = self._in_vain == _FEW or (_is_compressed(run) and not _ends_in_marker(run))
            # Only zlib's decompressor can be copied, which `_is_on_bound` needs.
            self._body = new_body(self._window) if self._in_one_go else _new_zlib_body(self._window)
        yield from self._inflate_here(run)
        self._on_bound = not self._in_one_go and _ends_in_marker(run) and _is_on_bound(self._body.copy())
        self._in_vain += whole and self._on_bound and item.tried

    def _take_apart(self, apart: Apart) -> Iterator[bytes]:
        self._crc = isal_zlib.crc32_combine(self._crc, apart.crc32, apart.size)
        self._size_out += apart.size
        for made in apart.made:
            self._keep(made)
            yield made
        if apart.after is not None:
            self._end(apart.after)

    def _inflate_here(self, run: Run) -> Iterator[bytes]:
        for piece in _sliced(run):
            for made in self._inflate(piece):
                self._keep(made)
                yield made

    def _keep(self, made: bytes) -> None:
        self._window = made[-_WINDOW:] if len(made) >= _WINDOW else (self._window + made)[-_WINDOW:]


def _sliced(run: Run) -> Iterator[memoryview]:
    for piece in run:
        for start in range(0, len(piece), SLICE):
            yield piece[start : start + SLICE]


def _is_compressed(run: Run) -> bool:
    """Check that the first block of a run, which begins at a boundary, is not a stored one."""
    return bool(run) and bool(run[0][0] & _BLOCK_TYPE)


def _ends_in_marker(run: Run) -> bool:
    tail = b"".join(bytes(piece[-len(MARKER) :]) for piece in run[-len(MARKER) :])
    return tail.endswith(MARKER)


def _is_on_bound(body: Any) -> bool:
    """Check that a block has just ended, at a byte boundary. Do not use the decompressor afterwards."""
    try:
        made = b"".join(inflated(body, memoryview(_FINAL_BLOCK)))
    except DAMAGED:
        return False
    return bool(not made and body.eof and not body.unused_data)


def _new_zlib_body(window: bytes) -> Any:
    return zlib.decompressobj(-zlib.MAX_WBITS, zdict=window) if window else zlib.decompressobj(-zlib.MAX_WBITS)
