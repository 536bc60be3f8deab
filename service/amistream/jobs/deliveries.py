"""The journal's records of the message queue: the messages that this host holds, and the results that are to be sent.

A message is entered before its job is submitted. Its verdict and the job's result are entered together, before the
queue or anybody else hears of them: a process that dies in between is followed by one that finishes. A message that is
dealt with is remembered, so that a late second delivery of it is not taken for a new job.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from amistream.bundles.claim_text import LONGEST_KEPT
from amistream.jobs.journal_file import JournalFile

REMEMBERED = 2000
"""Messages that were dealt with and are remembered. Guess: twice the jobs that are."""
LONGEST_KEPT_S = int(LONGEST_KEPT.total_seconds())


class Verdict(StrEnum):
    """The next step of a message, once its job has ended for good."""

    DELETE = "delete"
    """Delete it."""
    BURY = "bury"
    """Send a copy to the dead letters, then delete it."""
    OVER = "over"
    """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMessage:
    """A message that this host holds or held. Times are seconds of `boot`'s clock, which runs on in suspension."""

    message_id: str
    name: str
    queue: str
    handle: str = field(repr=False)
    body: str = field(repr=False)
    attempt: int
    sent_at: float
    boot: str
    ends_at: float
    parks_at: float
    job_id: str = ""
    verdict: Verdict | None = None
    code: str = ""
    """Why it is to be buried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A result that is to be sent. `outcome` is its short form, for filters."""

    notice_id: str
    outcome: str
    document: str = field(repr=False)


class DeliveryRecords:
    """Every method raises `JournalError` when the disk does not let it."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    @property
    def runner(self) -> str:
        """Names this process."""
        return self._file.runner

    async def hold(self, held: HeldMessage) -> HeldMessage:
        """Enter a message that was received; returns it, with the verdict of an earlier delivery if it has one."""

        def work(db: sqlite3.Connection) -> HeldMessage:
            self._file.check_place()
            with db:
                known = db.execute("SELECT * FROM deliveries WHERE message = ?", (held.message_id,)).fetchone()
                if known is None or known["verdict"] is None:
                    row = (held.message_id, self._file.runner, held.name, held.queue, held.handle, held.body)
                    times = (held.attempt, held.sent_at, held.boot, held.ends_at, held.parks_at)
                    db.execute(
                        "INSERT OR REPLACE INTO deliveries "
                        "(message, runner, name, queue, handle, body, attempt, sent_at, boot, ends_at, parks_at) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (*row, *times),
                    )
                    return held
                db.execute(
                    "UPDATE deliveries SET runner = ?, handle = ?, boot = ?, ends_at = ? WHERE message = ?",
                    (self._file.runner, held.handle, held.boot, held.ends_at, held.message_id),
                )
                return _held(db.execute("SELECT * FROM deliveries WHERE message = ?", (held.message_id,)).fetchone())

        return await self._file.do(work)

    async def submitted(self, message_id: str, job_id: str) -> None:
        """Enter the job of a message."""
        await self._file.write("UPDATE deliveries SET job = ? WHERE message = ?", job_id, message_id)

    async def extended(self, ends_at: Mapping[str, float]) -> None:
        """Enter the new ends of leases, by the id of the message."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                rows = [(end, message_id) for message_id, end in ends_at.items()]
                db.executemany("UPDATE deliveries SET ends_at = ? WHERE message = ?", rows)

        await self._file.do(work)

    async def received_again(self, held: HeldMessage) -> None:
        """Enter the handle of a second receive of a message that is held here."""
        statement = "UPDATE deliveries SET handle = ?, attempt = ?, ends_at = ?, parks_at = ? WHERE message = ?"
        times = (held.ends_at, held.parks_at)
        await self._file.write(statement, held.handle, held.attempt, *times, held.message_id)

    async def settle(self, message_id: str, verdict: Verdict, code: str, notice: Notice | None) -> None:
        """Enter the verdict about a message, and with it the result that is to be sent."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                if notice is not None:
                    db.execute(
                        "INSERT OR IGNORE INTO outbox (id, outcome, document, entered) VALUES (?, ?, ?, ?)",
                        (notice.notice_id, notice.outcome, notice.document, time.time()),
                    )
                db.execute("UPDATE deliveries SET verdict = ?, code = ? WHERE message = ?", (verdict, code, message_id))

        await self._file.do(work)

    async def buried(self, message_id: str) -> None:
        """Enter that the dead letters have the message: it is to be deleted."""
        await self._file.write("UPDATE deliveries SET verdict = ? WHERE message = ?", Verdict.DELETE, message_id)

    async def over(self, message_id: str) -> None:
        """Enter that a message is dealt with, and forget the oldest of those."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute(
                    "UPDATE deliveries SET verdict = ?, handle = '', body = '' WHERE message = ?",
                    (Verdict.OVER, message_id),
                )
                db.execute(
                    "DELETE FROM deliveries WHERE message IN "
                    "(SELECT message FROM deliveries WHERE verdict = ? ORDER BY sent_at DESC LIMIT -1 OFFSET ?)",
                    (Verdict.OVER, REMEMBERED),
                )

        await self._file.do(work)

    async def forget(self, message_id: str) -> None:
        """Enter that a message without a verdict is no longer held here."""
        await self._file.write("DELETE FROM deliveries WHERE message = ? AND verdict IS NULL", message_id)

    async def is_settled(self, job_id: str) -> bool:
        """The result of this job is entered already, through this message or another one."""
        statement = "SELECT 1 FROM deliveries WHERE job = ? AND verdict IS NOT NULL LIMIT 1"
        return await self._file.do(lambda db: db.execute(statement, (job_id,)).fetchone() is not None)

    async def left(self) -> list[HeldMessage]:
        """Take over the messages of processes that are gone, and which are not dealt with; forget those of old."""

        def work(db: sqlite3.Connection) -> list[HeldMessage]:
            db.execute("BEGIN IMMEDIATE")
            with db:
                db.execute("DELETE FROM deliveries WHERE sent_at < ?", (time.time() - LONGEST_KEPT_S,))
                statement = "SELECT * FROM deliveries WHERE verdict IS NULL OR verdict != ? ORDER BY rowid"
                rows = [row for row in db.execute(statement, (Verdict.OVER,)) if self._file.is_free(row["runner"])]
                mine = [(self._file.runner, row["message"]) for row in rows]
                db.executemany("UPDATE deliveries SET runner = ? WHERE message = ?", mine)
                return [_held(row) for row in rows]

        return await self._file.do(work)

    async def unsent(self, most: int) -> list[Notice]:
        """The oldest results that are to be sent."""
        statement = "SELECT id, outcome, document FROM outbox ORDER BY entered, rowid LIMIT ?"
        rows = await self._file.do(lambda db: db.execute(statement, (most,)).fetchall())
        return [Notice(notice_id=row["id"], outcome=row["outcome"], document=row["document"]) for row in rows]

    async def count_unsent(self) -> int:
        return await self._file.do(lambda db: int(db.execute("SELECT count(*) FROM outbox").fetchone()[0]))

    async def refused(self, notice_id: str) -> None:
        """Enter that a result was refused: the others, and those of the next second, come before it."""
        statement = (
            "UPDATE outbox SET entered = (SELECT max(entered) FROM outbox) + 1, refused = coalesce(refused, ?) "
            "WHERE id = ?"
        )
        await self._file.write(statement, time.time(), notice_id)

    async def give_up(self, longest_s: float) -> list[str]:
        """Forget the results that were refused for the first time so long ago; returns their ids."""

        def work(db: sqlite3.Connection) -> list[str]:
            with db:
                db.execute("BEGIN IMMEDIATE")
                rows = db.execute("SELECT id FROM outbox WHERE refused <= ?", (time.time() - longest_s,)).fetchall()
                db.executemany("DELETE FROM outbox WHERE id = ?", [(row["id"],) for row in rows])
                return [row["id"] for row in rows]

        return await self._file.do(work)

    async def sent(self, notice_ids: Sequence[str]) -> None:
        """Enter that results have arrived."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.executemany("DELETE FROM outbox WHERE id = ?", [(each,) for each in notice_ids])

        await self._file.do(work)


def _held(row: sqlite3.Row) -> HeldMessage:
    return HeldMessage(
        message_id=row["message"],
        name=row["name"],
        queue=row["queue"],
        handle=row["handle"],
        body=row["body"],
        attempt=row["attempt"],
        sent_at=row["sent_at"],
        boot=row["boot"],
        ends_at=row["ends_at"],
        parks_at=row["parks_at"],
        job_id=row["job"] or "",
        verdict=Verdict(row["verdict"]) if row["verdict"] else None,
        code=row["code"] or "",
    )
