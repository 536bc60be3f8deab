"""Records a job's parts in the journal: each is sealed before it is sent, then marked as stored.

Asks no destination: whoever takes up an earlier run's parts has them proved first (`proof`).
"""

from __future__ import annotations

from collections.abc import Iterable

from amistream.errors import JobError
from amistream.jobs.journal import Journal
from amistream.jobs.records import SealedPart
from amistream.values import ChangedError, PartDigest, PartMark


class PartLedger:
    """One job's parts (`stages.upload.Ledger`): memory and journal agree after each call that returns."""

    def __init__(self, journal: Journal, job_id: str, parts: Iterable[SealedPart] = ()) -> None:
        """`parts` are the journal's, `stored` as far as that is known."""
        self._journal = journal
        self._job_id = job_id
        self._parts = {part.digest.index: part for part in parts}

    @property
    def parts(self) -> list[SealedPart]:
        """Every part that was sealed, in order."""
        return [self._parts[number] for number in sorted(self._parts)]

    async def seal(self, part: PartDigest, mark: PartMark, checksum: str) -> bool:
        """Record a part that is about to be sent; true when it is stored already. Raises `ChangedError`."""
        known = self._parts.get(part.index)
        if known is None:
            self._parts[part.index] = sealed = SealedPart(digest=part, mark=mark, checksum=checksum)
            try:
                await self._journal.seal(self._job_id, sealed)
            except JobError:
                del self._parts[part.index]
                raise
            return False
        if known.digest != part:
            raise ChangedError(f"part {part.index} differs from the one that was sent before")
        if not known.stored and known.checksum != checksum:
            # The same bytes go up in another way than in an earlier run, which may have reached another destination.
            earlier = tuple(each for each in (*known.earlier, known.checksum) if each != checksum)
            again = known.model_copy(update={"checksum": checksum, "earlier": earlier})
            self._parts[part.index] = again
            await self._journal.seal_again(self._job_id, again)
        return known.stored

    async def stored(self, part: PartDigest) -> None:
        """Record that every destination has the part."""
        self._parts[part.index] = self._parts[part.index].model_copy(update={"stored": True})
        await self._journal.stored(self._job_id, part.index)
