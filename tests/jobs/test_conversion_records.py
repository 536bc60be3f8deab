"""The journal's records of conversions: all comes back as it was entered, and a large snapshot stays cheap."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from amistream.errors import JournalError
from amistream.events import State
from amistream.jobs.conversion_records import ConversionRecord, Converting
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.records import NextStep
from amistream.ports.registry import JOB_TAG, Registration
from amistream.ports.snapshots import SnapshotOrder
from amistream.request import parse_request
from jobs.converting import RESULT

REQUEST = parse_request({"kind": "convert", "source": "/volumes/ä", "ami_name": "web"})
CONVERTING = Converting(
    attempt=2,
    order=SnapshotOrder(
        token="ab" * 32,
        volume_gib=65536,
        description="ein Abbild",
        tags={JOB_TAG: "20261128-093001-d0d0d0", "Team": "b'u\"ild"},
        encrypted=True,
        kms_key_id="alias/ebs",
        timeout_min=1440,
    ),
    image_size=2**46 - 1,
    region="eu-west-1",
    endpoint_url="http://127.0.0.1:1",
    registration=Registration(name="web", architecture="x86_64", virtualization="hvm", tags={JOB_TAG: "x"}),
)


async def entered(journal: Journal) -> Job:
    job = Job(REQUEST)
    await journal.add(job.view(), REQUEST, confined=False, idempotency_key="")
    return job


def digest(index: int, version: int = 0) -> bytes:
    return sha256(f"{index} {version}".encode()).digest()


async def test_a_conversion_comes_back_as_it_was_entered(tmp_path: Path) -> None:
    """Another process finds each step: what was settled, the snapshot, the AMI, and what the snapshot holds."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records, job = journal.conversions, await entered(journal)
        assert await records.find(job.id) is None
        await records.begin(job.id, CONVERTING)
        expected = ConversionRecord(converting=CONVERTING, snapshot=None)
        assert await records.find(job.id) == expected
        entry = await journal.find(job.id)
        assert entry is not None
        assert (entry.next_step, entry.kept, entry.request) == (NextStep.KEPT, 0, REQUEST)
        await records.started(job.id, "snap-0123456789abcdef0", 1e9)
        await records.registering(job.id, None)
        await records.conclude(job.id, RESULT)
    async with Journal(tmp_path, by_itself=True) as journal:
        found = await journal.conversions.find(job.id)
        assert found == replace(expected, snapshot="snap-0123456789abcdef0", started_at=1e9, image=None, result=RESULT)


async def test_blocks_come_back(tmp_path: Path) -> None:
    """Stored blocks have the SHA-256 that was stored last; blocks that were about to be sent since have none."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records, job, other = journal.conversions, await entered(journal), await entered(journal)
        await records.begin(job.id, CONVERTING)
        await records.intend(job.id, range(6))
        await records.stored(job.id, [(index, digest(index)) for index in (3, 0, 1, 4)])
        await records.intend(job.id, [1, 3, 2**32 - 1])
        await records.stored(job.id, [(3, digest(3, 1))])
        await records.stored(other.id, [(9, digest(9))])
        sent_since = dict.fromkeys((1, 2, 5, 2**32 - 1))
        assert dict(await records.blocks(job.id)) == {0: digest(0), 3: digest(3, 1), 4: digest(4), **sent_since}
        assert [entry.kept for entry in await journal.all()] == [5, 1]


async def test_another_attempt_begins_without_blocks(tmp_path: Path) -> None:
    """A new attempt forgets the blocks, the snapshot and the result of the one before."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records, job = journal.conversions, await entered(journal)
        await records.begin(job.id, CONVERTING)
        await records.started(job.id, "snap-0123456789abcdef0", 1.0)
        await records.stored(job.id, [(0, digest(0))])
        await records.conclude(job.id, RESULT)
        again = CONVERTING.model_copy(update={"attempt": 3})
        await records.begin(job.id, again)
        assert await records.find(job.id) == ConversionRecord(converting=again, snapshot=None)
        assert [*await records.blocks(job.id)] == []


async def test_the_end_deletes_all(tmp_path: Path) -> None:
    """Nothing about blocks and snapshots stays in the journal once the job is over."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records, job = journal.conversions, await entered(journal)
        await records.begin(job.id, CONVERTING)
        await records.stored(job.id, [(0, digest(0))])
        job.move(State.CANCELLED)
        await journal.end(job.view())
        assert await records.find(job.id) is None
        assert [*await records.blocks(job.id)] == []
        (entry,) = await journal.all()
        assert (entry.kept, entry.view) == (0, job.view())


async def test_64_gib_stay_cheap(tmp_path: Path) -> None:
    """The blocks of a snapshot of 64 GiB take less than 6 MiB in the journal, in batches as they are sent."""
    async with Journal(tmp_path, by_itself=True) as journal:
        records, job = journal.conversions, await entered(journal)
        await records.begin(job.id, CONVERTING)
        for first in range(0, 131_072, 4096):
            indices = range(first, first + 4096)
            await records.intend(job.id, indices)
            await records.stored(job.id, [(index, bytes(31) + b"\1") for index in indices])
        known = [*await records.blocks(job.id)]
        assert len(known) == 131_072
        assert all(known_digest for _, known_digest in known)
    assert (tmp_path / FILE).stat().st_size < 6 << 20


@pytest.mark.parametrize(
    ("method", "damage"),
    [("find", "UPDATE conversions SET settled = '{}'"), ("blocks", "UPDATE blocks SET run = x'00' WHERE stored")],
)
async def test_unreadable_records(method: str, damage: str, tmp_path: Path) -> None:
    """Records that cannot be read are reported with the job's id."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.conversions.begin(job.id, CONVERTING)
        await journal.conversions.stored(job.id, [(0, digest(0))])
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(damage)
    database.close()
    async with Journal(tmp_path, by_itself=True) as journal:
        with pytest.raises(JournalError, match=f"cannot read job {job.id} in the journal"):
            await getattr(journal.conversions, method)(job.id)
