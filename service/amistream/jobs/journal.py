"""The journal: records the progress of every job on disk, so that another process can finish or undo it.

It holds the request, the facts that were settled when bundling began, every part before it is sent, and the manifest
before it is put; of conversions and migrations, what `conversion_records` and `migration_records` hold. The bundle's
key and IV are in it only as they are in the manifest: encrypted for the user. Payload is never in it. Several processes
may share it: each takes over only the jobs of processes that are gone (`journal_file`).

Nothing here blocks the event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog

from amistream.errors import ConflictError, JobError
from amistream.events import BundleResult, ErrorBody, JobKind, JobView, PlaceResult
from amistream.jobs.job_log import JobLog
from amistream.jobs.journal_file import JournalFile
from amistream.jobs.records import STORED_BLOCK, JournalEntry, NextStep, SealedPart, late_text, read_late
from amistream.plan import Bundling
from amistream.ports.unanswered import Late
from amistream.request import JobRequest, read_request
from amistream.states import ids_like

if TYPE_CHECKING:
    from amistream.jobs.conversion_records import ConversionRecords
    from amistream.jobs.deliveries import DeliveryRecords
    from amistream.jobs.migration_records import MigrationRecords

log = structlog.get_logger()

REMEMBERED = 1000
"""Ended jobs that are kept for listing; older ones are deleted."""

_SELECT = (
    "SELECT *, (SELECT count(*) FROM parts WHERE job = id) AS parts, "
    "(SELECT sum(length(run)) FROM blocks WHERE job = id AND stored) AS block_bytes FROM jobs"
)


class Journal:
    """`async with Journal(state_dir, by_itself=...)`. Every method raises `JobError` when the disk does not let it.

    A journal of an older version is upgraded when it is opened, one of a newer version is refused with `UsageError`.

    `by_itself`: the next daemon takes up the jobs that are entered here without a request.
    """

    def __init__(self, state_dir: Path, *, by_itself: bool) -> None:
        self._file = JournalFile(state_dir)
        self._write = self._file.write
        self.log = JobLog(self._file)
        """Lines of the log about each job."""
        self._by_itself = by_itself
        self.option = "" if by_itself else " --in-process"
        """Suffix for suggested commands, for jobs that run without a daemon."""

    async def __aenter__(self) -> Self:
        await self._file.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._file.__aexit__()

    @cached_property
    def conversions(self) -> ConversionRecords:
        """The records that only conversions have."""
        from amistream.jobs.conversion_records import ConversionRecords  # noqa: PLC0415 - loaded by the first of them

        return ConversionRecords(self._file)

    @cached_property
    def migrations(self) -> MigrationRecords:
        """The records that only migrations have."""
        from amistream.jobs.migration_records import MigrationRecords  # noqa: PLC0415 - loaded by the first of them

        return MigrationRecords(self._file)

    @cached_property
    def deliveries(self) -> DeliveryRecords:
        """The messages of a queue that this host holds, and results that are to be sent."""
        from amistream.jobs.deliveries import DeliveryRecords  # noqa: PLC0415 - loaded by the first of them

        return DeliveryRecords(self._file)

    @property
    def notices(self) -> tuple[str, ...]:
        """Damage that was found when the journal was opened."""
        return self._file.notices

    async def add(
        self,
        view: JobView,
        request: JobRequest,
        *,
        confined: bool,
        idempotency_key: str,
        user: int | None = None,
        name: str = "",
    ) -> None:
        """Enter a waiting job, in the journal that other processes find too."""
        statement = (
            "INSERT INTO jobs "
            "(id, kind, runner, fate, by_itself, confined, user, idempotency_key, name, request, view) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        row = (
            view.id,
            view.kind,
            self._file.runner,
            NextStep.WAITING,
            self._by_itself,
            confined,
            user,
            idempotency_key,
            name,
        )
        await self._file.do(lambda _: self._file.check_place())
        await self._write(statement, *row, request.model_dump_json(), view.model_dump_json())

    async def update(self, view: JobView) -> None:
        """Enter the job's state."""
        await self._write("UPDATE jobs SET view = ? WHERE id = ?", view.model_dump_json(), view.id)

    async def begin(self, job_id: str, bundling: Bundling) -> None:
        """Enter that bundling begins, from the first part on: from now on parts may exist."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM parts WHERE job = ?", (job_id,))
                db.execute("DELETE FROM places WHERE job = ?", (job_id,))
                db.execute(
                    "UPDATE jobs SET fate = ?, bundling = ?, result = NULL WHERE id = ?",
                    (NextStep.KEPT, bundling.model_dump_json(), job_id),
                )

        await self._file.do(work)

    async def seal(self, job_id: str, part: SealedPart) -> None:
        """Enter a part before it is sent."""
        text = part.model_dump_json(exclude={"stored"})
        await self._write("INSERT INTO parts (job, number, part) VALUES (?, ?, ?)", job_id, part.digest.index, text)

    async def seal_again(self, job_id: str, part: SealedPart) -> None:
        """Enter that a part is sent again, with another checksum than before."""
        text = part.model_dump_json(exclude={"stored"})
        await self._write("UPDATE parts SET part = ? WHERE job = ? AND number = ?", text, job_id, part.digest.index)

    async def stored(self, job_id: str, number: int) -> None:
        """Enter that every destination has the part."""
        await self._write("UPDATE parts SET stored = 1 WHERE job = ? AND number = ?", job_id, number)

    async def conclude(self, job_id: str, result: BundleResult) -> None:
        """Enter the result once every part is stored."""
        await self._write("UPDATE jobs SET result = ? WHERE id = ?", result.model_dump_json(), job_id)

    async def commit(self, job_id: str, number: int, manifest: bytes) -> None:
        """Enter the manifest that is about to be put, with no AMI yet; the destination has every part."""
        statement = (
            "INSERT INTO places (job, number, manifest, image) VALUES (?, ?, ?, '') "
            "ON CONFLICT DO UPDATE SET manifest = excluded.manifest"
        )
        await self._write(statement, job_id, number, manifest)

    async def registering(self, job_id: str, number: int, image_id: str | None) -> None:
        """Enter the AMI of a destination: None while it is unknown, '' if none was registered."""
        await self._write("UPDATE places SET image = ? WHERE job = ? AND number = ?", image_id, job_id, number)

    async def reopen(self, job_id: str) -> None:
        """Enter that a destination lacks parts after all: the next run stores them again.

        The manifests stay: they may have been put, and a removal of the job must delete them.
        """
        await self._write("UPDATE jobs SET result = NULL WHERE id = ?", job_id)

    async def done(self, job_id: str, number: int, result: PlaceResult) -> None:
        """Enter that a destination has its bundle, and its AMI where one was requested."""
        statement = "UPDATE places SET done = ? WHERE job = ? AND number = ?"
        await self._write(statement, result.model_dump_json(), job_id, number)

    async def set_next_step(self, job_id: str, next_step: NextStep, failure: ErrorBody | None = None) -> None:
        """Enter the next step. After a removal the job has failed with `failure`; without one it is cancelled."""
        text = failure.model_dump_json() if failure is not None else None
        await self._write("UPDATE jobs SET fate = ?, failure = ? WHERE id = ?", next_step, text, job_id)

    async def late(self, job_id: str, late: Mapping[int, Late]) -> None:
        """Enter the things that may still appear, by number of the destination."""
        await self._write("UPDATE jobs SET late = ? WHERE id = ?", late_text(late), job_id)

    async def end(self, view: JobView) -> None:
        """Enter that the job is over, and delete the records for later runs."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM parts WHERE job = ?", (view.id,))
                db.execute("DELETE FROM places WHERE job = ?", (view.id,))
                db.execute("DELETE FROM conversions WHERE job = ?", (view.id,))
                db.execute("DELETE FROM migrations WHERE job = ?", (view.id,))
                db.execute("DELETE FROM blocks WHERE job = ?", (view.id,))
                db.execute(
                    "UPDATE jobs SET fate = ?, view = ?, bundling = NULL, result = NULL, late = NULL, failure = NULL "
                    "WHERE id = ?",
                    (NextStep.OVER, view.model_dump_json(), view.id),
                )
                db.execute(
                    "DELETE FROM jobs WHERE id IN "
                    "(SELECT id FROM jobs WHERE fate = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                    (NextStep.OVER, REMEMBERED),
                )

        await self._file.do(work)

    async def find(self, job_id: str) -> JournalEntry | None:
        def work(db: sqlite3.Connection) -> JournalEntry | None:
            row = db.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
            return self._read_kept(db, row) if row is not None else None

        return await self._file.do(work)

    async def all(self, over_like: str | None = None) -> list[JournalEntry]:
        """Every job of this process and of processes that are gone, and every job that is over; oldest first.

        With `over_like` only those jobs that are over whose ids are like it (`ids_like`), with '' none of them.
        """

        def work(db: sqlite3.Connection) -> list[JournalEntry]:
            heads = db.execute("SELECT rowid, id, fate, runner FROM jobs ORDER BY rowid").fetchall()
            over = [head["id"] for head in heads if head["fate"] == NextStep.OVER]
            shown = {*(over if over_like is None else ids_like(over_like, over))}
            free = [
                head["rowid"]
                for head in heads
                if (head["id"] in shown if head["fate"] == NextStep.OVER else self._file.is_free(head["runner"]))
            ]
            # One that another process has forgotten meanwhile is no longer there.
            rows = filter(None, (db.execute(f"{_SELECT} WHERE rowid = ?", (row,)).fetchone() for row in free))
            return [kept for row in rows if (kept := self._read_if_known(db, row)) is not None]

        return await self._file.do(work)

    async def others(self) -> list[tuple[JournalEntry, bool]]:
        """Every unfinished job of other processes, with true if its process is alive."""

        def work(db: sqlite3.Connection) -> list[tuple[JournalEntry, bool]]:
            statement = f"{_SELECT} WHERE fate != ? AND runner != ? ORDER BY rowid"
            rows = db.execute(statement, (NextStep.OVER, self._file.runner)).fetchall()
            return [
                (kept, not self._file.is_free(row["runner"])) for row in rows if (kept := self._read_if_known(db, row))
            ]

        return await self._file.do(work)

    def _read_if_known(self, db: sqlite3.Connection, row: sqlite3.Row) -> JournalEntry | None:
        """The job, or None if another version entered it, which must not stop the others."""
        try:
            return self._read_kept(db, row)
        except JobError as error:
            log.warning("journal.skipped", reason=error.message)
            return None

    def _read_kept(self, db: sqlite3.Connection, row: sqlite3.Row) -> JournalEntry:
        places = db.execute("SELECT * FROM places WHERE job = ? ORDER BY number", (row["id"],)).fetchall()
        try:
            return JournalEntry(
                kind=JobKind(row["kind"]),
                request=read_request(JobKind(row["kind"]), row["request"]),
                view=JobView.model_validate_json(row["view"]),
                next_step=NextStep(row["fate"]),
                by_itself=bool(row["by_itself"]),
                confined=bool(row["confined"]),
                user=None if row["user"] is None else int(row["user"]),
                idempotency_key=row["idempotency_key"],
                name=row["name"],
                bundling=Bundling.model_validate_json(row["bundling"]) if row["bundling"] else None,
                manifests={place["number"]: place["manifest"] for place in places},
                images={place["number"]: place["image"] for place in places if place["image"] is not None},
                done={each["number"]: PlaceResult.model_validate_json(each["done"]) for each in places if each["done"]},
                result=BundleResult.model_validate_json(row["result"]) if row["result"] else None,
                late=read_late(row["late"]) if row["late"] else {},
                failure=ErrorBody.model_validate_json(row["failure"]) if row["failure"] else None,
                kept=row["parts"] or (row["block_bytes"] or 0) // STORED_BLOCK.size,
            )
        except ValueError as error:
            raise self._file.unreadable(row["id"]) from error

    async def parts(self, job_id: str) -> list[SealedPart]:
        """The parts that were sealed, in order."""
        statement = "SELECT part, stored FROM parts WHERE job = ? ORDER BY number"
        rows = await self._file.do(lambda db: db.execute(statement, (job_id,)).fetchall())
        try:
            return [
                SealedPart.model_validate_json(row["part"]).model_copy(update={"stored": bool(row["stored"])})
                for row in rows
            ]
        except ValueError as error:
            raise self._file.unreadable(job_id) from error

    async def claim(self, job_id: str) -> JournalEntry:
        """Make a job this process's own, unless it is over; returns its present entry.

        Raises `ConflictError` while the process that runs it is alive.
        """

        def work(db: sqlite3.Connection) -> JournalEntry | None:
            self._file.check_place()
            db.execute("BEGIN IMMEDIATE")
            with db:
                row = db.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
                if row is None or not self._file.is_free(row["runner"]):
                    return None
                if row["fate"] != NextStep.OVER:
                    db.execute("UPDATE jobs SET runner = ? WHERE id = ?", (self._file.runner, job_id))
                return self._read_kept(db, row)

        kept = await self._file.do(work)
        if kept is None:
            raise ConflictError(
                "job.running_elsewhere",
                f"cannot take up job {job_id}: another process is running it",
                hint="wait until it has ended, or end it there",
            )
        return kept
