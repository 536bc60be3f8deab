"""Records the blocks of a conversion in the journal (`stages.put.BlockLedger`), and counts them."""

from __future__ import annotations

from collections.abc import Sequence

from amistream.jobs.conversion_records import ConversionRecords
from amistream.stages.blocks import Earlier


class JournaledBlocks:
    """One job's blocks. `earlier` are those of the runs before this one."""

    def __init__(self, records: ConversionRecords, job_id: str, earlier: Earlier) -> None:
        self._records = records
        self._job_id = job_id
        self.earlier = earlier
        self._stored = set(earlier.stored)

    @property
    def count(self) -> int:
        """Number of the blocks that are stored."""
        return len(self._stored)

    async def intend(self, indices: Sequence[int]) -> None:
        self._stored.difference_update(indices)
        await self._records.intend(self._job_id, indices)

    async def stored(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        self._stored.update(index for index, _ in blocks)
        await self._records.stored(self._job_id, blocks)


async def load_blocks(records: ConversionRecords, job_id: str) -> JournaledBlocks:
    """The blocks as the journal has them. Raises `JournalError`."""
    stored, intended = await records.blocks(job_id)
    return JournaledBlocks(records, job_id, Earlier(stored=stored, intended=intended))
