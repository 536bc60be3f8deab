"""The journal: every entry comes back as it was made, to the process that may have it, and no other user reads it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amistream.errors import AmistreamError, ConflictError, JobError, UsageError
from amistream.events import BundleResult, ErrorBody, JobKind, JobView, PlaceResult, State
from amistream.jobs import journal as journal_module
from amistream.jobs.conversion_records import Converting
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.journal_file import FILE
from amistream.jobs.records import JournalEntry, NextStep, SealedPart
from amistream.keys import BundleKey, load_certificate, wrap
from amistream.plan import Bundling, BundlingPlace, Plan
from amistream.ports.registry import JOB_TAG, Registration
from amistream.ports.snapshots import SnapshotOrder
from amistream.request import BundleRequest, parse_bundle_request
from amistream.stages.manifest import ImageFacts, WrappedKeys
from amistream.values import ArchiveResult, Checkpoint, Extent, GzipPlace, GzipResult, LeftOut, PartDigest, PartMark
from support.mounts import small_disk

if TYPE_CHECKING:
    from support.keys import KeyRing

VERSION_1 = Path(__file__).with_name("journal_version_1.sql")
"""Made by the last commit before job kinds: a job that is done, one that was bundling, and one that waited."""
VERSION_3 = Path(__file__).with_name("journal_version_3.sql")
"""Made by the last commit before conversions: jobs that are done, that was bundling, is being removed, and waited."""
REQUEST = parse_bundle_request({"source": "/volumes/a", "destinations": ["/bundles/a"]})
RESULT = BundleResult(
    manifest="s3://bucket/image.manifest.xml",
    image_id="ami-12345678",
    image_name="web",
    region="eu-west-1",
    image_size=9,
    bundled_size=7,
    parts=2,
    digest="00" * 20,
    elapsed_s=1.5,
    bottleneck="upload",
    advice="more uploads",
    compression={"zeros": 9},
    cpu_s=0.5,
    stages=(),
)
PLACE = PlaceResult(destination="/bundles/a", manifest="/bundles/a/image.manifest.xml")
WRAPPED = WrappedKeys(ec2_key=b"\x00\xff", ec2_iv=b"\x01\xfe", user_key=bytes(range(256)), user_iv=b"\n'\"")
REGISTRATION = Registration(
    location="bucket/image.manifest.xml",
    name="web",
    architecture="x86_64",
    virtualization="hvm",
    description="ein Abbild",
    kernel="aki-1",
    ramdisk="ari-1",
    sriov=True,
    ena=True,
    block_device_mappings={"ephemeral0": "sdb"},
    tags={"Team": "build"},
)
BUNDLING = Bundling(
    plan=Plan(
        prefix="image",
        part_size=16384,
        block_size=65536,
        workers=3,
        level=None,
        upload_concurrency=5,
        nice=7,
        extents=(Extent(offset=0, length=4096), Extent(offset=2**40, length=1)),
    ),
    image_size=2**40 + 1,
    mtime=1_700_000_000,
    facts=ImageFacts(
        prefix="image",
        user="123456789012",
        architecture="x86_64",
        kernel="aki-1",
        ramdisk="ari-1",
        product_codes=["A", "B"],
        ancestors=["ami-1"],
        part_names=["image.part.0"],
        block_device_mappings={"ami": "sda1"},
    ),
    places=(
        BundlingPlace(wrapped=WRAPPED, region="eu-west-1", registration=REGISTRATION),
        BundlingPlace(wrapped=WRAPPED, region="", registration=None),
    ),
)


CONVERTING = Converting(
    attempt=1,
    order=SnapshotOrder(token="ab" * 32, volume_gib=1, tags={JOB_TAG: "x"}),
    image_size=2**30,
    region="eu-west-1",
    endpoint_url="",
    registration=None,
)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def sealed(number: int, **changes: Any) -> SealedPart:
    place = GzipPlace(
        block=number,
        before=GzipResult(crc32=2**32 - 1, size_in=2**41, size_out=2**40),
        inside=number,
        inside_sha1=b"\xff" * 20,
    )
    checkpoint = Checkpoint(gzip=place, archive=ArchiveResult(size=2**41, sha1=b"\x00" * 20), chain=bytes(range(16)))
    part = SealedPart(
        digest=PartDigest(index=number, size=16384, sha1=bytes([number] * 20)),
        mark=PartMark(checkpoint=checkpoint, levels={number: 9, number + 1: 0}),
        checksum="abc=-2",
    )
    return part.model_copy(update=changes)


async def entered(journal: Journal, request: BundleRequest = REQUEST, **options: Any) -> Job:
    job = Job(request)
    await journal.add(job.view(), request, **{"confined": False, "idempotency_key": "", **options})
    return job


async def found(journal: Journal, job: Job) -> JournalEntry:
    entry = await journal.find(job.id)
    assert entry is not None
    return entry


async def test_a_job_comes_back_as_it_was_entered(tmp_path: Path) -> None:
    """Another process finds a job's request, state, key, name, next step and `by_itself`."""
    asked = {"source": "/volumes/ä", "destinations": ["s3://b-1/x"], "part_size": "1MiB", "tags": {"Team": "b'u\"ild"}}
    request = parse_bundle_request(asked)
    async with Journal(tmp_path, by_itself=True) as journal:
        key, name = "one'; DROP TABLE jobs; --", "web-2026-11-28"
        job = await entered(journal, request, confined=True, user=1234, idempotency_key=key, name=name)
        job.move(State.CHECKING)
        job.note("something worth knowing")
        await journal.update(job.view())
    async with Journal(tmp_path, by_itself=False) as journal:
        assert await journal.find("nobody") is None
        assert await journal.all() == [await found(journal, job)]
        assert await found(journal, job) == JournalEntry(
            kind=JobKind.BUNDLE,
            request=request,
            view=job.view(),
            next_step=NextStep.WAITING,
            by_itself=True,
            confined=True,
            user=1234,
            idempotency_key=key,
            name=name,
            bundling=None,
            manifests={},
            images={},
            done={},
            result=None,
            late={},
            failure=None,
            kept=0,
        )
        other = await entered(journal)
        entry = await found(journal, other)
        assert (entry.by_itself, entry.confined, entry.user, entry.idempotency_key) == (False, False, None, "")


async def test_bundling_comes_back_as_it_was_entered(tmp_path: Path) -> None:
    """The facts for later passes, every part with its mark, manifests and ended destinations come back whole."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job, other = await entered(journal), await entered(journal)
        await journal.begin(job.id, BUNDLING)
        for number in (0, 1, 2, 10):
            await journal.seal(job.id, sealed(number))
        await journal.seal(other.id, sealed(0))
        await journal.stored(job.id, 1)
        await journal.conclude(job.id, RESULT)
        await journal.commit(job.id, 1, b"<manifest>\x00\xff</manifest>")
        await journal.commit(job.id, 0, b"<manifest/>")
        await journal.commit(job.id, 0, b"<manifest>another</manifest>")
        await journal.done(job.id, 1, PLACE)
    async with Journal(tmp_path, by_itself=True) as journal:
        entry = await found(journal, job)
        assert entry.next_step is NextStep.KEPT
        assert entry.bundling == BUNDLING
        assert entry.manifests == {0: b"<manifest>another</manifest>", 1: b"<manifest>\x00\xff</manifest>"}
        assert (entry.done, entry.result, entry.kept) == ({1: PLACE}, RESULT, 4)
        assert await journal.parts(job.id) == [
            sealed(0),
            sealed(1, stored=True),
            sealed(2),
            sealed(10),
        ]
        assert len(await journal.parts(other.id)) == 1


BYTES = st.binary(max_size=20)
NUMBERS = st.integers(0, 2**63)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        SealedPart,
        digest=st.builds(PartDigest, index=st.integers(0, 99_999), size=NUMBERS, sha1=BYTES),
        checksum=st.text(max_size=9).filter(lambda text: text.isprintable()),
        mark=st.builds(
            PartMark,
            levels=st.dictionaries(st.integers(0, 99_999), st.integers(0, 9), max_size=3),
            checkpoint=st.none()
            | st.builds(
                Checkpoint,
                chain=BYTES,
                archive=st.builds(ArchiveResult, size=NUMBERS, sha1=BYTES),
                gzip=st.builds(
                    GzipPlace,
                    block=NUMBERS,
                    inside=NUMBERS,
                    inside_sha1=BYTES,
                    before=st.builds(GzipResult, crc32=st.integers(0, 2**32 - 1), size_in=NUMBERS, size_out=NUMBERS),
                ),
            ),
        ),
    )
)
def test_any_part_comes_back(part: SealedPart) -> None:
    """A part with any figures, digests and levels is read back as the same part."""
    assert SealedPart.model_validate_json(part.model_dump_json()) == part


async def test_beginning_anew_forgets_the_earlier_parts(tmp_path: Path) -> None:
    """Bundling that begins under a new key has none of the parts, manifests and results of the one before."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING)
        await journal.seal(job.id, sealed(0))
        await journal.conclude(job.id, RESULT)
        await journal.commit(job.id, 0, b"<manifest/>")
        later = BUNDLING.model_copy(update={"mtime": 5})
        await journal.begin(job.id, later)
        entry = await found(journal, job)
        assert (entry.bundling, entry.manifests, entry.result, entry.kept) == (later, {}, None, 0)
        await journal.seal(job.id, sealed(0))


async def test_a_reopened_job_is_bundled_again_and_nothing_put_is_forgotten(tmp_path: Path) -> None:
    """A reopened job has no result any more; its manifests stay, so that they can be removed."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING)
        await journal.conclude(job.id, RESULT)
        for number in (0, 1):
            await journal.commit(job.id, number, b"<manifest/>")
        await journal.reopen(job.id)
        entry = await found(journal, job)
        assert (entry.result, entry.manifests) == (None, {0: b"<manifest/>", 1: b"<manifest/>"})


async def test_a_part_is_entered_once(tmp_path: Path) -> None:
    """A second part under a number is refused: the entry of a sent part never changes."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.seal(job.id, sealed(3))
        with pytest.raises(JobError, match="UNIQUE"):
            await journal.seal(job.id, sealed(3, checksum="other"))
        assert await journal.parts(job.id) == [sealed(3)]


async def test_an_ended_job_leaves_its_view_only(tmp_path: Path) -> None:
    """A job that is over keeps its view; its records for later runs are deleted."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING)
        await journal.seal(job.id, sealed(0))
        await journal.commit(job.id, 0, b"<manifest/>")
        job.error = ErrorBody(code="a.b", message="cannot")
        job.move(State.FAILED)
        await journal.end(job.view())
        entry = await found(journal, job)
        assert (entry.next_step, entry.view, entry.request) == (NextStep.OVER, job.view(), REQUEST)
        assert (entry.bundling, entry.manifests, entry.result, entry.kept) == (None, {}, None, 0)
        assert await journal.parts(job.id) == []


def dated(number: int) -> JobView:
    """The view of a job that came `number` seconds after the others."""
    job = Job(REQUEST)
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return job.view().model_copy(update={"id": f"{created:%Y%m%d-%H%M%S}-abcdef", "created_at": created})


async def test_old_ended_jobs_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest jobs that are over are remembered; an unfinished job is never forgotten."""
    monkeypatch.setattr(journal_module, "REMEMBERED", 3)
    async with Journal(tmp_path, by_itself=True) as journal:
        views = [dated(number) for number in range(7)]
        for view in views:
            await journal.add(view, REQUEST, confined=False, idempotency_key="")
        await journal.begin(views[0].id, BUNDLING)
        await journal.seal(views[0].id, sealed(0))
        for view in views[2:]:
            await journal.end(view)
        left = [entry.view.id for entry in await journal.all()]
        assert left == [view.id for view in (views[0], views[1], *views[4:])]
        assert len(await journal.parts(views[0].id)) == 1


async def test_oldest_first_within_a_second(tmp_path: Path) -> None:
    """Jobs come back in the order in which they came, however close they came upon each other."""
    async with Journal(tmp_path, by_itself=True) as journal:
        jobs = [await entered(journal) for _ in range(12)]
        assert [entry.view.id for entry in await journal.all()] == [job.id for job in jobs]


async def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """The state directory that it makes is 0700 and each of its files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        async with Journal(tmp_path / "a" / "state", by_itself=True) as journal:
            await entered(journal)
            files = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "a" / "state").iterdir()}
            assert {FILE, f"{FILE}-wal", f"{FILE}-shm"} < set(files)
            assert set(files.values()) == {0o600}
            assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


async def test_no_secret_is_in_it(tmp_path: Path, key_ring: KeyRing) -> None:
    """Neither the bundle's key nor its IV is in any byte of the files, raw, in hex or in base64."""
    key = BundleKey.generate()
    user, ec2 = (load_certificate(pair.certificate, field="x") for pair in (key_ring.user, key_ring.ec2))
    wrapped = WrappedKeys(
        ec2_key=wrap(ec2, key.key),
        ec2_iv=wrap(ec2, key.iv),
        user_key=wrap(user, key.key),
        user_iv=wrap(user, key.iv),
    )
    place = BundlingPlace(wrapped=wrapped, region="", registration=None)
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING.model_copy(update={"places": (place,)}))
        await journal.seal(job.id, sealed(0))
        whole = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"places" in whole
    for secret in (key.key.reveal(), key.iv.reveal()):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), b64(secret)):
            assert form not in whole


def b64(data: bytes) -> bytes:
    return subprocess.run(["base64", "-w0"], input=data, capture_output=True, check=True).stdout.rstrip(b"=")[:-1]


ANOTHER = """
import asyncio, sys
from pathlib import Path
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.request import parse_bundle_request

async def main():
    async with Journal(Path(sys.argv[1]), by_itself=True) as journal:
        request = parse_bundle_request({"source": "/volumes/a", "destinations": ["/bundles/a"]})
        job = Job(request)
        await journal.add(job.view(), request, confined=False, idempotency_key="")
        print(job.id, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@contextmanager
def another_process(state_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a journal of its own in the same directory, and the id of the job that it runs."""
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


async def test_a_living_process_keeps_its_jobs(tmp_path: Path) -> None:
    """The job of a living process is not listed for other processes, and they cannot claim it."""
    with another_process(tmp_path) as (process, job_id):
        async with Journal(tmp_path, by_itself=True) as journal:
            own = await entered(journal)
            assert [entry.view.id for entry in await journal.all()] == [own.id]
            assert await journal.find(job_id) is not None
            with pytest.raises(ConflictError, match="another process is running it") as caught:
                await journal.claim(job_id)
            assert caught.value.code == "job.running_elsewhere"
            await journal.claim(own.id)
            process.kill()
            process.wait()
            await journal.claim(job_id)
            assert {entry.view.id for entry in await journal.all()} == {own.id, job_id}


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "ended well"])
async def test_a_gone_process_leaves_its_jobs(end: signal.Signals | None, tmp_path: Path) -> None:
    """The job of a dead process belongs to the next process that claims it, and then to no other."""
    with another_process(tmp_path) as (process, job_id):
        if end is None:
            process.communicate("")
        else:
            process.send_signal(end)
        process.wait()
    async with Journal(tmp_path, by_itself=True) as journal, Journal(tmp_path, by_itself=True) as late:
        assert [entry.view.id for entry in await journal.all()] == [job_id]
        await journal.claim(job_id)
        with pytest.raises(ConflictError):
            await late.claim(job_id)
        assert await late.all() == []
    assert [path.name for path in tmp_path.glob("*.lock")] == []


async def test_two_that_claim_at_once(tmp_path: Path) -> None:
    """One of several processes that claim a job at the same moment gets it."""
    with another_process(tmp_path) as (process, job_id):
        process.kill()
        process.wait()
    async with Journal(tmp_path, by_itself=True) as one, Journal(tmp_path, by_itself=True) as two:
        claims = await asyncio.gather(one.claim(job_id), two.claim(job_id), return_exceptions=True)
        assert sorted(type(claim).__name__ for claim in claims) == ["ConflictError", "JournalEntry"]


async def test_a_job_that_nobody_knows_is_not_claimed(tmp_path: Path) -> None:
    """An unknown id cannot be claimed."""
    async with Journal(tmp_path, by_itself=True) as journal:
        with pytest.raises(ConflictError):
            await journal.claim("nobody")


async def test_ended_jobs_of_a_living_process_are_listed(tmp_path: Path) -> None:
    """Jobs that are over are listed in every process."""
    async with Journal(tmp_path, by_itself=True) as one, Journal(tmp_path, by_itself=True) as two:
        job = await entered(one)
        assert await two.all() == []
        job.move(State.CANCELLED)
        await one.end(job.view())
        assert [entry.view for entry in await two.all()] == [job.view()]


async def fill(journal: Journal) -> JobError:
    """Enter jobs until one cannot be."""
    while True:
        try:
            await entered(journal, idempotency_key="x" * 20_000)
        except JobError as error:
            return error


async def test_disk_full(tmp_path: Path) -> None:
    """A full disk is reported with the directory; entries stay, and the journal continues once there is space."""
    with small_disk(tmp_path / "disk", "512k") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(128 * 1024))
        async with Journal(disk / "state", by_itself=True) as journal:
            job = await entered(journal)
            error = await fill(journal)
            assert error.code == "journal.full"
            assert error.message == f"cannot keep the journal {disk / 'state' / FILE}: database or disk is full"
            assert error.hint == f"free some space: df -h {disk / 'state'}"
            count = len(await journal.all())
            assert count > 1
            ballast.unlink()
            await entered(journal)
        async with Journal(disk / "state", by_itself=True) as journal:
            assert len(await journal.all()) == count + 1
            assert (await found(journal, job)).view == job.view()


async def test_disk_full_from_the_start(tmp_path: Path) -> None:
    """A journal that cannot be created on a full disk reports it, and leaves no lock file."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        (disk / "ballast").write_bytes(bytes(64 * 1024 - 8192))
        open_before = open_files()
        for _ in range(3):
            with pytest.raises(JobError) as caught:
                async with Journal(disk, by_itself=True):
                    pass
            assert caught.value.code == "journal.full"
            assert "df -h" in caught.value.hint
        assert list(disk.glob("*.lock")) == []
        assert open_files() == open_before


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from amistream.errors import JobError
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.request import parse_bundle_request

async def main():
    request = parse_bundle_request({"source": "/volumes/a", "destinations": ["/bundles/a"]})
    async with Journal(Path(sys.argv[1]), by_itself=True) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            while True:
                job = Job(request)
                await journal.add(job.view(), request, confined=False, idempotency_key="x" * 20_000)
        except JobError as error:
            print(error.code, error, sep="\\n")
        print(len(await journal.all()))

asyncio.run(main())
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """Any other failure of the disk is reported with the file and the directory; entries stay."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    code, message, hint, count = done.stdout.splitlines()
    assert code == "journal.failed"
    assert message.startswith(f"cannot keep the journal {tmp_path / FILE}: ")
    assert hint == f"check the state directory: ls -la {tmp_path}; state_dir names it"
    assert int(count) > 0


async def test_what_is_no_journal(tmp_path: Path) -> None:
    """A directory in place of the journal is reported, and stays as it is."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(JobError, match=f"cannot keep the journal {tmp_path / FILE}") as caught:
        async with Journal(tmp_path, by_itself=True):
            pass
    assert caught.value.code == "journal.failed"


async def test_what_came_of_a_registration(tmp_path: Path) -> None:
    """No AMI is made before one is asked for; its id stays known, and is unknown during another attempt."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING)
        for number in range(3):
            await journal.commit(job.id, number, b"<manifest/>")
        await journal.registering(job.id, 0, "ami-12345678")
        await journal.registering(job.id, 1, "")
        await journal.commit(job.id, 0, b"<manifest />")
        entry = await found(journal, job)
        assert entry.images == {0: "ami-12345678", 1: "", 2: ""}
        assert entry.manifests[0] == b"<manifest />"
        await journal.registering(job.id, 1, None)
        assert (await found(journal, job)).images == {0: "ami-12345678", 2: ""}


async def test_a_journal_from_before_registrations_were_entered(tmp_path: Path) -> None:
    """An early journal of version 1 is upgraded: nothing is known of its registrations."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, BUNDLING)
        await journal.commit(job.id, 0, b"<manifest/>")
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("ALTER TABLE places DROP COLUMN image")
        database.execute("ALTER TABLE jobs DROP COLUMN kind")
        database.execute("PRAGMA user_version = 1")
    database.close()
    async with Journal(tmp_path, by_itself=True) as journal:
        entry = await found(journal, job)
        assert (entry.manifests, entry.images) == ({0: b"<manifest/>"}, {})
        await journal.registering(job.id, 0, "ami-12345678")
        assert (await found(journal, job)).images == {0: "ami-12345678"}


async def test_a_plan_that_leaves_out_free_blocks(tmp_path: Path) -> None:
    """The ranges to read and what they leave out are recorded with the plan."""
    used = (Extent(offset=1024, length=512), Extent(offset=2**40, length=1))
    left_out = LeftOut(holes=1, free=2, preallocated=3, unused_inodes=4)
    bundling = BUNDLING.model_copy(update={"plan": replace(BUNDLING.plan, used=used, left_out=left_out)})
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        await journal.begin(job.id, bundling)
        assert (await found(journal, job)).bundling == bundling


async def test_a_journal_of_version_1(tmp_path: Path) -> None:
    """Every job of a journal of version 1 is read whole, as a bundle job, and can be continued."""
    with sqlite3.connect(tmp_path / FILE) as database:
        database.executescript(VERSION_1.read_text())
    database.close()
    for _ in range(2):
        async with Journal(tmp_path, by_itself=True) as journal:
            done, kept, waiting = await journal.all()
            assert {job.kind for job in (done, kept, waiting)} == {JobKind.BUNDLE}
            assert {job.view.kind for job in (done, kept, waiting)} == {JobKind.BUNDLE}
            assert (done.next_step, done.view.state, done.view.result) == (NextStep.OVER, State.DONE, RESULT)
            assert (done.idempotency_key, done.request) == ("nightly", REQUEST)
            assert (kept.next_step, kept.view.state, kept.confined) == (NextStep.KEPT, State.BUNDLING, True)
            assert kept.user is None
            assert (kept.bundling, kept.manifests, kept.done) == (BUNDLING, {0: b"<manifest/>"}, {0: PLACE})
            assert (kept.images, kept.kept) == ({0: "ami-12345678"}, 3)
            parts = [sealed(0, stored=True), sealed(1, stored=True), sealed(2)]
            assert await journal.parts(kept.view.id) == parts
            assert (waiting.next_step, waiting.view.state, waiting.bundling) == (NextStep.WAITING, State.QUEUED, None)
    async with Journal(tmp_path, by_itself=True) as journal:
        await journal.claim(kept.view.id)
        await journal.stored(kept.view.id, 2)
        assert [part.stored for part in await journal.parts(kept.view.id)] == [True] * 3
        new = await entered(journal)
        assert [job.view.id for job in await journal.all()][-1] == new.id


async def test_a_journal_of_version_3(tmp_path: Path) -> None:
    """Every job of a journal of version 3 is read whole, can be continued, and new conversions can be entered."""
    with sqlite3.connect(tmp_path / FILE) as database:
        database.executescript(VERSION_3.read_text())
    database.close()
    for _ in range(2):
        async with Journal(tmp_path, by_itself=True) as journal:
            done, kept, cleaning, waiting = await journal.all()
            assert (done.next_step, done.view.state, done.view.result) == (NextStep.OVER, State.DONE, RESULT)
            assert (done.idempotency_key, done.request) == ("nightly", REQUEST)
            assert (kept.next_step, kept.view.state, kept.confined) == (NextStep.KEPT, State.BUNDLING, True)
            assert (kept.bundling, kept.manifests, kept.done) == (BUNDLING, {0: b"<manifest/>"}, {0: PLACE})
            assert (kept.images, kept.kept) == ({0: "ami-12345678"}, 3)
            parts = [sealed(0, stored=True), sealed(1, stored=True), sealed(2)]
            assert await journal.parts(kept.view.id) == parts
            assert (cleaning.next_step, cleaning.kept, cleaning.user) == (NextStep.CLEANING, 1, None)
            assert cleaning.failure == ErrorBody(code="source.failed", message="cannot read it")
            assert cleaning.late == {0: {"image.part.0": (4102444800.0,)}}
            assert {job.name for job in (done, kept, cleaning, waiting)} == {""}
            assert (waiting.next_step, waiting.view.state, waiting.bundling) == (NextStep.WAITING, State.QUEUED, None)
            assert [await journal.conversions.find(each.view.id) for each in (done, kept)] == [None, None]
    async with Journal(tmp_path, by_itself=True) as journal:
        new = await entered(journal)
        await journal.conversions.begin(new.id, CONVERTING)
        await journal.conversions.stored(new.id, [(7, bytes(32))])
        assert [job.kept for job in await journal.all()] == [0, 3, 1, 0, 1]


async def test_an_older_version_refuses_it(tmp_path: Path) -> None:
    """A journal is of version 7 from its first opening on: amistream without `refused` accepts up to 6."""
    async with Journal(tmp_path, by_itself=True):
        pass
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (7,)
    database.close()


async def test_two_that_upgrade_at_once(tmp_path: Path) -> None:
    """An older journal that several processes open at the same moment is upgraded once."""
    with sqlite3.connect(tmp_path / FILE) as database:
        database.executescript(VERSION_1.read_text())
    database.close()

    async def opened() -> int:
        async with Journal(tmp_path, by_itself=True) as journal:
            return len(await journal.all())

    assert await asyncio.gather(*(opened() for _ in range(8))) == [3] * 8


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET request = json_set(request, '$.invented', 1) WHERE id = ?",
        "UPDATE jobs SET user = 'x' WHERE id = ?",
    ],
)
async def test_a_job_of_another_version(statement: str, tmp_path: Path) -> None:
    """An unreadable job stays as it is, is reported when it is asked for, and does not hide the others."""
    async with Journal(tmp_path, by_itself=True) as journal:
        strange, plain = await entered(journal), await entered(journal)
    with sqlite3.connect(tmp_path / FILE) as database:
        row = (strange.id,)
        database.execute(statement, row)
        before = database.execute("SELECT * FROM jobs WHERE id = ?", row).fetchall()
    database.close()
    async with Journal(tmp_path, by_itself=True) as journal:
        assert [entry.view.id for entry in await journal.all()] == [plain.id]
        for asked in (journal.find, journal.claim):
            with pytest.raises(JobError, match=f"cannot read job {strange.id} in the journal") as caught:
                await asked(strange.id)
            assert caught.value.code == "journal.version"
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT * FROM jobs WHERE id = ?", row).fetchall() == before
    database.close()


async def test_another_version(tmp_path: Path) -> None:
    """A journal of another version of the program is left as it is, and nothing is left behind."""
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE jobs (something_else)")
    database.close()
    descriptors = open_files()
    with pytest.raises(UsageError, match=r"another version of amistream made it \(99\)") as caught:
        async with Journal(tmp_path, by_itself=True):
            pass
    assert (caught.value.code, caught.value.exit_status) == ("journal.version", 2)
    assert "state_dir" in caught.value.hint
    assert list(tmp_path.glob("*.lock")) == []
    assert open_files() == descriptors
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT sql FROM sqlite_master").fetchall() == [("CREATE TABLE jobs (something_else)",)]
    database.close()


async def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    """A state directory that is a file is reported."""
    (tmp_path / "file").touch()
    with pytest.raises(AmistreamError, match="cannot keep the journal"):
        async with Journal(tmp_path / "file" / "state", by_itself=True):
            pass


async def test_a_cancel_does_not_tear_an_entry(tmp_path: Path) -> None:
    """A cancelled call leaves its entry whole or not made, and the journal stays usable."""
    async with Journal(tmp_path, by_itself=True) as journal:
        job = await entered(journal)
        for number in range(30):
            task = asyncio.create_task(journal.seal(job.id, sealed(number)))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
        await journal.seal(job.id, sealed(99))
        parts = await journal.parts(job.id)
        assert [sealed(part.digest.index) for part in parts] == parts
        assert parts[-1] == sealed(99)


async def test_the_lock_file_of_a_process_that_is_gone_goes(tmp_path: Path) -> None:
    """Opening the journal removes the lock files of processes that are gone, and no other."""
    (tmp_path / "runner-gone.lock").touch()
    async with Journal(tmp_path, by_itself=True):
        living = list(tmp_path.glob("*.lock"))
        async with Journal(tmp_path, by_itself=True):
            assert len(list(tmp_path.glob("*.lock"))) == 2
        assert list(tmp_path.glob("*.lock")) == living
    assert list(tmp_path.glob("*.lock")) == []


async def test_a_damaged_journal_in_use_stays(tmp_path: Path) -> None:
    """A damaged journal is not moved away under another process."""
    async with Journal(tmp_path, by_itself=True):
        with sqlite3.connect(tmp_path / FILE) as database:
            database.execute("DROP TABLE parts")
        database.close()
        with pytest.raises(JobError, match="it lacks") as caught:
            async with Journal(tmp_path, by_itself=True):
                pass
        assert "end every process of amistream" in caught.value.hint
    assert list(tmp_path.glob("*damaged*")) == []


@pytest.mark.parametrize("cut", [0, 1, 100, 4096 + 24])
async def test_a_log_that_a_crash_cut_off_has_lost_nothing(cut: int, tmp_path: Path) -> None:
    """A log without its end, or with the rest of an earlier round behind it, is not taken for a damaged one."""
    async with Journal(tmp_path / "one", by_itself=True) as journal:
        with sqlite3.connect(tmp_path / "one" / FILE) as database:
            for _ in range(3):
                await entered(journal)
            database.execute("PRAGMA wal_checkpoint(RESTART)")
            await entered(journal)
        shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
        database.close()
    log = tmp_path / "two" / f"{FILE}-wal"
    os.truncate(log, log.stat().st_size - cut)
    async with Journal(tmp_path / "two", by_itself=True) as journal:
        assert journal.notices == ()
        assert len(await journal.all()) == 4
