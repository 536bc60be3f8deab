"""The journal: records the progress of every job on disk, so that another process can finish or undo it.

SQLite in the state directory, readable by its owner only, in WAL mode and synced at each commit. It holds the request,
the facts that were settled when bundling began, every part before it is sent, and the manifest before it is put. The
bundle's key and IV are in it only as they are in the manifest: encrypted for the user. Payload is never in it.

One thread does all the writing; nothing here blocks the event loop. Several processes may share a journal: each holds a
lock file until it ends, and takes over only the jobs of processes whose lock is gone. They open it one at a time, and
the only one moves a damaged journal aside (`damage`).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog
from pydantic import TypeAdapter

from amistream.errors import ConflictError, JobError, JournalError, UsageError
from amistream.events import ErrorBody, JobKind, JobResult, JobView, PlaceResult
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.file_lock import PATIENCE_S, locked
from amistream.jobs.damage import check_whole, is_damage, keep_lost_log, move_aside
from amistream.jobs.records import JournalEntry, NextStep, SealedPart
from amistream.plan import Bundling
from amistream.ports.unanswered import Late
from amistream.request import JobRequest
from amistream.values import KIB

log = structlog.get_logger()

FILE = "journal.sqlite"
FORGOTTEN = (
    "what lost jobs have stored stays: `amistream list s3://BUCKET --orphans` shows it; `sqlite3 FILE .recover` shows "
    "what can still be read of a damaged journal"
)
REMEMBERED = 1000
"""Ended jobs that are kept for listing; older ones are deleted."""

_LEAST_ROOM = 64 * KIB
_VERSION = 3
"""Version 1 had no `kind`, and at first no `image`; version 2 no `late` and `failure`: `_upgrade` adds them."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    runner TEXT NOT NULL,
    fate TEXT NOT NULL,
    by_itself INTEGER NOT NULL,
    confined INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    request TEXT NOT NULL,
    view TEXT NOT NULL,
    bundling TEXT,
    result TEXT,
    kind TEXT NOT NULL DEFAULT 'bundle',
    late TEXT,
    failure TEXT
);
CREATE TABLE IF NOT EXISTS places (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    done TEXT,
    image TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    part TEXT NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""
_COLUMNS = (
    *(f"jobs.{name}" for name in ("id", "runner", "fate", "by_itself", "confined", "idempotency_key", "request")),
    *(f"jobs.{name}" for name in ("view", "bundling", "result", "kind", "late", "failure")),
    *(f"places.{name}" for name in ("job", "number", "manifest", "done", "image")),
    *(f"parts.{name}" for name in ("job", "number", "part", "stored")),
)
_LATE: TypeAdapter[dict[int, Late]] = TypeAdapter(dict[int, Late])
_SELECT = "SELECT *, (SELECT count(*) FROM parts WHERE job = id) AS parts FROM jobs"

T = TypeVar("T")


class Journal:
    """`async with Journal(state_dir, by_itself=...)`. Every method raises `JobError` when the disk does not let it.

    A journal of an older version is upgraded when it is opened, one of a newer version is refused with `UsageError`.

    `by_itself`: the next daemon takes up the jobs that are entered here without a request.
    """

    def __init__(self, state_dir: Path, *, by_itself: bool) -> None:
        self._state_dir = state_dir
        self._path = state_dir / FILE
        self._by_itself = by_itself
        self.option = "" if by_itself else " --in-process"
        """Suffix for suggested commands, for jobs that run without a daemon."""
        self._runner = secrets.token_hex(8)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="amistream-journal")
        self._lock = -1
        self._opened = ExitStack()
        self.notices: tuple[str, ...] = ()
        """Damage that was found when the journal was opened."""

    async def __aenter__(self) -> Self:
        try:
            await self._do(self._open)
        except BaseException:
            self._pool.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await finish_despite_cancel(self._do(self._opened.close))
        self._pool.shutdown()

    async def add(self, view: JobView, request: JobRequest, *, confined: bool, idempotency_key: str) -> None:
        """Enter a waiting job, in the journal that other processes find too."""
        statement = (
            "INSERT INTO jobs (id, kind, runner, fate, by_itself, confined, idempotency_key, request, view) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        row = (view.id, view.kind, self._runner, NextStep.WAITING, self._by_itself, confined, idempotency_key)
        await self._do(self._check_place)
        await self._write(statement, *row, request.model_dump_json(), view.model_dump_json())

    async def update(self, view: JobView) -> None:
        """Enter the job's state."""
        await self._write("UPDATE jobs SET view = ? WHERE id = ?", view.model_dump_json(), view.id)

    async def begin(self, job_id: str, bundling: Bundling) -> None:
        """Enter that bundling begins, from the first part on: from now on parts may exist."""

        def work() -> None:
            with self._db:
                self._db.execute("DELETE FROM parts WHERE job = ?", (job_id,))
                self._db.execute("DELETE FROM places WHERE job = ?", (job_id,))
                self._db.execute(
                    "UPDATE jobs SET fate = ?, bundling = ?, result = NULL WHERE id = ?",
                    (NextStep.KEPT, bundling.model_dump_json(), job_id),
                )

        await self._do(work)

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

    async def conclude(self, job_id: str, result: JobResult) -> None:
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
        await self._write("UPDATE jobs SET late = ? WHERE id = ?", _LATE.dump_json(dict(late)).decode(), job_id)

    async def end(self, view: JobView) -> None:
        """Enter that the job is over, and delete the records for later runs."""

        def work() -> None:
            with self._db:
                self._db.execute("DELETE FROM parts WHERE job = ?", (view.id,))
                self._db.execute("DELETE FROM places WHERE job = ?", (view.id,))
                self._db.execute(
                    "UPDATE jobs SET fate = ?, view = ?, bundling = NULL, result = NULL, late = NULL, failure = NULL "
                    "WHERE id = ?",
                    (NextStep.OVER, view.model_dump_json(), view.id),
                )
                self._db.execute(
                    "DELETE FROM jobs WHERE id IN "
                    "(SELECT id FROM jobs WHERE fate = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                    (NextStep.OVER, REMEMBERED),
                )

        await self._do(work)

    async def find(self, job_id: str) -> JournalEntry | None:
        def work() -> JournalEntry | None:
            row = self._db.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
            return self._read_kept(row) if row is not None else None

        return await self._do(work)

    async def all(self) -> list[JournalEntry]:
        """Every job of this process and of processes that are gone, and every job that is over; oldest first."""

        def work() -> list[JournalEntry]:
            rows = self._db.execute(f"{_SELECT} ORDER BY rowid").fetchall()
            free = [row for row in rows if row["fate"] == NextStep.OVER or self._is_free(row["runner"])]
            return [kept for row in free if (kept := self._read_if_known(row)) is not None]

        return await self._do(work)

    async def others(self) -> list[tuple[JournalEntry, bool]]:
        """Every unfinished job of other processes, with true if its process is alive."""

        def work() -> list[tuple[JournalEntry, bool]]:
            statement = f"{_SELECT} WHERE fate != ? AND runner != ? ORDER BY rowid"
            rows = self._db.execute(statement, (NextStep.OVER, self._runner)).fetchall()
            return [(kept, not self._is_free(row["runner"])) for row in rows if (kept := self._read_if_known(row))]

        return await self._do(work)

    def _read_if_known(self, row: sqlite3.Row) -> JournalEntry | None:
        """The job, or None if another version entered it, which must not stop the others."""
        try:
            return self._read_kept(row)
        except JobError as error:
            log.warning("journal.skipped", reason=error.message)
            return None

    def _read_kept(self, row: sqlite3.Row) -> JournalEntry:
        places = self._db.execute("SELECT * FROM places WHERE job = ? ORDER BY number", (row["id"],)).fetchall()
        try:
            return JournalEntry(
                kind=JobKind(row["kind"]),
                request=JobRequest.model_validate_json(row["request"]),
                view=JobView.model_validate_json(row["view"]),
                next_step=NextStep(row["fate"]),
                by_itself=bool(row["by_itself"]),
                confined=bool(row["confined"]),
                idempotency_key=row["idempotency_key"],
                bundling=Bundling.model_validate_json(row["bundling"]) if row["bundling"] else None,
                manifests={place["number"]: place["manifest"] for place in places},
                images={place["number"]: place["image"] for place in places if place["image"] is not None},
                done={each["number"]: PlaceResult.model_validate_json(each["done"]) for each in places if each["done"]},
                result=JobResult.model_validate_json(row["result"]) if row["result"] else None,
                late=_LATE.validate_json(row["late"]) if row["late"] else {},
                failure=ErrorBody.model_validate_json(row["failure"]) if row["failure"] else None,
                parts=row["parts"],
            )
        except ValueError as error:
            raise self._unknown(row["id"]) from error

    def _unknown(self, job_id: str) -> JobError:
        return JournalError(
            "journal.version",
            f"cannot read job {job_id} in the journal {self._path}: another version of amistream entered it, or it is "
            "damaged",
            hint="use that version for it",
        )

    async def parts(self, job_id: str) -> list[SealedPart]:
        """The parts that were sealed, in order."""
        statement = "SELECT part, stored FROM parts WHERE job = ? ORDER BY number"
        rows = await self._do(lambda: self._db.execute(statement, (job_id,)).fetchall())
        try:
            return [
                SealedPart.model_validate_json(row["part"]).model_copy(update={"stored": bool(row["stored"])})
                for row in rows
            ]
        except ValueError as error:
            raise self._unknown(job_id) from error

    async def claim(self, job_id: str) -> JournalEntry:
        """Make a job this process's own, unless it is over; returns its present entry.

        Raises `ConflictError` while the process that runs it is alive.
        """

        def work() -> JournalEntry | None:
            self._check_place()
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                row = self._db.execute(f"{_SELECT} WHERE id = ?", (job_id,)).fetchone()
                if row is None or not self._is_free(row["runner"]):
                    return None
                if row["fate"] != NextStep.OVER:
                    self._db.execute("UPDATE jobs SET runner = ? WHERE id = ?", (self._runner, job_id))
                return self._read_kept(row)

        kept = await self._do(work)
        if kept is None:
            raise ConflictError(
                "job.running_elsewhere",
                f"cannot take up job {job_id}: another process is running it",
                hint="wait until it has ended, or end it there",
            )
        return kept

    def _open(self) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._state_dir), ExitStack() as stack:
            locks = [path.stem for path in self._state_dir.glob("runner-*.lock")]
            # Each is tried: the lock file of a process that is gone goes too.
            alone = [self._is_free(lock.removeprefix("runner-")) for lock in locks].count(False) == 0
            self._lock = os.open(self._lock_file(self._runner), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(self._unlock)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if alone and (log_aside := keep_lost_log(self._path)):
                self._notice(
                    f"the write-ahead log of the journal {self._path} was damaged: the newest entries are lost, and "
                    f"jobs that only they held; a copy of the log is {log_aside}"
                )
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if not is_damage(error) or not alone:
                    raise
                aside = move_aside(self._path)
                self._notice(
                    f"the journal {self._path} was damaged ({error}): its jobs are forgotten, it is now {aside}"
                )
                self._connect()
            stack.callback(self._db.close)
            self._file = self._path.stat()
            self._opened = stack.pop_all()

    def _notice(self, text: str) -> None:
        self.notices += (text,)
        # Commands in the foreground show errors only.
        log.error("journal.damaged", reason=text, hint=FORGOTTEN)

    def _connect(self) -> None:
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, timeout=PATIENCE_S, isolation_level="DEFERRED")
        try:
            self._set_up()
        except BaseException:
            self._db.close()
            raise

    def _set_up(self) -> None:
        self._db.row_factory = sqlite3.Row
        # Damaged text makes its own job unreadable, not the others.
        self._db.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")
        found = self._version()
        if not 0 <= found <= _VERSION:
            raise UsageError(
                "journal.version",
                f"cannot use the journal {self._path}: another version of amistream made it ({found})",
                hint="use that version, or another state_dir",
                field="state_dir",
            )
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        if found == 0:
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        elif found < _VERSION:
            self._upgrade()
        check_whole(self._db, _COLUMNS)

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _upgrade(self) -> None:
        """Add what an older version lacks, unless another process was quicker."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            if self._version() == _VERSION:
                return
            added = {
                "jobs": {"kind": "TEXT NOT NULL DEFAULT 'bundle'", "late": "TEXT", "failure": "TEXT"},
                "places": {"image": "TEXT"},
            }
            for table, columns in added.items():
                there = {column["name"] for column in self._db.execute(f"PRAGMA table_info({table})")}
                for name in columns.keys() - there:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _unlock(self) -> None:
        self._lock_file(self._runner).unlink(missing_ok=True)
        os.close(self._lock)

    def _lock_file(self, runner: str) -> Path:
        return self._state_dir / f"runner-{runner}.lock"

    def _is_free(self, runner: str) -> bool:
        """The process that ran a job is this one, or is gone."""
        if runner == self._runner:
            return True
        path = self._lock_file(runner)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    def _check_place(self) -> None:
        """Raise `JournalError` if the journal was removed or replaced: what is entered then, no other process finds."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._file, self._path.stat()):
                return
        raise JournalError(
            "journal.gone",
            f"cannot keep the journal {self._path}: it was removed or replaced while this process used it",
            hint="once its jobs have ended start the daemon again (systemctl restart amistream): it makes a new one",
            field="state_dir",
        )

    def _has_no_room(self) -> bool:
        """The disk is so full that SQLite fails with another error than SQLITE_FULL."""
        try:
            return shutil.disk_usage(self._state_dir).free < _LEAST_ROOM
        except OSError:
            return False

    async def _write(self, statement: str, *values: Any) -> None:
        def work() -> None:
            with self._db:
                self._db.execute(statement, values)

        await self._do(work)

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            full = code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
            full = full or self._has_no_room()
            hint = f"check the state directory: ls -la {self._state_dir}; state_dir names it"
            if full:
                hint = f"free some space: df -h {self._state_dir}"
            elif code == sqlite3.SQLITE_BUSY:
                hint = f"find the program that holds it and end it: fuser -v {self._path}"
            elif is_damage(error):
                hint = "end every process of amistream that uses it and start again: the journal is then moved aside"
            raise JournalError(
                "journal.full" if full else "journal.failed",
                f"cannot keep the journal {self._path}: {error}",
                hint=hint,
                field="state_dir",
            ) from error
