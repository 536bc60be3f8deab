"""The real daemon over a journal that is damaged, removed, or cannot be written: it serves, and says what is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.records import NextStep
from daemon.test_main import Process, run, running
from jobs.queueing import left_behind, request

JOURNAL = Path("state") / FILE
NEVER_OVER = "CREATE TRIGGER t BEFORE UPDATE ON jobs WHEN NEW.fate = 'over' BEGIN SELECT RAISE(ABORT, 'no space'); END"
NEVER_TAKEN = "CREATE TRIGGER t BEFORE UPDATE OF runner ON jobs BEGIN SELECT RAISE(ABORT, 'no space'); END"


def change(path: Path, statement: str) -> None:
    """Change a journal as a damaged or full disk would: by a table that is gone, by a write that fails."""
    with closing(sqlite3.connect(path, timeout=60)) as database, database:
        database.execute(statement)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def submit(process: Process, directory: Path, source: str = "disk.img") -> dict[str, Any]:
    """Submit a job whose volume is not there."""
    body = {"source": str(directory / source), "destinations": [str(directory / source / "out")]}
    return process.curl("/v1/jobs", "-d", json.dumps(body))


def ended(process: Process, job: dict[str, Any]) -> dict[str, Any]:
    """Wait for the last event of the job, then show it."""
    subprocess.run(
        ["curl", "-sN", "--unix-socket", str(process.socket), f"http://d/v1/jobs/{job['id']}/events"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return process.curl(f"/v1/jobs/{job['id']}")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no database": lambda path: overwrite(path, 0, b"not a database"),
    "a damaged page": lambda path: overwrite(path, 4096, b"\xff" * (path.stat().st_size - 4096)),
    "no table": lambda path: change(path, "DROP TABLE parts"),
    "no column": lambda path: change(path, "ALTER TABLE places DROP COLUMN done"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_moved_aside(damage: str, tmp_path: Path) -> None:
    """The daemon starts with a new journal, names the damaged one in log and health, and works."""
    asyncio.run(left_behind(tmp_path / "state", NextStep.KEPT, state=State.BUNDLING))
    DAMAGES[damage](tmp_path / JOURNAL)
    content = (tmp_path / JOURNAL).read_bytes()
    process = Process(tmp_path)
    try:
        logged = process.wait_logged("journal.damaged")
        process.wait_logged("daemon.ready")
        (aside,) = (tmp_path / "state").glob(f"{FILE}.damaged-*")
        assert str(aside) in logged["reason"]
        assert "--orphans" in logged["hint"]
        assert aside.read_bytes() == content
        assert process.curl("/v1/health")["notices"] == [logged["reason"]]
        assert process.curl("/v1/jobs") == {"jobs": []}
        assert ended(process, submit(process, tmp_path))["state"] == "refused"
        assert process.stop() == 0
    finally:
        process.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_damaged_log_is_reported(damaged: bool, tmp_path: Path) -> None:
    """A job that only the write-ahead log held is there after a crash, or its loss is reported."""
    (tmp_path / "state").mkdir(mode=0o700)

    async def crash() -> None:
        async with Journal(tmp_path / "dead", by_itself=True) as journal:
            job = Job(request("a"))
            await journal.add(job.view(), job.request, confined=False, idempotency_key="")
            for suffix in ("", "-wal"):
                shutil.copy(tmp_path / "dead" / f"{FILE}{suffix}", tmp_path / f"{JOURNAL}{suffix}")

    asyncio.run(crash())
    if damaged:
        log = tmp_path / f"{JOURNAL}-wal"
        overwrite(log, log.stat().st_size // 2, b"\xff\x00\xff")
    with running(tmp_path, AMISTREAM_RESUME_ON_START="false") as process:
        notices = process.curl("/v1/health")["notices"]
        assert len(process.curl("/v1/jobs")["jobs"]) == (0 if damaged else 1)
        assert [("the newest entries are lost" in notice) for notice in notices] == [True] * damaged
        assert len(list((tmp_path / "state").glob(f"{FILE}.damaged-*-wal"))) == damaged


def test_a_job_that_cannot_be_taken_up_does_not_stop_the_daemon(tmp_path: Path) -> None:
    """The daemon starts, the job has a notice with the cause, and can be resumed once the journal can be written."""
    left = asyncio.run(left_behind(tmp_path / "state", NextStep.KEPT, state=State.BUNDLING))
    change(tmp_path / JOURNAL, NEVER_TAKEN)
    with running(tmp_path) as process:
        job = process.curl(f"/v1/jobs/{left.id}")
        assert (job["state"], job["resumable"]) == ("interrupted", True)
        assert "not taken up again" in job["notices"][-1]
        assert "no space" in job["notices"][-1]
        change(tmp_path / JOURNAL, "DROP TRIGGER t")
        assert process.curl(f"/v1/jobs/{left.id}/resume", "-X", "POST")["state"] == "queued"
        ended(process, job)


def test_a_journal_that_is_held_ends_the_daemon_with_its_cause(tmp_path: Path) -> None:
    """A journal that another program holds is one message, and a status on which systemd tries again."""
    asyncio.run(left_behind(tmp_path / "state", NextStep.KEPT, state=State.BUNDLING))
    with closing(sqlite3.connect(tmp_path / JOURNAL)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        done = run("--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "state")
    assert done.returncode == 4
    assert "database is locked" in done.stderr
    assert "fuser" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_removed_state_directory_takes_no_jobs(tmp_path: Path) -> None:
    """A job that no later process could find is refused with the cause."""
    with running(tmp_path) as process:
        shutil.rmtree(tmp_path / "state")
        error = submit(process, tmp_path)["error"]
        assert error["code"] == "journal.gone"
        assert "it was removed or replaced" in error["message"]
        assert "systemctl restart amistream" in error["hint"]
        assert process.curl("/v1/jobs") == {"jobs": []}


def test_an_end_that_is_not_recorded_is_not_announced(tmp_path: Path) -> None:
    """A refusal that cannot be recorded is an interruption with both causes; the next start ends it for good."""
    with running(tmp_path) as process:
        change(tmp_path / JOURNAL, NEVER_OVER)
        ids = [submit(process, tmp_path, name)["id"] for name in ("one", "other")]
        for job in [ended(process, {"id": each}) for each in ids]:
            assert (job["state"], job["resumable"], job["error"]["code"]) == ("interrupted", True, "journal.failed")
            assert "is refused (cannot bundle" in job["error"]["message"]
            assert "no space" in job["error"]["message"]
            assert "the next start finds the job unfinished" in job["error"]["hint"]
        change(tmp_path / JOURNAL, "DROP TRIGGER t")
        # One is given up, as the hint says; the other is left to the next start, which finishes its removal.
        process.curl(f"/v1/jobs/{ids[0]}", "-X", "DELETE")
        assert ended(process, {"id": ids[0]})["state"] == "cancelled"
        assert process.stop() == 0
    with running(tmp_path) as process:
        assert [ended(process, {"id": each})["state"] for each in ids] == ["cancelled", "failed"]
