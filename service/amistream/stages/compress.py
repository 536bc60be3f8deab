"""Compress: deflate blocks independently on many threads, and join them in order into ONE gzip member.

Format: RFC 1952 with no optional field (readers of the bundle refuse FEXTRA and a second member). Each block is a
raw deflate stream (RFC 1951) ended by a sync flush, so that blocks can be put one behind the other, as pigz does;
an empty final block closes the stream. The trailer's CRC-32 is combined from the blocks' own.

Contract: `deflate_block` is a pure function and may run on any thread; `GzipMember` takes its results in the
volume's order.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from isal import isal_zlib
from zlib_ng import zlib_ng

from amistream.values import Buffer, GzipResult

_RAW = -15
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK = b"\x03\x00"

# The measured front of ratio against speed: isal for 1 to 3, zlib-ng for 4 to 6, zlib for the rest.
_ISAL_BEST = 3
_ZLIB_NG_BEST = 6
_NAMED_LEVELS = {"fast": 1, "balanced": 4, "small": 6}


@dataclass(frozen=True, slots=True, eq=False)
class DeflatedBlock:
    """One block's raw deflate bytes, and CRC-32 and size of what they inflate to."""

    data: Sequence[bytes]
    crc32: int
    size_in: int

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.data)


def level_number(name: str) -> int:
    """The level 1 to 9 that `fast`, `balanced`, `small` or a digit stands for. Raises ValueError on anything else."""
    level = _NAMED_LEVELS.get(name) or int(name)
    if not 1 <= level <= zlib.Z_BEST_COMPRESSION:
        raise ValueError("compression levels go from 1 to 9")
    return level


def compressor(level: int) -> Callable[[], Any]:
    """A maker of raw-deflate compressors: the quickest library that reaches the ratio of `level`."""
    if level <= _ISAL_BEST:
        return partial(isal_zlib.compressobj, level, isal_zlib.DEFLATED, _RAW)
    if level <= _ZLIB_NG_BEST:
        return partial(zlib_ng.compressobj, level, zlib_ng.DEFLATED, _RAW)
    return partial(zlib.compressobj, level, zlib.DEFLATED, _RAW)


def deflate_block(make: Callable[[], Any], buffers: Iterable[Buffer]) -> DeflatedBlock:
    """Deflate `buffers`, taken together, as one independent block."""
    deflate = make()
    pieces = []
    crc = size = 0
    for buffer in buffers:
        pieces.append(deflate.compress(buffer))
        crc = isal_zlib.crc32(buffer, crc)
        size += len(buffer)
    pieces.append(deflate.flush(zlib.Z_SYNC_FLUSH))
    return DeflatedBlock(pieces, crc, size)


class GzipMember:
    """Transform: deflated blocks in, one gzip member out."""

    def __init__(self) -> None:
        self._crc = 0
        self._size_in = 0
        self._size_out = 0

    def feed(self, block: DeflatedBlock) -> Iterator[Buffer]:
        if not self._size_out:
            yield self._count(_HEADER)
        self._crc = isal_zlib.crc32_combine(self._crc, block.crc32, block.size_in)
        self._size_in += block.size_in
        for piece in block.data:
            if piece:
                yield self._count(piece)

    def finish(self) -> Iterator[Buffer]:
        """Yield the final block and the trailer; the size in it is modulo 2**32, as RFC 1952 says."""
        if not self._size_out:
            yield self._count(_HEADER)
        trailer = self._crc.to_bytes(4, "little") + (self._size_in % 2**32).to_bytes(4, "little")
        yield self._count(_FINAL_BLOCK + trailer)

    def result(self) -> GzipResult:
        return GzipResult(crc32=self._crc, size_in=self._size_in, size_out=self._size_out)

    def _count(self, data: bytes) -> bytes:
        self._size_out += len(data)
        return data
