"""Inflate runs of a gzip stream on every core, and join what comes out.

`inflate_apart` inflates a run as if the stream began there, on any thread. `InflateRuns` takes the runs in order and
judges: what was made apart counts if the run before is known to have ended on the bound of a block, and this one
referred to nothing before it. Else the run is inflated once more, with what came before at hand. A stream of which a
few runs in a row need that, or that has no markers, is inflated in one go from there on. So what comes out never
depends on a guess, and the CRC-32 is checked.
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
"""Bytes that a run may become when it is inflated apart: all of them wait for their turn in memory."""
_FINAL_BLOCK = b"\1\0\0\xff\xff"
"""An empty stored block that says it is the last: a decompressor on the bound of a block ends with it."""
_BLOCK_TYPE = 6
"""The bits of a block's first byte that are 0 if it is only stored: others may write none behind such blocks."""
_WINDOW = 32 * KIB
_FEW = 4
"""Runs in a row that could not be inflated apart, after which it is not tried any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """What a run became. `after` is what follows the deflated data, None where that goes on."""

    made: tuple[bytes, ...]
    crc32: int
    size: int
    after: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedRun:
    """A run, whether it was tried apart, and what it became so, if it did."""

    run: Run
    tried: bool = False
    apart: Apart | None = None

    def __len__(self) -> int:
        return sum(map(len, self.run))


def inflate_apart(run: Run) -> Apart | None:
    """Inflate a run without what came before. None when it needs that, is none, or becomes too much."""
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
    """Transform: runs that were tried in, what was compressed out."""

    def __init__(self) -> None:
        super().__init__()
        self._in_one_go = False
        self._on_bound = True
        """Whether a block ended right before the next run; else `_body` is in the middle of one."""
        self._window = b""
        self._in_vain = 0
        """Runs in a row that were well cut and had to be inflated here."""

    @property
    def worthwhile(self) -> bool:
        """Whether it makes sense to inflate runs apart."""
        return not self._in_one_go

    def feed(self, item: TriedRun) -> Iterator[bytes]:  # type: ignore[override] # runs take the place of plain bytes
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
            # Only zlib's decompressor can be copied, to be asked where it stands.
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
    """Whether the run, which begins on a block's bound, begins with a block that is more than stored."""
    return bool(run) and bool(run[0][0] & _BLOCK_TYPE)


def _ends_in_marker(run: Run) -> bool:
    tail = b"".join(bytes(piece[-len(MARKER) :]) for piece in run[-len(MARKER) :])
    return tail.endswith(MARKER)


def _is_on_bound(body: Any) -> bool:
    """Whether a block has just ended, on a byte's bound. The decompressor is of no use afterwards."""
    try:
        made = b"".join(inflated(body, memoryview(_FINAL_BLOCK)))
    except DAMAGED:
        return False
    return bool(not made and body.eof and not body.unused_data)


def _new_zlib_body(window: bytes) -> Any:
    return zlib.decompressobj(-zlib.MAX_WBITS, zdict=window) if window else zlib.decompressobj(-zlib.MAX_WBITS)
