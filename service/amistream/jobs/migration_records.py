"""The journal's records of a migration: the manifest to be put, the parts before they are copied, and the AMI.

A part is the job's own from its entry on: only parts that did not exist are entered. The parts are rows of the table
`parts`, as those of a bundle, with their names. In the same transaction comes what may still appear at the destination
if this process dies. All is deleted at the end of the job.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from amistream.jobs.journal_file import JournalFile
from amistream.jobs.records import NextStep, late_text
from amistream.plan import Recorded
from amistream.ports.registry import Registration
from amistream.ports.unanswered import Late
from amistream.settings import Acl


class Migrating(Recorded):
    """The facts that were settled when a migration began, and hold for every later run."""

    sizes: tuple[int, ...]
    """Sizes of the parts, in the manifest's order."""
    region: str
    endpoint_url: str
    """Endpoint of S3 and EC2, '' for AWS."""
    acl: Acl
    multipart_threshold: int
    """Parts of more bytes are sent in chunks."""
    registration: Registration | None


@dataclass(slots=True, kw_only=True)
class MigrationRecord:
    """A migration as the journal has it, from the moment before its first part is copied."""

    migrating: Migrating
    manifest: bytes
    """The manifest that is put at the end."""
    image: str | None = ""
    """The id of the job's AMI; '' when none was registered; None while that is unknown."""
    parts: dict[str, bool] = field(default_factory=dict)
    """The parts that the job copied, or was about to, by name; true for those that are known to be stored."""

    def settle_registration(self, registration: Registration | None) -> None:
        self.migrating = self.migrating.model_copy(update={"registration": registration})

    def know_part(self, name: str, *, stored: bool) -> None:
        self.parts[name] = stored

    def know_manifest(self, raw: bytes) -> None:
        self.manifest = raw

    def know_image(self, image_id: str | None) -> None:
        self.image = image_id


class MigrationRecords:
    """Every method raises `JournalError` when the disk does not let it."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def begin(self, job_id: str, record: MigrationRecord) -> None:
        """Enter that parts are about to be copied, and the manifest put: from now on they may exist."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute(
                    "INSERT INTO migrations (job, settled, manifest, image) VALUES (?, ?, ?, ?)",
                    (job_id, record.migrating.model_dump_json(), record.manifest, record.image),
                )
                db.execute("UPDATE jobs SET fate = ? WHERE id = ?", (NextStep.KEPT, job_id))

        await self._file.do(work)

    async def replace_manifest(self, job_id: str, raw: bytes) -> None:
        """Enter another manifest: one that another attempt of the job has put."""
        await self._file.write("UPDATE migrations SET manifest = ? WHERE job = ?", raw, job_id)

    async def copying(self, job_id: str, number: int, name: str, late: Late) -> None:
        """Enter a part that is about to be copied, and what may still appear."""
        statement = "INSERT OR REPLACE INTO parts (job, number, part) VALUES (?, ?, ?)"
        await self._with_late(job_id, late, statement, job_id, number, name)

    async def copied(self, job_id: str, number: int, late: Late) -> None:
        """Enter that a part is stored, and what may still appear."""
        await self._with_late(job_id, late, "UPDATE parts SET stored = 1 WHERE job = ? AND number = ?", job_id, number)

    async def registering(self, job_id: str, image_id: str | None, late: Late) -> None:
        """Enter the AMI, None while it is unknown and '' if none was registered, and what may still appear."""
        await self._with_late(job_id, late, "UPDATE migrations SET image = ? WHERE job = ?", image_id, job_id)

    async def find(self, job_id: str) -> MigrationRecord | None:
        """The job's record; None if nothing was settled yet."""

        def work(db: sqlite3.Connection) -> tuple[sqlite3.Row | None, list[sqlite3.Row]]:
            row = db.execute("SELECT * FROM migrations WHERE job = ?", (job_id,)).fetchone()
            return row, db.execute("SELECT part, stored FROM parts WHERE job = ? ORDER BY number", (job_id,)).fetchall()

        row, parts = await self._file.do(work)
        if row is None:
            return None
        try:
            return MigrationRecord(
                migrating=Migrating.model_validate_json(row["settled"]),
                manifest=row["manifest"],
                image=row["image"],
                parts={part["part"]: bool(part["stored"]) for part in parts},
            )
        except ValueError as error:
            raise self._file.unreadable(job_id) from error

    async def _with_late(self, job_id: str, late: Late, statement: str, *values: str | int | None) -> None:
        text = late_text({0: late} if late else {})

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute(statement, values)
                db.execute("UPDATE jobs SET late = ? WHERE id = ?", (text, job_id))

        await self._file.do(work)
