"""Compress: deflate blocks independently of each other, on many threads.

Format: each block is a raw deflate stream (RFC 1951) that ends in a sync flush, so that `join` can append blocks to
each other, as pigz does.

`Deflate` distinguishes three kinds of block by their bytes alone: zeros are recognised at memory speed and compressed
once; data that does not get smaller is stored (RFC 1951, 3.2.4); all other blocks are deflated at the level that is
wanted at that moment.

Contract: blocks may be made on any thread, at the same time. A stored block's pieces are views of the input, and as
short-lived. The same bytes at the same level give the same output in any thread and process: a resumed pass relies on
it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from isal import isal_zlib
from zlib_ng import zlib_ng

from amistream.values import KIB, Buffer

_RAW = -15
_STORED_MAX = 65535
_FLUSH = b"\x00\x00\x00\xff\xff"
"""The empty stored block that a sync flush writes: parallel readers look for it."""

_INCOMPRESSIBLE = 0.97
_SAMPLE = 8 * KIB
_SAMPLES = 4

# The best ratio at each speed, measured: isal for levels 1 to 3, zlib-ng for 4 to 6, zlib for the rest.
_ISAL_BEST = 3
_ZLIB_NG_BEST = 6
_ISAL_BY_ADDRESS = 2
"""Up to this level the output of ISA-L (2.31, 2.32) may depend on its state's address in memory: before the third byte
of the first piece it reads the address as data (`.write_first_byte` in igzip_icf_body_h1_gr_bt.asm). A flushed piece of
4 to 16 bytes takes another path in it, so each block begins with one."""
_HEAD = 16
_ZEROS_LEVEL = 6


@dataclass(frozen=True, slots=True, eq=False)
class DeflatedBlock:
    """A block's raw deflate bytes, CRC-32 and size of its input, its number, and its level (0: none)."""

    data: Sequence[Buffer]
    crc32: int
    size_in: int
    number: int = 0
    level: int = 0

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.data)


def _compressor(level: int) -> Any:
    """A raw-deflate compressor of the fastest library that reaches the ratio of `level`."""
    if level <= _ISAL_BEST:
        return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW)
    if level <= _ZLIB_NG_BEST:
        return zlib_ng.compressobj(level, zlib_ng.DEFLATED, _RAW)
    return zlib.compressobj(level, zlib.DEFLATED, _RAW)


def deflate_block(level: int, buffers: Sequence[Buffer]) -> DeflatedBlock:
    """Deflate `buffers` together as one independent block."""
    deflate = _compressor(level)
    pieces = []
    rest: Sequence[Buffer] = buffers
    if level <= _ISAL_BY_ADDRESS:
        head, rest = cut_pieces(buffers, _HEAD)
        pieces = [deflate.compress(b"".join(head)), deflate.flush(zlib.Z_SYNC_FLUSH)]
    pieces += [deflate.compress(buffer) for buffer in rest]
    pieces.append(deflate.flush(zlib.Z_SYNC_FLUSH))
    crc = size = 0
    for buffer in buffers:
        crc = isal_zlib.crc32(buffer, crc)
        size += len(buffer)
    return DeflatedBlock(pieces, crc, size)


def store_block(buffers: Iterable[Buffer]) -> DeflatedBlock:
    """Encode as stored deflate blocks: 5 bytes of overhead per 65,535, plus the closing sync flush."""
    pieces: list[Buffer] = []
    crc = size = 0
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), _STORED_MAX):
            piece = view[start : start + _STORED_MAX]
            length = len(piece)
            pieces += (b"\0" + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little"), piece)
        crc = isal_zlib.crc32(view, crc)
        size += len(view)
    pieces.append(_FLUSH)
    return DeflatedBlock(pieces, crc, size)


class Deflate:
    """Turns a block into its deflated form; called from many threads at once."""

    def __init__(
        self,
        level: Callable[[], int],
        *,
        block_size: int,
        levels: Mapping[int, int] | None = None,
    ) -> None:
        """`level` returns the level for each block that is not in `levels`, by number; `block_size` is the largest
        block in bytes.
        """
        self._level = level
        self._levels = levels or {}
        self._zeros = _zeros(block_size)
        self._zero_blocks: dict[int, DeflatedBlock] = {}
        self.bytes_by_kind: Counter[str] = Counter()
        """Input bytes by the kind of their blocks: "zeros", "stored", "level 1" ... May be read at any time."""

    def __call__(self, number: int, buffers: Sequence[Buffer]) -> DeflatedBlock:
        block, kind = self._make(number, buffers)
        # An update can be lost between threads, which is harmless: these figures are only displayed.
        self.bytes_by_kind[kind] += block.size_in
        return block

    def _make(self, number: int, buffers: Sequence[Buffer]) -> tuple[DeflatedBlock, str]:
        if len(buffers) == 1 and self._zeros.startswith(buffers[0]):
            return replace(self._zero_block(len(buffers[0])), number=number), "zeros"
        if all(map(_is_noise, buffers)):
            return replace(store_block(buffers), number=number), "stored"
        level = self._levels.get(number) or self._level()
        return replace(deflate_block(level, buffers), number=number, level=level), f"level {level}"

    def _zero_block(self, size: int) -> DeflatedBlock:
        if size not in self._zero_blocks:
            self._zero_blocks[size] = deflate_block(_ZEROS_LEVEL, [self._zeros[:size]])
        return self._zero_blocks[size]


@cache
def _zeros(size: int) -> bytes:
    """Zeros to compare with, one for all jobs."""
    return bytes(size)


def _is_noise(buffer: Buffer) -> bool:
    """True if no sample of the buffer gets smaller. Mostly the first sample already does, which ends the search."""
    view = memoryview(buffer)
    if len(view) < _SAMPLES * _SAMPLE:
        return False
    places = (number * (len(view) - _SAMPLE) // (_SAMPLES - 1) for number in range(_SAMPLES))
    return all(len(deflate_block(1, [view[place : place + _SAMPLE]])) > _INCOMPRESSIBLE * _SAMPLE for place in places)


def cut_pieces(pieces: Sequence[Buffer], size: int) -> tuple[list[Buffer], list[Buffer]]:
    """The first `size` bytes of the pieces, and the rest."""
    before: list[Buffer] = []
    after: list[Buffer] = []
    for piece in pieces:
        view = memoryview(piece)
        taken = min(size, len(view))
        size -= taken
        before.append(view[:taken])
        after.append(view[taken:])
    return before, after
