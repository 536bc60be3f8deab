"""Compress: deflate blocks independently on many threads, and join them in order into ONE gzip member.

Format: RFC 1952 with no optional field (readers of the bundle refuse FEXTRA and a second member). Each block is a
raw deflate stream (RFC 1951) ended by a sync flush, so that blocks can be put one behind the other, as pigz does;
an empty final block closes the stream. The trailer's CRC-32 is combined from the blocks' own.

Three kinds of block are told apart (`Deflate`): zeros, which are recognised at memory speed and compressed once; data
that does not get smaller, which is stored (RFC 1951, 3.2.4); and all the rest, which is deflated at the level that is
wanted at that moment. What kind a block is depends on its bytes alone.

Contract: blocks may be made on any thread, at the same time; `GzipMember` takes them in the volume's order. A stored
block's pieces are views of what came in, and as short-lived. The same bytes at the same level come out the same, in
any thread and process: a pass that goes on relies on it.

A pass that goes on where an earlier one stopped begins with the block in which that one's last part ends
(`GzipPlace`), compresses each at the level it had then, and leaves out what the earlier parts hold.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isal import isal_zlib
from zlib_ng import zlib_ng

from amistream.values import KIB, Buffer

_RAW = -15
_STORED_MAX = 65535
_FLUSH = b"\x00\x00\x00\xff\xff"
"""The empty stored block that a sync flush writes: readers that share the inflating out look for it."""

_INCOMPRESSIBLE = 0.97
_SAMPLE = 8 * KIB
_SAMPLES = 4

# The measured front of ratio against speed: isal for 1 to 3, zlib-ng for 4 to 6, zlib for the rest.
_ISAL_BEST = 3
_ZLIB_NG_BEST = 6
_ISAL_BY_ADDRESS = 2
"""Up to this level what ISA-L (2.31, 2.32) makes of a block may depend on where its state lies in memory: before the
third byte of the first piece that it is given it takes the state's address for data (`.write_first_byte` in
igzip_icf_body_h1_gr_bt.asm). A piece of 4 to 16 bytes that is flushed goes another way."""
_HEAD = 16
_NAMED_LEVELS = {"fast": 1, "balanced": 4, "small": 6}


@dataclass(frozen=True, slots=True, eq=False)
class DeflatedBlock:
    """One block's raw deflate bytes, CRC-32 and size of what they inflate to, its number and its level (0: none)."""

    data: Sequence[Buffer]
    crc32: int
    size_in: int
    number: int = 0
    level: int = 0

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.data)


def level_number(name: str) -> int | None:
    """The level 1 to 9 that `fast`, `balanced`, `small` or a digit stands for; None for `auto`. Else ValueError."""
    if name == "auto":
        return None
    level = _NAMED_LEVELS.get(name) or int(name)
    if not 1 <= level <= zlib.Z_BEST_COMPRESSION:
        raise ValueError("compression levels go from 1 to 9")
    return level


def _compressor(level: int) -> Any:
    """A raw-deflate compressor of the quickest library that reaches the ratio of `level`."""
    if level <= _ISAL_BEST:
        return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW)
    if level <= _ZLIB_NG_BEST:
        return zlib_ng.compressobj(level, zlib_ng.DEFLATED, _RAW)
    return zlib.compressobj(level, zlib.DEFLATED, _RAW)


def deflate_block(level: int, buffers: Sequence[Buffer]) -> DeflatedBlock:
    """Deflate `buffers`, taken together, as one independent block."""
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
    """The same as a block that is not compressed: 5 bytes more for each 65,535, and for the end that others have."""
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
    """Makes deflated blocks, each in the way that suits it; called from many threads at once."""

    def __init__(
        self,
        level: Callable[[], int],
        *,
        block_size: int,
        levels: Mapping[int, int] | None = None,
    ) -> None:
        """`level` is asked before each block that `levels` (by number) does not hold; `block_size` is the largest
        block that comes, in bytes.
        """
        self._level = level
        self._levels = levels or {}
        self._zeros = bytes(block_size)
        self._zero_blocks: dict[int, DeflatedBlock] = {}
        self.bytes_by_kind: Counter[str] = Counter()
        """Bytes that came in, by what was made of them: "zeros", "stored", "level 1" ... Read it at any time."""

    def __call__(self, number: int, buffers: Sequence[Buffer]) -> DeflatedBlock:
        block, kind = self._make(number, buffers)
        # Under the interpreter's lock a lost update is possible and harmless: these figures are for people.
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
            self._zero_blocks[size] = deflate_block(_NAMED_LEVELS["small"], [self._zeros[:size]])
        return self._zero_blocks[size]


def _is_noise(buffer: Buffer) -> bool:
    """Whether samples from all over the buffer do not get smaller; mostly the first sample tells that they do."""
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
