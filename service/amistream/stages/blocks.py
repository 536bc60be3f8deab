"""Blocks: the digests of an image's blocks, and the choice of those that a snapshot needs.

A snapshot reads as zeros where no block was put, so blocks of zeros are left out. A snapshot that an earlier pass
filled in part needs the blocks that differ from it, and zeros where that pass put what the image does not hold now.
Its checksum is SHA-256 over the digests of all blocks that it holds, in ascending order (LINEAR).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from amistream.ports.snapshots import BLOCK, ZERO_DIGEST
from amistream.stages.earlier import Earlier

ZEROS = bytes(BLOCK)
PUT_AT_ONCE = 64
"""Blocks of zeros that are handed over together."""
_END = 1 << 32
"""Behind the index of any block."""
_NONE: tuple[int, bytes | None] = (_END, None)
"""Stands for the block behind the last one of earlier passes."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the image, padded with zeros behind its end. Its taker gives the buffer back."""

    index: int
    buffer: memoryview


@dataclass(frozen=True, slots=True)
class DigestedBlock:
    """A block with its SHA-256. `buffer` None: zeros."""

    index: int
    digest: bytes
    buffer: memoryview | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """Ascending blocks that are handed over together; their length is that of their bytes."""

    blocks: Sequence[Block]

    def __len__(self) -> int:
        return len(self.blocks) * BLOCK


@dataclass(frozen=True, slots=True)
class DigestedBlocks:
    """As `Blocks`."""

    blocks: Sequence[DigestedBlock]

    def __len__(self) -> int:
        return len(self.blocks) * BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotContent:
    """The blocks that a snapshot holds in the end. `kept`: those of earlier passes that were not put again."""

    blocks: int
    kept: int
    checksum: bytes


class Digest:
    """Finds zeros and computes SHA-256; may run on several threads at once. `give` takes the buffers of zeros back."""

    def __init__(self, give: Callable[[memoryview], None]) -> None:
        self._give = give

    def __call__(self, _: int, items: Sequence[Blocks]) -> DigestedBlocks:
        return DigestedBlocks([self._digest(block) for each in items for block in each.blocks])

    def _digest(self, block: Block) -> DigestedBlock:
        # Comparing by `==` would take sixty times as long (measured).
        if ZEROS.startswith(block.buffer):
            self._give(block.buffer)
            return DigestedBlock(block.index, ZERO_DIGEST)
        return DigestedBlock(block.index, hashlib.sha256(block.buffer).digest(), block.buffer)


class Choose:
    """Passes on the blocks that must be put. `give` takes the buffers of the others back."""

    def __init__(self, give: Callable[[memoryview], None], earlier: Earlier) -> None:
        self._give = give
        self._known = iter(earlier)
        self._next_known = next(self._known, _NONE)
        self._checksum = hashlib.sha256()
        self._blocks = 0
        self._kept = 0

    def feed(self, item: DigestedBlocks) -> Iterator[DigestedBlocks]:
        if chosen := [each for block in item.blocks for each in self._choose(block)]:
            yield DigestedBlocks(chosen)

    def finish(self) -> Iterator[DigestedBlocks]:
        """Pass on zeros for the blocks of earlier passes behind the last one of this."""
        chosen: list[DigestedBlock] = []
        for each in self._zeros_up_to(_END):
            chosen.append(each)
            if len(chosen) == PUT_AT_ONCE:
                yield DigestedBlocks(chosen)
                chosen = []
        if chosen:
            yield DigestedBlocks(chosen)

    def result(self) -> SnapshotContent:
        return SnapshotContent(blocks=self._blocks, kept=self._kept, checksum=self._checksum.digest())

    def _choose(self, block: DigestedBlock) -> Iterator[DigestedBlock]:
        yield from self._zeros_up_to(block.index)
        index, digest = self._next_known
        if index == block.index:
            self._next_known = next(self._known, _NONE)
            yield from self._need(block, digest)
        elif block.buffer is not None:
            yield from self._need(block, None)

    def _zeros_up_to(self, end: int) -> Iterator[DigestedBlock]:
        while self._next_known[0] < end:
            (index, digest), self._next_known = self._next_known, next(self._known, _NONE)
            yield from self._need(DigestedBlock(index, ZERO_DIGEST), digest)

    def _need(self, block: DigestedBlock, stored: bytes | None) -> Iterator[DigestedBlock]:
        """Count a block of the snapshot, and yield it unless it is there: `stored` is the digest of what is there."""
        self._blocks += 1
        self._checksum.update(block.digest)
        if stored == block.digest:
            self._kept += 1
            if block.buffer is not None:
                self._give(block.buffer)
        else:
            yield block
