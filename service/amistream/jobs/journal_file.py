"""The journal's file: a SQLite database in the state directory, and the lock files of the processes that use it.

It is readable by its owner only, in WAL mode and synced at each commit. One thread does all the work on it. Several
processes may share it: each holds a lock file until it ends. They open it one at a time; an older version is upgraded
then, and the only process moves a damaged one aside (`damage`).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import structlog

from amistream.errors import JournalError, UsageError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.file_lock import PATIENCE_S, locked
from amistream.jobs.damage import check_whole, is_damage, keep_lost_log, move_aside
from amistream.values import KIB, quoted

log = structlog.get_logger()

FILE = "journal.sqlite"
FORGOTTEN = (
    "what lost jobs have stored stays: `amistream list s3://BUCKET --orphans` shows it; `sqlite3 FILE .recover` shows "
    "what can still be read of a damaged journal"
)
_LEAST_ROOM = 64 * KIB
_VERSION = 7
"""Version 1 had no `kind`, and at first no `image`; version 2 no `late` and `failure`; version 3 no `user` and no
conversions; version 4 no `name`, no migrations and no messages; version 5 no lines; version 6
no `refused`: `_upgrade` adds them."""
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
    failure TEXT,
    user INTEGER,
    name TEXT NOT NULL DEFAULT ''
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
_CONVERSIONS = (
    """
CREATE TABLE IF NOT EXISTS conversions (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    settled TEXT NOT NULL,
    snapshot TEXT,
    started_at REAL,
    image TEXT,
    result TEXT
) WITHOUT ROWID
""",
    """
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    stored INTEGER NOT NULL,
    run BLOB NOT NULL
)
""",
    "CREATE INDEX IF NOT EXISTS blocks_of_job ON blocks (job)",
)
"""Statements, since version 4. A row of `blocks` holds many: a row for each would be 131,072 for 64 GiB."""
_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    settled TEXT NOT NULL,
    manifest BLOB NOT NULL,
    image TEXT
) WITHOUT ROWID
"""
"""Since version 5."""
_MESSAGES = (
    """
CREATE TABLE IF NOT EXISTS deliveries (
    message TEXT PRIMARY KEY,
    runner TEXT NOT NULL,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    handle TEXT NOT NULL,
    body TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    sent_at REAL NOT NULL,
    boot TEXT NOT NULL,
    ends_at REAL NOT NULL,
    parks_at REAL NOT NULL,
    job TEXT,
    verdict TEXT,
    code TEXT
)
""",
    "CREATE INDEX IF NOT EXISTS deliveries_of_job ON deliveries (job)",
    """
CREATE TABLE IF NOT EXISTS outbox (
    id TEXT PRIMARY KEY,
    outcome TEXT NOT NULL,
    document TEXT NOT NULL,
    entered REAL NOT NULL,
    refused REAL
)
""",
)
"""Statements, since version 5."""
_LINES = (
    """
CREATE TABLE IF NOT EXISTS lines (
    number INTEGER PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    line TEXT NOT NULL
)
""",
    "CREATE INDEX IF NOT EXISTS lines_of_job ON lines (job)",
)
"""Statements, since version 6."""
_COLUMNS = (
    *(f"jobs.{name}" for name in ("id", "runner", "fate", "by_itself", "confined", "idempotency_key", "request")),
    *(f"jobs.{name}" for name in ("view", "bundling", "result", "kind", "late", "failure", "user", "name")),
    *(f"places.{name}" for name in ("job", "number", "manifest", "done", "image")),
    *(f"parts.{name}" for name in ("job", "number", "part", "stored")),
    *(f"conversions.{name}" for name in ("job", "settled", "snapshot", "started_at", "image", "result")),
    *(f"migrations.{name}" for name in ("job", "settled", "manifest", "image")),
    *(f"blocks.{name}" for name in ("number", "job", "stored", "run")),
    *(f"deliveries.{name}" for name in ("message", "runner", "name", "queue", "handle", "body", "attempt", "sent_at")),
    *(f"deliveries.{name}" for name in ("boot", "ends_at", "parks_at", "job", "verdict", "code")),
    *(f"outbox.{name}" for name in ("id", "outcome", "document", "entered", "refused")),
    *(f"lines.{name}" for name in ("number", "job", "line")),
)

T = TypeVar("T")


class JournalFile:
    """`async with JournalFile(state_dir)`. Opening it raises `JobError`, or `UsageError` for a newer version's file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE
        self.runner = secrets.token_hex(8)
        """Names this process and its lock file."""
        self.notices: tuple[str, ...] = ()
        """Damage that was found when the file was opened."""
        self._state_dir = state_dir
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="amistream-journal")
        self._lock = -1
        self._opened = ExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._on_thread(self._open)
        except BaseException:
            self._pool.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await finish_despite_cancel(self._on_thread(self._opened.close))
        self._pool.shutdown()

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the database. Raises `JournalError` when the disk does not let it."""
        return await self._on_thread(lambda: work(self._db))

    async def write(self, statement: str, *values: Any) -> None:
        """Run one statement and commit it. Raises as `do` does."""

        def work(db: sqlite3.Connection) -> None:
            with db:
                db.execute(statement, values)

        await self.do(work)

    def unreadable(self, job_id: str) -> JournalError:
        """The error about records of a job that cannot be read."""
        return JournalError(
            "journal.version",
            f"cannot read job {job_id} in the journal {self.path}: another version of amistream entered it, or it is "
            "damaged",
            hint="use that version for it",
        )

    def is_free(self, runner: str) -> bool:
        """The process that ran a job is this one, or is gone."""
        if runner == self.runner:
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

    def check_place(self) -> None:
        """Raise `JournalError` if the journal was removed or replaced: what is entered then, no other process finds."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._file, self.path.stat()):
                return
        raise JournalError(
            "journal.gone",
            f"cannot keep the journal {self.path}: it was removed or replaced while this process used it",
            hint="once its jobs have ended start the daemon again (systemctl restart amistream): it makes a new one",
            field="state_dir",
        )

    def _open(self) -> None:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._state_dir), ExitStack() as stack:
            locks = [path.stem for path in self._state_dir.glob("runner-*.lock")]
            # Each is tried: the lock file of a process that is gone goes too.
            alone = [self.is_free(lock.removeprefix("runner-")) for lock in locks].count(False) == 0
            self._lock = os.open(self._lock_file(self.runner), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(self._unlock)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if alone and (log_aside := keep_lost_log(self.path)):
                self._notice(
                    f"the write-ahead log of the journal {self.path} was damaged: the newest entries are lost, and "
                    f"jobs that only they held; a copy of the log is {log_aside}"
                )
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if not is_damage(error) or not alone:
                    raise
                aside = move_aside(self.path)
                self._notice(
                    f"the journal {self.path} was damaged ({error}): its jobs are forgotten, it is now {aside}"
                )
                self._connect()
            stack.callback(self._db.close)
            self._file = self.path.stat()
            self._opened = stack.pop_all()

    def _notice(self, text: str) -> None:
        self.notices += (text,)
        # Commands in the foreground show errors only.
        log.error("journal.damaged", reason=text, hint=FORGOTTEN)

    def _connect(self) -> None:
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level="DEFERRED")
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
                f"cannot use the journal {self.path}: another version of amistream made it ({found})",
                hint="use that version, or another state_dir",
                field="state_dir",
            )
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        if found == 0:
            self._db.executescript(";".join((_SCHEMA, *_CONVERSIONS, _MIGRATIONS, *_MESSAGES, *_LINES)))
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
                "jobs": {
                    "kind": "TEXT NOT NULL DEFAULT 'bundle'",
                    "late": "TEXT",
                    "failure": "TEXT",
                    "user": "INTEGER",
                    "name": "TEXT NOT NULL DEFAULT ''",
                },
                "places": {"image": "TEXT"},
                "outbox": {"refused": "REAL"},
            }
            for statement in (*_CONVERSIONS, _MIGRATIONS, *_MESSAGES, *_LINES):
                self._db.execute(statement)
            for table, columns in added.items():
                there = {column["name"] for column in self._db.execute(f"PRAGMA table_info({table})")}
                for name in columns.keys() - there:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _unlock(self) -> None:
        self._lock_file(self.runner).unlink(missing_ok=True)
        os.close(self._lock)

    def _lock_file(self, runner: str) -> Path:
        return self._state_dir / f"runner-{runner}.lock"

    def _has_no_room(self) -> bool:
        """The disk is so full that SQLite fails with another error than SQLITE_FULL."""
        try:
            return shutil.disk_usage(self._state_dir).free < _LEAST_ROOM
        except OSError:
            return False

    async def _on_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except (sqlite3.Error, OSError) as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            full = code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
            full = full or self._has_no_room()
            hint = f"check the state directory: ls -la {self._state_dir}; state_dir names it"
            if full:
                hint = f"free some space: df -h {quoted(self._state_dir)}"
            elif code == sqlite3.SQLITE_BUSY:
                hint = f"find the program that holds it and end it: fuser -v {quoted(self.path)}"
            elif getattr(error, "errno", 0) == errno.ENOLCK:
                hint = "its file system has no locks: set state_dir to a directory on a local disk"
            elif is_damage(error):
                hint = "end every process of amistream that uses it and start again: the journal is then moved aside"
            raise JournalError(
                "journal.full" if full else "journal.failed",
                f"cannot keep the journal {self.path}: {getattr(error, 'strerror', None) or error}",
                hint=hint,
                field="state_dir",
            ) from error
