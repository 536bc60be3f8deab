"""Records the blocks of a conversion in the journal (`stages.put.BlockLedger`), and counts them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from amistream.jobs.conversion_records import ConversionRecords
from amistream.stages.earlier import Earlier


class JournaledBlocks:
    """One job's blocks. `earlier` are those of the runs before this one, and `stored` the indices of those stored."""

    def __init__(
        self, records: ConversionRecords, job_id: str, earlier: Earlier, stored: IndexSet | None = None
    ) -> None:
        self._records = records
        self._job_id = job_id
        self.earlier = earlier
        self._stored = stored or IndexSet()

    @property
    def count(self) -> int:
        """Number of the blocks that are stored."""
        return self._stored.count

    async def intend(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._stored.discard(index)
        await self._records.intend(self._job_id, indices)

    async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        for index, _ in blocks:
            self._stored.add(index)
        await self._records.stored(self._job_id, blocks)


class IndexSet:
    """Indices of blocks, a bit for each up to the largest: 4 MiB for 16 TiB, for which a set takes 2 GiB."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, index: int) -> None:
        place, bit = divmod(index, 8)
        if place >= len(self._bits):
            self._bits += bytes(place + 1 - len(self._bits))
        if not self._bits[place] >> bit & 1:
            self._bits[place] |= 1 << bit
            self.count += 1

    def discard(self, index: int) -> None:
        place, bit = divmod(index, 8)
        if place < len(self._bits) and self._bits[place] >> bit & 1:
            self._bits[place] &= ~(1 << bit)
            self.count -= 1


async def load_blocks(records: ConversionRecords, job_id: str) -> JournaledBlocks:
    """The blocks as the journal has them. Raises `JournalError`."""
    earlier = await records.blocks(job_id)
    return JournaledBlocks(records, job_id, earlier, await asyncio.to_thread(_stored_of, earlier))


def _stored_of(earlier: Earlier) -> IndexSet:
    found = IndexSet()
    for index, digest in earlier:
        if digest is not None:
            found.add(index)
    return found
