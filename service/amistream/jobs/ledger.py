"""Records a job's parts in the journal: each is sealed before it is sent, then marked as stored."""

from __future__ import annotations

from collections.abc import Iterable

from amistream.errors import JobError
from amistream.jobs.journal import Journal
from amistream.jobs.records import SealedPart
from amistream.values import ChangedError, PartDigest, PartMark


class PartLedger:
    """One job's account of its parts, kept in the journal (`stages.upload.Ledger`)."""

    def __init__(self, journal: Journal, job_id: str, parts: Iterable[SealedPart] = ()) -> None:
        """`parts` is what the journal holds, with `stored` proved."""
        self._journal = journal
        self._job_id = job_id
        self._parts = {part.digest.index: part for part in parts}

    @property
    def parts(self) -> list[SealedPart]:
        """Every part that was sealed, in order."""
        return [self._parts[number] for number in sorted(self._parts)]

    async def seal(self, part: PartDigest, mark: PartMark, checksum: str) -> bool:
        known = self._parts.get(part.index)
        if known is not None:
            if known.digest != part:
                raise ChangedError(f"part {part.index} is not what was sent before")
            if not known.stored and known.checksum != checksum:
                # How it goes up, and so its checksum, is another than in an earlier run; the bytes are the same.
                # Another destination may have it as it went up before.
                earlier = tuple(each for each in (*known.earlier, known.checksum) if each != checksum)
                again = known.model_copy(update={"checksum": checksum, "earlier": earlier})
                self._parts[part.index] = again
                await self._journal.seal_again(self._job_id, again)
            return known.stored
        sealed = self._parts[part.index] = SealedPart(digest=part, mark=mark, checksum=checksum)
        try:
            await self._journal.seal(self._job_id, sealed)
        except JobError:
            del self._parts[part.index]
            raise
        return False

    async def stored(self, part: PartDigest) -> None:
        self._parts[part.index] = self._parts[part.index].model_copy(update={"stored": True})
        await self._journal.stored(self._job_id, part.index)
