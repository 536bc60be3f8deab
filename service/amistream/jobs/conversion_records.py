"""The journal's records of a conversion: what was settled, its snapshot and AMI, and every block before it is sent.

Blocks come in runs of many, a row each. A run of stored blocks holds index and SHA-256 of each, a run of intents the
indices alone: 36 bytes for a stored block, 4.5 MiB for 64 GiB. All is deleted at the end of the job.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from amistream.events import ConversionResult
from amistream.jobs.journal_file import JournalFile
from amistream.jobs.records import STORED_BLOCK, NextStep
from amistream.plan import Recorded
from amistream.ports.registry import Registration
from amistream.ports.snapshots import SnapshotOrder
from amistream.stages.earlier import Earlier

_INDEX = struct.Struct("<I")


class Converting(Recorded):
    """The facts that were settled when a conversion began, and hold for every later pass to the same snapshot."""

    attempt: int
    """Counts the snapshots of the job from 1: another one is begun when this one is lost."""
    order: SnapshotOrder
    image_size: int
    region: str
    endpoint_url: str
    """Endpoint of EBS and EC2, '' for AWS."""
    registration: Registration | None
    """Its `snapshot_id` is '' here: it is not known before the start."""


@dataclass(slots=True, kw_only=True)
class ConversionRecord:
    """A conversion as the journal has it, from the moment before its snapshot is started."""

    converting: Converting
    snapshot: str | None
    """The id of the snapshot; '' when none was started; None while that is unknown."""
    started_at: float = 0.0
    """When it was started, as `time.time`."""
    image: str | None = ""
    """The id of the job's AMI; '' when none was registered; None while that is unknown."""
    result: ConversionResult | None = None
    """The content of the snapshot, once every block is stored. It may have been completed since."""

    def know_started(self, snapshot: str) -> None:
        """Take the id of the snapshot, which was started, or found, just now."""
        self.snapshot, self.started_at = snapshot, time.time()

    def know_content(self, result: ConversionResult) -> None:
        self.result = result


class ConversionRecords:
    """Every method raises `JournalError` when the disk does not let it."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def begin(self, job_id: str, converting: Converting) -> None:
        """Enter that a snapshot is about to be started: from now on it may exist."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM blocks WHERE job = ?", (job_id,))
                db.execute(
                    "INSERT OR REPLACE INTO conversions (job, settled, image) VALUES (?, ?, '')",
                    (job_id, converting.model_dump_json()),
                )
                db.execute("UPDATE jobs SET fate = ? WHERE id = ?", (NextStep.KEPT, job_id))

        await self._file.do(work)

    async def started(self, job_id: str, snapshot: str, at: float) -> None:
        """Enter the id of the snapshot; '' if it is known that none was started."""
        statement = "UPDATE conversions SET snapshot = ?, started_at = ? WHERE job = ?"
        await self._file.write(statement, snapshot, at, job_id)

    async def intend(self, job_id: str, indices: Iterable[int]) -> None:
        """Enter blocks that are about to be sent."""
        await self._append(job_id, False, b"".join(map(_INDEX.pack, indices)))

    async def stored(self, job_id: str, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Enter blocks that are stored, each with its SHA-256."""
        await self._append(job_id, True, b"".join(STORED_BLOCK.pack(index, digest) for index, digest in blocks))

    async def conclude(self, job_id: str, result: ConversionResult) -> None:
        """Enter that every block is stored, before the snapshot is completed."""
        statement = "UPDATE conversions SET result = ? WHERE job = ?"
        await self._file.write(statement, result.model_dump_json(), job_id)

    async def registering(self, job_id: str, image_id: str | None) -> None:
        """Enter the AMI: None while it is unknown, '' if none was registered."""
        await self._file.write("UPDATE conversions SET image = ? WHERE job = ?", image_id, job_id)

    async def find(self, job_id: str) -> ConversionRecord | None:
        """The job's record; None if nothing was settled yet."""
        statement = "SELECT * FROM conversions WHERE job = ?"
        row = await self._file.do(lambda db: db.execute(statement, (job_id,)).fetchone())
        if row is None:
            return None
        try:
            return ConversionRecord(
                converting=Converting.model_validate_json(row["settled"]),
                snapshot=row["snapshot"],
                started_at=row["started_at"] or 0.0,
                image=row["image"],
                result=ConversionResult.model_validate_json(row["result"]) if row["result"] else None,
            )
        except ValueError as error:
            raise self._file.unreadable(job_id) from error

    async def blocks(self, job_id: str) -> Earlier:
        """The stored blocks with their SHA-256, and those that were about to be sent since."""

        def work(db: sqlite3.Connection) -> Earlier:
            earlier = Earlier()
            for row in db.execute("SELECT stored, run FROM blocks WHERE job = ? ORDER BY number", (job_id,)):
                if row["stored"]:
                    for index, digest in STORED_BLOCK.iter_unpack(row["run"]):
                        earlier.store(index, digest)
                else:
                    for (index,) in _INDEX.iter_unpack(row["run"]):
                        # It may hold other bytes than before by now.
                        earlier.intend(index)
            return earlier

        try:
            return await self._file.do(work)
        except struct.error as error:
            raise self._file.unreadable(job_id) from error

    async def _append(self, job_id: str, stored: bool, run: bytes) -> None:
        await self._file.write("INSERT INTO blocks (job, stored, run) VALUES (?, ?, ?)", job_id, stored, run)
