"""The lines that the log has about a job: kept in the journal, bounded, and told by the events of a run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from amistream import log
from amistream.events import State
from amistream.jobs import job_log
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.narration import Narrator
from amistream.request import parse_bundle_request
from amistream.settings import LogFormat
from daemon.rig import progress
from support.logs import restored_log

__all__ = ["restored_log"]
pytestmark = pytest.mark.usefixtures("restored_log")

REQUEST = parse_bundle_request({"source": "/volumes/a", "destinations": ["/bundles/a"]})


async def entered(journal: Journal) -> Job:
    job = Job(REQUEST)
    await journal.add(job.view(), REQUEST, confined=False, idempotency_key="")
    return job


async def test_lines_are_kept_as_long_as_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest lines from info up are kept whatever level is shown; those of other jobs, and long values, are not."""
    monkeypatch.setattr(job_log, "MOST_LINES", 3)
    monkeypatch.setattr(job_log, "LONGEST_VALUE", 5)
    logger = structlog.get_logger("amistream.test")
    async with Journal(tmp_path, by_itself=True) as journal, journal.log.keeping():
        log.configure("error", LogFormat.JSON)
        job, other = await entered(journal), await entered(journal)
        with structlog.contextvars.bound_contextvars(job=job.id):
            logger.debug("too.fine")
            for number in range(4):
                logger.info("job.state", number=number, text="123456", many=[1, 2, 3])
            try:
                raise ValueError
            except ValueError:
                logger.exception("job.bug")
        logger.warning("job.end", job="gone")
        logger.warning("daemon.ready")
        *earlier, last = await journal.log.lines(job.id)
        assert [(line.event, line.level, line.fields.get("number")) for line in earlier] == [
            ("log.cut", "info", None),
            ("job.state", "info", 3),
        ]
        cut = ["[1 characters are cut off] 23456", "[4 characters are cut off] 2, 3]"]
        assert [earlier[1].fields[name] for name in ("text", "many")] == cut
        assert (last.event, last.fields["exception"].endswith("] Error")) == ("job.bug", True)
        assert await journal.log.lines(other.id) == []
        logger.info("job.end", job=other.id)
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        assert database.execute("SELECT job FROM lines GROUP BY job ORDER BY job").fetchall() == [
            (each,) for each in sorted([job.id, other.id])
        ]
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
        assert database.execute("SELECT job FROM lines").fetchall() == [(other.id,)]


async def test_the_bytes_of_lines_are_bounded(tmp_path: Path) -> None:
    """A job's lines take no more than their share, however long each is; the oldest that is left says so."""
    async with Journal(tmp_path, by_itself=True) as journal, journal.log.keeping():
        log.configure("error", LogFormat.JSON)
        job = await entered(journal)
        logger = structlog.get_logger("amistream.test")
        for number in range(60):
            logger.info("job.state", job=job.id, number=number, **{f"value{each}": "\x01" * 5000 for each in range(9)})
        first, *rest = await journal.log.lines(job.id)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        sizes = [len(line) for (line,) in database.execute("SELECT line FROM lines")]
    assert max(sizes) <= job_log.LONGEST_LINE
    assert job_log.MOST_BYTES // 2 < sum(sizes) <= job_log.MOST_BYTES
    assert first.event == "log.cut"
    assert [line.fields["number"] for line in rest] == [*range(60 - len(rest), 60)]


async def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    """The other lines of the job are shown."""
    async with Journal(tmp_path, by_itself=True) as journal, journal.log.keeping():
        log.configure("error", LogFormat.JSON)
        job = await entered(journal)
        for number in range(2):
            structlog.get_logger("amistream.test").info("job.state", job=job.id, number=number)
        await journal.log.lines(job.id)
        with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
            database.execute("UPDATE lines SET line = 'x' WHERE number = 1")
        assert [line.fields["number"] for line in await journal.log.lines(job.id)] == [1]


async def test_a_journal_without_lines_is_upgraded(tmp_path: Path) -> None:
    """A journal of version 5 keeps its jobs, and gets lines."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.executescript("DROP TABLE lines; PRAGMA user_version = 5")
    async with Journal(tmp_path, by_itself=True) as journal, journal.log.keeping():
        log.configure("error", LogFormat.JSON)
        structlog.get_logger("amistream.test").info("job.resume", job=job.id)
        assert [line.event for line in await journal.log.lines(job.id)] == ["job.resume"]


def test_a_line_of_anything() -> None:
    """Values that JSON cannot hold become others; the output of a hook is not for those who may read a job's lines."""
    values = {"name": "a\udcff", "many": ["\udcff", {("a",): 1}], "output": "secret"}
    line = job_log.line_of({"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": "hook.end", **values})
    assert line.fields == {"name": "a\\udcff", "many": ["?", {}]}
    assert b"secret" not in line.model_dump_json().encode()


def test_a_run_is_told() -> None:
    """The log has the start, each state and notice, and the progress once a minute."""
    time_s = 0.0
    job = Job(REQUEST)
    with structlog.testing.capture_logs() as lines, job.heard_by(Narrator(clock=lambda: time_s)):
        job.move(State.CHECKING)
        job.note("a notice")
        job.move(State.BUNDLING)
        for time_s in (1.0, 60.0, 119.0, 120.0):
            job.report(progress(int(time_s)))
        job.end(End(State.FAILED))
    assert [line["event"] for line in lines] == [
        *("job.started", "job.notice", "job.state", "job.progress", "job.progress"),
    ]
    assert [line["rate"] for line in lines[3:]] == [60, 120]
    assert lines[1]["notice"] == "a notice"
