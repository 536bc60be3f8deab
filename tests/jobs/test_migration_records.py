"""The journal's records of migrations: what is settled, the parts, the AMI, and what may still appear."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from amistream.errors import JobError
from amistream.events import State
from amistream.jobs.job import End, Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.migration_records import Migrating, MigrationRecord
from amistream.jobs.records import NextStep
from amistream.ports.registry import JOB_TAG, Registration
from amistream.request import parse_request
from amistream.settings import Acl

if TYPE_CHECKING:
    from pathlib import Path

    from amistream.ports.unanswered import Late

MIGRATING = Migrating(
    sizes=(3000, 100),
    region="us-west-2",
    endpoint_url="",
    acl=Acl.AWS_EXEC_READ,
    multipart_threshold=1 << 26,
    registration=Registration(name="web", location="bucket/web.manifest.xml", tags={JOB_TAG: "x"}),
)
LATE: Late = {"web.part.1": (4102444800.0,)}


async def entered(journal: Journal) -> Job:
    """A migration in the journal."""
    asked = {
        "kind": "migrate",
        "manifest": "s3://bucket/web.manifest.xml",
        "destinations": ["s3://another"],
        "region": "us-west-2",
    }
    job = Job(parse_request(asked))
    await journal.add(job.view(), job.request, confined=False, idempotency_key="")
    return job


def record() -> MigrationRecord:
    return MigrationRecord(migrating=MIGRATING, manifest=b"<manifest/>")


async def test_the_life_of_a_record(tmp_path: Path) -> None:
    """Each entry is found by the next process, until the job is over."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        assert await journal.migrations.find(job.id) is None
        await journal.migrations.begin(job.id, record())
        await journal.migrations.copying(job.id, 0, "web.part.0", {})
        await journal.migrations.copying(job.id, 1, "web.part.1", LATE)
        await journal.migrations.copied(job.id, 0, LATE)
    async with Journal(tmp_path, by_itself=True) as journal:
        found = await journal.migrations.find(job.id)
        assert found is not None
        assert (found.migrating, found.manifest, found.image) == (MIGRATING, b"<manifest/>", "")
        assert found.parts == {"web.part.0": True, "web.part.1": False}
        entry = await journal.claim(job.id)
        assert (entry.next_step, entry.kept, entry.late, entry.bundling) == (NextStep.KEPT, 2, {0: LATE}, None)
        await journal.migrations.copying(job.id, 1, "web.part.1", {})
        for image in (None, "ami-12345678"):
            await journal.migrations.registering(job.id, image, {})
            found = await journal.migrations.find(job.id)
            assert found is not None
            assert found.image == image
        await journal.end(job.view_at(End(State.DONE)))
        assert await journal.migrations.find(job.id) is None
        entry = await journal.claim(job.id)
        assert (entry.next_step, entry.kept, entry.late) == (NextStep.OVER, 0, {})


async def test_a_record_of_another_version(tmp_path: Path) -> None:
    """An unreadable record is reported when it is asked for."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.migrations.begin(job.id, record())
        with sqlite3.connect(tmp_path / FILE) as database:
            database.execute("UPDATE migrations SET settled = '{}'")
        database.close()
        with pytest.raises(JobError, match=f"cannot read job {job.id}") as caught:
            await journal.migrations.find(job.id)
        assert caught.value.code == "journal.version"


async def test_a_journal_from_before_migrations(tmp_path: Path) -> None:
    """A journal of version 4 is upgraded: its jobs stay, and migrations can be entered."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("DROP TABLE migrations")
        database.execute("PRAGMA user_version = 4")
    database.close()
    async with Journal(tmp_path, by_itself=True) as journal:
        await journal.claim(job.id)
        await journal.migrations.begin(job.id, record())
        assert await journal.migrations.find(job.id) == record()
