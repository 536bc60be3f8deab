"""Join: append deflated blocks in order into ONE gzip member.

Format: RFC 1952 with no optional field (readers of the bundle refuse FEXTRA and a second member); an empty final block
closes the deflate stream, and the trailer's CRC-32 is combined from those of the blocks.

A resumed pass begins with the block in which the last stored part ends (`GzipPlace`) and yields only the bytes after
that place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from isal import isal_zlib

from amistream.stages.compress import DeflatedBlock, cut_pieces
from amistream.values import Buffer, ChangedError, GzipPlace, GzipResult

_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK = b"\x03\x00"


class GzipMember:
    """Transform: deflated blocks in, one gzip member out."""

    def __init__(self, place: GzipPlace | None = None) -> None:
        """`place`: the first block is the one that contains it, and only the bytes after it are yielded."""
        self._resumed_at = place
        self._done = place.before if place else GzipResult(crc32=0, size_in=0, size_out=0)
        self._block: DeflatedBlock | None = None
        self._before = self._done
        self._levels: dict[int, int] = {}

    def feed(self, block: DeflatedBlock) -> Iterator[Buffer]:
        """Raises `ChangedError` when the block that contains the place begins with other bytes than before."""
        place = self._resumed_at
        self._block, self._before = block, self._done
        self._levels[block.number] = block.level
        pieces = _member_pieces(block, self._before)
        self._done = GzipResult(
            crc32=isal_zlib.crc32_combine(self._done.crc32, block.crc32, block.size_in),
            size_in=self._done.size_in + block.size_in,
            size_out=self._done.size_out + sum(map(len, pieces)),
        )
        if place is not None and block.number == place.block:
            before, pieces = cut_pieces(pieces, place.inside)
            if _sha1(before) != place.inside_sha1:
                raise ChangedError(f"block {block.number} is not deflated as it was")
        for piece in pieces:
            if piece:
                yield piece

    def finish(self) -> Iterator[Buffer]:
        """Yield the final block and the trailer, whose size field is modulo 2**32 (RFC 1952)."""
        self._block = None
        done = self._done
        header = b"" if done.size_out else _HEADER
        trailer = done.crc32.to_bytes(4, "little") + (done.size_in % 2**32).to_bytes(4, "little")
        end = header + _FINAL_BLOCK + trailer
        self._done = replace(done, size_out=done.size_out + len(end))
        yield end

    def place(self, offset: int) -> GzipPlace | None:
        """The place of byte `offset` of the member, while its block is being fed; None in the member's trailer."""
        if self._block is None:
            return None
        inside = offset - self._before.size_out
        before, _ = cut_pieces(_member_pieces(self._block, self._before), inside)
        return GzipPlace(block=self._block.number, before=self._before, inside=inside, inside_sha1=_sha1(before))

    def take_levels(self) -> dict[int, int]:
        """The levels, by block number, of the blocks fed since the last call, and of the block before them."""
        levels = dict(self._levels)
        self._levels = dict(list(levels.items())[-1:])
        return levels

    def result(self) -> GzipResult:
        return self._done


def _member_pieces(block: DeflatedBlock, before: GzipResult) -> list[Buffer]:
    """The bytes that the block adds to the member: the first block also adds the header."""
    return [*block.data] if before.size_out else [_HEADER, *block.data]


def _sha1(pieces: Iterable[Buffer]) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
