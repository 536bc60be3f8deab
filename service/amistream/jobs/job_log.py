"""Keeps what the log says about each job in the journal, from level info up, for `amistream logs`.

A job has at most `MOST_LINES` in `MOST_BYTES`, the newest; they are deleted with it. A value that is cut says so at its
beginning, and the line `log.cut` stands in the place of older ones. Lines are entered a moment after they were logged,
together: a crash may lose those of the last half second, and a full disk any. Neither stops a job.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

from amistream import log
from amistream.errors import JournalError
from amistream.events import LogLine
from amistream.flow.cancel import finish_despite_cancel
from amistream.flow.gather import task_group
from amistream.jobs.journal_file import JournalFile
from amistream.text import as_utf8
from amistream.values import KIB

MOST_LINES = 500
MOST_BYTES = 512 * KIB
"""Bytes of all lines of a job. Guess: twice what 500 usual lines take."""
LONGEST_LINE = 16 * KIB
"""Bytes of a line. Guess: a traceback and a few long values."""
LONGEST_VALUE = 2000
"""Characters of one value of a line; of a longer one its end, which of a traceback says most."""
CUT = "log.cut"
PAUSE_S = 0.5
_WAITING = 2000
"""Lines that wait to be entered, at most: the oldest are lost."""
_APART = ("event", "level", "timestamp", "job", "logger")
_WITHHELD = ("output",)
"""Fields that are for the administrator, in the daemon's own log: every member of its group may read a job's lines, and
the output of a hook may hold what only root may know.
"""


class JobLog:
    """The lines of all jobs of a journal."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        self._new: deque[tuple[str, str]] = deque(maxlen=_WAITING)
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Keep the lines that are logged while the block runs."""
        loop = asyncio.get_running_loop()

        def keep(job_id: str, entry: Mapping[str, Any]) -> None:
            """Called on any thread."""
            self._new.append((job_id, line_of(entry).model_dump_json()))
            loop.call_soon_threadsafe(self._changed.set)

        async def enter() -> None:
            while True:
                await self._changed.wait()
                await asyncio.sleep(PAUSE_S)
                await self._enter()

        with log.kept_by(keep):
            async with task_group() as group:
                entering = group.create_task(enter(), name="lines")
                try:
                    yield
                finally:
                    entering.cancel()
            await finish_despite_cancel(self._enter())

    async def lines(self, job_id: str) -> list[LogLine]:
        """The lines of a job, oldest first. Raises `JournalError`."""
        await self._enter()
        statement = "SELECT line FROM lines WHERE job = ? ORDER BY number"
        rows = await self._file.do(lambda db: db.execute(statement, (job_id,)).fetchall())
        found = []
        for row in rows:
            with suppress(ValueError):  # damaged, or of a later version
                found.append(LogLine.model_validate_json(row["line"]))
        return found

    async def _enter(self) -> None:
        self._changed.clear()
        new = [self._new.popleft() for _ in range(len(self._new))]
        if not new:
            return

        def work(db: sqlite3.Connection) -> None:
            with db:
                # A job that is not in the journal has no lines either.
                db.executemany("INSERT INTO lines (job, line) SELECT id, ?2 FROM jobs WHERE id = ?1", new)
                for job_id in {job_id for job_id, _ in new}:
                    _cut_off(db, job_id)

        try:
            await self._file.do(work)
        except JournalError:
            return  # the job itself finds that out, too


def _cut_off(db: sqlite3.Connection, job_id: str) -> None:
    """Delete the oldest lines of a job that has too many; the oldest that is left then says so."""
    [last] = db.execute(
        "SELECT max(number) FROM (SELECT number, row_number() OVER newest AS place, "
        "sum(length(CAST(line AS BLOB))) OVER newest AS size "
        "FROM lines WHERE job = ? WINDOW newest AS (ORDER BY number DESC)) WHERE place > ? OR size > ?",
        (job_id, MOST_LINES, MOST_BYTES),
    ).fetchone()
    if last is None:
        return
    db.execute("DELETE FROM lines WHERE job = ? AND number <= ?", (job_id, last))
    number, text = db.execute("SELECT min(number), line FROM lines WHERE job = ?", (job_id,)).fetchone()
    reason = f"older lines are deleted: a job keeps {MOST_LINES} lines and {MOST_BYTES // KIB} KiB"
    with suppress(ValueError):  # a damaged line
        oldest = LogLine.model_validate_json(text)
        mark = oldest.model_copy(update={"level": "info", "event": CUT, "fields": {"reason": reason}})
        db.execute("UPDATE lines SET line = ? WHERE number = ?", (mark.model_dump_json(), number))


def line_of(entry: Mapping[str, Any]) -> LogLine:
    """The line of a log entry."""
    given = {name: value for name, value in entry.items() if name not in (*_APART, *_WITHHELD)}
    at, level, event = datetime.fromisoformat(entry["timestamp"]), entry["level"], entry["event"]
    longest = LONGEST_VALUE
    while True:
        fields = {name: _bounded(value, longest) for name, value in given.items()}
        line = LogLine(at=at, level=level, event=event, fields=fields)
        if longest <= 1 or len(line.model_dump_json().encode()) <= LONGEST_LINE:
            return line
        longest //= 2


def _bounded(value: Any, longest: int) -> Any:
    """A value that JSON can hold, and of one that is too long its end as text."""
    # A line that cannot be kept must not end the job that it is about.
    text = (
        as_utf8(value)
        if isinstance(value, str)
        else json.dumps(value, default=str, skipkeys=True, ensure_ascii=False).encode("utf-8", "replace").decode()
    )
    if len(text) > longest:
        return f"[{len(text) - longest} characters are cut off] {text[-longest:]}"
    return text if isinstance(value, str) else json.loads(text)
