"""Migrations as jobs in this process: their results, how they go on, and what they leave."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.bundles.meter import Meter
from amistream.bundles.migrate import MigrationRequest
from amistream.bundles.session import BundleSession
from amistream.events import JobKind, State
from amistream.jobs.job import Job
from amistream.jobs.queue import open_queue
from amistream.jobs.records import NextStep
from amistream.ports.registry import JOB_TAG
from amistream.settings import OnStop
from bundles.made import put_files
from faults.scene import quick_settings, turns
from jobs.leases import LentJob
from jobs.migrating import MANIFEST, NAME, REGION, Migrations
from jobs.runs import DENIED, REGISTER, at_state
from support.buckets import list_keys
from support.proxy import Answer, PauseReply, PauseRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from amistream.jobs.queue import JobQueue
    from amistream.settings import Settings
    from jobs.runs import Cloud, MakeScene, Scene
    from support.keys import KeyRing
    from support.proxy import Action, Fault

SIZES = [3000, 3000, 3000, 100]
KEEP = pytest.mark.parametrize("keep", [False, True], ids=["cancelled", "interrupted"])
MANIFEST_PATH = rf".*/x/{MANIFEST}"
LARGE = 6_500_000
CHUNKED: dict[str, Any] = {"multipart_threshold": "5MiB", "multipart_chunk": "5MiB", "upload_concurrency": 1}
LEAST_STEPS = 15
CLAIM = f"{NAME}.claim"
HELD: list[Action] = [PauseRequest(), PauseReply()]


@pytest.fixture
async def scene(make_scene: MakeScene) -> AsyncIterator[Scene]:
    """An engine that copies one part after the other."""
    async with make_scene(upload_concurrency=1) as opened:
        yield opened


@pytest.fixture
def migrations(cloud: Cloud, key_ring: KeyRing, tmp_path: Path) -> Migrations:
    return Migrations.of(cloud, key_ring, tmp_path, SIZES)


def part(number: int) -> str:
    """The path of a part at the target, as a fault wants it."""
    return rf".*/x/.*\.part\.{number}"


async def test_a_migration(scene: Scene, migrations: Migrations) -> None:
    """The job ends with the result of the command, a bundle that the other EC2 can open, and its own AMI."""
    job = await scene.run(migrations.request())
    result = migrations.fits(job)
    view = job.view()
    target = f"s3://{migrations.cloud.bucket}/x"
    assert (view.kind, view.source, view.destinations) == (JobKind.MIGRATE, migrations.source, (target,))
    assert (result.parts, result.kept, result.copied, result.region) == (4, 0, 4, REGION)
    assert result.image is not None
    (image,) = migrations.cloud.images(migrations.image_name)
    assert {"Key": JOB_TAG, "Value": job.id} in image["Tags"]
    assert job.progress is not None
    assert (job.progress.stored_share, job.progress.parts_stored, job.progress.parts_made) == (1.0, 4, 4)
    assert job.progress.bytes_stored == job.progress.bytes_total == result.bundled_size
    assert await scene.next_step(job) is NextStep.OVER
    assert await scene.journal.migrations.find(job.id) is None
    entry = await scene.journal.find(job.id)
    assert entry is not None
    assert (entry.view.result, entry.kept, entry.late) == (result, 0, {})
    request = MigrationRequest(
        region=REGION,
        certificate=migrations.keys.user.certificate,
        private_key=migrations.keys.user.key,
        ec2_certificate=migrations.keys.stranger.certificate,
    )
    settings = scene.settings.model_copy(update={"endpoint_url": migrations.cloud.proxy.url})
    async with Aws(settings) as aws:
        session = BundleSession(settings, aws, lambda _: None)
        command = await session.migrate(migrations.source, f"{target}/too", Meter(), request)
    different = {"manifest": "", "elapsed_s": 0, "image": None}
    assert result.model_copy(update=different) == command.model_copy(update=different)


async def test_parts_that_the_store_does_not_copy(scene: Scene, migrations: Migrations) -> None:
    """Parts without a checksum at the source go through this machine; nothing is registered unless it is asked for."""
    put_files(migrations.cloud.endpoint, migrations.cloud.second, migrations.made, "old/")
    job = await scene.run(migrations.plain(manifest=migrations.source.replace("/a/", "/old/")))
    result = migrations.fits(job)
    assert (result.copied, result.image) == (0, None)


@KEEP
@pytest.mark.parametrize(
    ("method", "fits"),
    [
        ("update", at_state(State.CHECKING)),
        ("migrations.begin", lambda *_: True),
        ("update", at_state(State.COPYING)),
        ("migrations.copying", lambda _, number, *__: number == 1),
        ("migrations.copied", lambda _, number, *__: number == 2),
        ("update", at_state(State.COMMITTING)),
        ("late", lambda *_: True),
        ("update", at_state(State.REGISTERING)),
        ("migrations.registering", lambda *_: True),
        ("migrations.registering", lambda _, image_id, __: image_id is not None),
    ],
)
async def test_stopped_at_each_entry(
    method: str, fits: Callable[..., bool], keep: bool, scene: Scene, migrations: Migrations
) -> None:
    """A cancel at an entry of the journal leaves nothing; an interrupt there is continued to one right bundle."""
    job = await scene.enter(migrations.request())
    with scene.held(method, fits) as call:
        await scene.stopped(job, call, keep=keep)
    if keep:
        assert (job.state, job.resumable) == (State.INTERRUPTED, True)
        migrations.fits(await scene.again(job))
        assert migrations.sent() == migrations.parts
    else:
        assert (job.state, job.resumable) == (State.CANCELLED, False), job.notices
        assert migrations.left() == []
        assert await scene.next_step(job) is NextStep.OVER


@pytest.mark.parametrize("method", ["begin", "copying", "copied", "registering", "find"])
async def test_a_journal_that_fails(method: str, scene: Scene, migrations: Migrations) -> None:
    """A migration that cannot be recorded leaves nothing, or keeps its parts for a later run."""
    with scene.failing(f"migrations.{method}"):
        job = await scene.run(migrations.request())
    assert job.error is not None
    assert (job.state in {State.FAILED, State.REFUSED}, job.error.code) == (True, "journal.full")
    if job.resumable:
        migrations.fits(await scene.again(job))
    else:
        assert migrations.left() == []


async def failed_at(number: int, scene: Scene, migrations: Migrations, **changes: Any) -> Job:
    """A migration that may not store one of its parts."""
    denied = await migrations.cloud.breaks(DENIED, part(number))
    job = await scene.run(migrations.plain(**changes))
    await migrations.cloud.mend(denied)
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.FAILED, True, "aws.AccessDenied"), job.notices
    assert "copied parts are kept: `amistream resume" in job.error.hint
    return job


async def test_it_goes_on_in_the_middle(scene: Scene, migrations: Migrations) -> None:
    """The next run proves the parts that are there, and copies the others only."""
    job = await failed_at(2, scene, migrations)
    assert job.view().kept_parts >= 2
    before = migrations.sent()
    again = await scene.again(job)
    result = migrations.fits(again)
    assert migrations.sent() == migrations.parts
    assert (result.kept, result.copied) == (len(before), len(migrations.parts) - len(before))


async def test_its_parts_are_removed(scene: Scene, migrations: Migrations) -> None:
    """A later process removes what the job copied, and nothing that was there before or is another object."""
    first, second, *_ = migrations.parts
    migrations.put_part(first)
    migrations.put_part("other.part.0", b"precious")
    job = await failed_at(3, scene, migrations)
    assert second in migrations.left()
    cleaned = await scene.clean(job)
    assert (cleaned.state, cleaned.resumable) == (State.CANCELLED, False), cleaned.notices
    assert migrations.left() == ["other.part.0", first]


async def lent(scene: Scene, migrations: Migrations, lease: LentJob, **changes: Any) -> Job:
    """One run of a job that a queue of many hosts has lent."""
    job = Job(migrations.request(**changes), name=lease.name, lease=lease)
    await scene.engine.enter(job)
    await scene.engine.run(job)
    return job


@pytest.mark.parametrize(("lost_at", "manifests"), [(2, []), (3, [MANIFEST])])
async def test_a_lease_that_is_lost(lost_at: int, manifests: list[str], scene: Scene, migrations: Migrations) -> None:
    """Neither manifest nor AMI is made once the lease is lost; all stays for the next one, whose AMI has the name."""
    lease = LentJob(lost_at=lost_at)
    job = await lent(scene, migrations, lease)
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.INTERRUPTED, True, "lease.lost")
    assert migrations.left() == sorted([CLAIM, *migrations.parts, *manifests])
    again = (await scene.remembered(job)).again(LentJob(attempt=2))
    await scene.engine.run(again)
    migrations.fits(again)
    (image,) = migrations.cloud.images(migrations.image_name)
    assert {"Key": JOB_TAG, "Value": lease.name} in image["Tags"]
    assert migrations.sent() == migrations.parts


@pytest.mark.parametrize("lost_at", [2, 3])
async def test_another_host_takes_over(
    lost_at: int, scene: Scene, make_scene: MakeScene, migrations: Migrations, tmp_path: Path
) -> None:
    """The next host makes use of the parts and the manifest that the first one stored; that one removes nothing."""
    first = await lent(scene, migrations, LentJob(lost_at=lost_at))
    assert first.state is State.INTERRUPTED
    with migrations.cloud.endpoint.blocking_client() as s3:
        s3.create_multipart_upload(Bucket=migrations.cloud.bucket, Key=f"x/{migrations.parts[0]}")
    async with make_scene(state_dir=tmp_path / "other", upload_concurrency=1) as other:
        second = await lent(other, migrations, LentJob(attempt=2, holder="host-b"))
        result = migrations.fits(second)
        assert (result.kept, migrations.sent()) == (len(migrations.parts), migrations.parts)
        cleaned = await scene.clean(first)
        assert cleaned.state is State.CANCELLED
        assert any("another host has this job" in each for each in cleaned.notices)
        third = await lent(other, migrations, LentJob(attempt=3, holder="host-c"))
        assert migrations.fits(third).image == result.image


async def test_a_host_that_took_over_removes_all(
    scene: Scene, make_scene: MakeScene, migrations: Migrations, tmp_path: Path
) -> None:
    """A job that fails for good on another host leaves nothing of its first one, and no claim."""
    assert (await lent(scene, migrations, LentJob(lost_at=2))).state is State.INTERRUPTED
    async with make_scene(state_dir=tmp_path / "other", upload_concurrency=1) as other:
        job = Job(migrations.request(), name=LentJob.name, lease=LentJob(attempt=2, holder="host-b"))
        await other.engine.enter(job)
        with other.held("update", at_state(State.COMMITTING)) as call:
            await other.stopped(job, call)
        assert (job.state, job.resumable) == (State.CANCELLED, False), job.notices
    assert migrations.left() == []


@pytest.mark.parametrize("lost", ["lease", "claim"])
async def test_a_removal_that_loses_the_job(lost: str, scene: Scene, migrations: Migrations) -> None:
    """A removal that stops in the middle for so long that another host has the job removes nothing more of its parts.

    That host may make use of them as they are. A removal by hand has no lease, and sees that by the claim.
    """
    lease = LentJob(attempt=2)
    first = await lent(scene, migrations, LentJob(lost_at=2))
    there = migrations.left()
    job = (await scene.remembered(first)).again(lease if lost == "lease" else None)
    held = await migrations.cloud.breaks(PauseRequest(), f"/.*/x/{MANIFEST}", method="HEAD", times=1)
    removal = asyncio.create_task(scene.engine.clean(job))
    await asyncio.to_thread(migrations.cloud.proxy.wait_hit, held)
    if lost == "lease":
        lease.over_at = lease.checks + 1
    else:
        claim = json.dumps({"v": 1, "job": lease.name, "run": "another", "holder": "host-b", "nonce": "n"})
        with migrations.cloud.endpoint.blocking_client() as s3:
            s3.put_object(Bucket=migrations.cloud.bucket, Key=f"x/{CLAIM}", Body=claim.encode())
    await asyncio.to_thread(migrations.cloud.proxy.let_go, held)
    await removal
    assert job.error is not None
    assert (job.state, job.error.code, job.resumable) == (State.INTERRUPTED, "lease.lost", True)
    assert migrations.left() == there


async def test_a_part_that_disappears(scene: Scene, migrations: Migrations) -> None:
    """A part that is found and goes before it is read is copied: an attempt that lost the claim may have removed it."""
    name = migrations.parts[1]
    migrations.put_part(name)
    held = await migrations.cloud.breaks(PauseRequest(), rf"/.*/x/{name}", method="GET", times=1)
    job = asyncio.create_task(lent(scene, migrations, LentJob()))
    await asyncio.to_thread(migrations.cloud.proxy.wait_hit, held)
    with migrations.cloud.endpoint.blocking_client() as s3:
        s3.delete_object(Bucket=migrations.cloud.bucket, Key=f"x/{name}")
    await asyncio.to_thread(migrations.cloud.proxy.let_go, held)
    assert migrations.fits(await job).kept == 0


async def test_a_manifest_that_an_earlier_attempt_puts_late(scene: Scene, migrations: Migrations) -> None:
    """A manifest that an earlier attempt was just about to put is no other bundle: the next one finishes it."""
    cloud, lease = migrations.cloud, LentJob()
    held = await cloud.breaks(PauseRequest(), MANIFEST_PATH, method="HEAD", nth=2, times=1)
    running = asyncio.create_task(lent(scene, migrations, lease))
    await asyncio.to_thread(cloud.proxy.wait_hit, held)
    mark = {"amistream-job": lease.name, "amistream-run": "another"}
    with cloud.endpoint.blocking_client() as s3:
        s3.put_object(Bucket=cloud.bucket, Key=f"x/{MANIFEST}", Body=b"<manifest/>", Metadata=mark)
    await asyncio.to_thread(cloud.proxy.let_go, held)
    job = await running
    assert job.error is not None
    assert (job.state, job.error.code) == (State.INTERRUPTED, "lease.lost")
    assert migrations.left() == sorted([CLAIM, MANIFEST])


async def test_a_copy_that_another_host_may_have(scene: Scene, migrations: Migrations) -> None:
    """A copy without a checksum stays if another host has claimed the job before the copy would be removed."""
    cloud = migrations.cloud
    put_files(cloud.endpoint, cloud.second, migrations.made, "old/")
    held = await cloud.breaks(PauseReply(), rf"/.*/x/{migrations.parts[0]}", times=1)
    lease = LentJob()
    source = migrations.source.replace("/a/", "/old/")
    running = asyncio.create_task(lent(scene, migrations, lease, manifest=source))
    await asyncio.to_thread(cloud.proxy.wait_hit, held)
    claim = json.dumps({"v": 1, "job": lease.name, "run": "another", "holder": "host-b", "nonce": "n"})
    with cloud.endpoint.blocking_client() as s3:
        s3.put_object(Bucket=cloud.bucket, Key=f"x/{CLAIM}", Body=claim.encode())
    await asyncio.to_thread(cloud.proxy.let_go, held)
    job = await running
    assert job.error is not None
    assert (job.state, job.error.code) == (State.INTERRUPTED, "lease.lost")
    assert migrations.left() == sorted([CLAIM, migrations.parts[0]])


async def test_a_claim_of_a_dead_process(scene: Scene, migrations: Migrations) -> None:
    """A job whose process died between its claim and its first entry leaves no claim when it is cancelled."""
    job = Job(migrations.request(), name=LentJob.name)
    await scene.engine.enter(job)
    claim = json.dumps({"v": 1, "job": job.name, "run": job.id, "holder": "host-a", "nonce": "n"})
    with migrations.cloud.endpoint.blocking_client() as s3:
        s3.put_object(Bucket=migrations.cloud.bucket, Key=f"x/{CLAIM}", Body=claim.encode())
    cleaned = await scene.clean(job)
    assert (cleaned.state, cleaned.resumable, migrations.left()) == (State.CANCELLED, False, [])


async def test_a_place_that_another_job_claims(scene: Scene, migrations: Migrations) -> None:
    """A job is refused where another one copies the same bundle to, or one of its name for another request does."""
    await lent(scene, migrations, LentJob(lost_at=2))
    before = migrations.left()
    job = await lent(scene, migrations, LentJob(name="another"))
    assert job.error is not None
    assert (job.state, job.error.code) == (State.REFUSED, "destination.claimed")
    changed = await lent(scene, migrations, LentJob(attempt=2), ami_name="another")
    assert changed.error is not None
    assert (changed.state, changed.error.code) == (State.REFUSED, "job.key_reused")
    assert migrations.left() == before


async def test_another_object_under_the_name_of_a_part(scene: Scene, migrations: Migrations) -> None:
    """An object that comes while the job waits to go on is not taken for a part, and stays; the job's parts go."""
    job = await failed_at(3, scene, migrations)
    theirs = migrations.parts[3]
    migrations.put_part(theirs, b"precious")
    again = await scene.again(job)
    assert again.error is not None
    assert (again.state, again.resumable, again.error.code) == (State.FAILED, False, "store.exists")
    assert migrations.left() == [theirs]


async def test_a_part_that_was_replaced_since(scene: Scene, migrations: Migrations) -> None:
    """An own part whose content is another one by now is neither relied on nor removed."""
    job = await failed_at(3, scene, migrations)
    theirs = migrations.parts[0]
    migrations.put_part(theirs, bytes(SIZES[0]))
    again = await scene.again(job)
    assert again.error is not None
    assert (again.state, again.error.code) == (State.FAILED, "store.exists")
    assert migrations.left() == [theirs]


async def test_another_copy_that_was_completed(scene: Scene, migrations: Migrations) -> None:
    """The parts stay if another migration of the bundle took them and put its own manifest."""
    job = await failed_at(3, scene, migrations)
    request = MigrationRequest(
        region=REGION,
        certificate=migrations.keys.user.certificate,
        private_key=migrations.keys.user.key,
        ec2_certificate=migrations.keys.stranger.certificate,
    )
    settings = scene.settings.model_copy(update={"endpoint_url": migrations.cloud.proxy.url})
    async with Aws(settings) as aws:
        session = BundleSession(settings, aws, lambda _: None)
        done = await session.migrate(migrations.source, f"s3://{migrations.cloud.bucket}/x", Meter(), request)
    assert done.kept > 0
    again = await scene.again(job)
    assert again.error is not None
    assert (again.state, again.resumable, again.error.code) == (State.FAILED, True, "destination.exists")
    cleaned = await scene.clean(again)
    assert (cleaned.state, cleaned.resumable) == (State.CANCELLED, False)
    assert any("another copy of the bundle was completed there" in each for each in cleaned.notices)
    assert migrations.left() == sorted([*migrations.parts, MANIFEST])


async def test_a_bundle_from_which_somebody_registered(scene: Scene, migrations: Migrations) -> None:
    """A bundle that was kept when its registration failed is not removed once a user has registered it."""
    failing = await migrations.cloud.breaks(Answer(status=400, code="InvalidManifest"), method="POST", form=REGISTER)
    job = await scene.run(migrations.request())
    assert job.error is not None
    assert (job.state, job.resumable, job.error.code) == (State.FAILED, True, "aws.InvalidManifest")
    await migrations.cloud.mend(failing)
    with migrations.cloud.endpoint.blocking_client("ec2") as ec2:
        ec2.register_image(Name=migrations.image_name, ImageLocation=migrations.image_name, Architecture="x86_64")
    cleaned = await scene.clean(job)
    assert cleaned.resumable
    assert any("is registered from it" in each for each in cleaned.notices)
    assert set(migrations.left()) > {*migrations.parts, MANIFEST}
    migrations.fits(await scene.again(cleaned))


async def test_the_source_is_not_needed_for_the_registration(scene: Scene, migrations: Migrations) -> None:
    """A run that only has to register looks at the target alone."""
    failing = await migrations.cloud.breaks(Answer(status=400, code="InvalidManifest"), method="POST", form=REGISTER)
    job = await scene.run(migrations.request())
    await migrations.cloud.mend(failing)
    with migrations.cloud.endpoint.blocking_client() as s3:
        s3.delete_object(Bucket=migrations.cloud.second, Key=f"a/{MANIFEST}")
    before = len(migrations.cloud.proxy.requests)
    migrations.fits(await scene.again(job))
    assert not [
        each for each in migrations.cloud.proxy.requests[before:] if f"/{migrations.cloud.second}/" in each.path
    ]


async def test_a_source_that_changed(scene: Scene, migrations: Migrations, tmp_path: Path) -> None:
    """A run that finds another bundle at the source does not mix the two, and keeps what is copied."""
    job = await failed_at(3, scene, migrations)
    kept = migrations.left()
    other = Migrations.of(migrations.cloud, migrations.keys, tmp_path / "other", [5000])
    again = await scene.again(job)
    assert again.error is not None
    assert (again.state, again.resumable, again.error.code) == (State.FAILED, True, "resume.changed")
    assert migrations.left() == kept
    assert (await scene.clean(again)).state is State.CANCELLED
    assert other.left() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"manifest": "/nowhere/image.manifest.xml"}, "directory.missing"),
        ({"region": "us-west-2"}, "bucket.region"),
        ({"private_key": None, "certificate": None}, "key.missing"),
        ({"destinations": ["s3://amistream-there-is-none/x"]}, "bucket.missing"),
    ],
)
async def test_refusals(changes: dict[str, Any], code: str, scene: Scene, migrations: Migrations) -> None:
    """A migration that cannot succeed is refused before anything is copied."""
    job = await scene.run(migrations.request(**changes))
    assert job.error is not None
    assert (job.state, job.error.code, job.resumable) == (State.REFUSED, code, False)
    assert migrations.left() == []


async def test_a_destination_that_holds_a_bundle(scene: Scene, migrations: Migrations) -> None:
    """Neither another bundle nor another object under a part's name is replaced."""
    for name in (MANIFEST, migrations.parts[1]):
        migrations.put_part(name, b"precious")
        job = await scene.run(migrations.plain())
        assert job.error is not None
        assert job.state is State.REFUSED
        assert job.error.code == ("destination.exists" if name == MANIFEST else "store.exists")
        assert migrations.left() == [name]
        with migrations.cloud.endpoint.blocking_client() as s3:
            s3.delete_object(Bucket=migrations.cloud.bucket, Key=f"x/{name}")


async def test_a_members_migration(
    migrations: Migrations, make_scene: MakeScene, key_ring: KeyRing, tmp_path: Path
) -> None:
    """A confined job has its key within the roots, migrates no directory, and keeps to the endpoint of the settings."""
    mine = tmp_path / "mine"
    mine.mkdir()
    key = str(shutil.copy(key_ring.user.key, mine / "key.pem"))
    ec2 = str(shutil.copy(key_ring.stranger.certificate, mine / "ec2.pem"))
    fields: dict[str, Any] = {"certificate": None, "private_key": key, "ec2_certificate": ec2}
    settings: dict[str, Any] = {"source_roots": (mine,), "endpoint_url": migrations.cloud.proxy.url}
    async with make_scene(**settings) as scene:
        for changes, code in (
            ({"private_key": str(key_ring.user.key)}, "roots.outside"),
            ({"ec2_certificate": str(key_ring.stranger.certificate)}, "roots.outside"),
            ({"manifest": str(migrations.made / MANIFEST)}, "manifest.directory"),
        ):
            job = await scene.run(migrations.plain(**{**fields, **changes}), confined=True)
            assert job.error is not None
            assert (job.state, job.error.code) == (State.REFUSED, code)
        assert migrations.left() == []
        denied = await migrations.cloud.breaks(DENIED, part(2))
        job = await scene.run(migrations.plain(**fields, endpoint_url="http://127.0.0.1:9"), confined=True)
        await migrations.cloud.mend(denied)
        assert (job.state, job.resumable) == (State.FAILED, True)
    async with make_scene(**{**settings, "endpoint_url": migrations.cloud.endpoint.url}) as scene:
        again = await scene.again(job)
        assert again.error is not None
        assert (again.state, again.resumable, again.error.code) == (State.FAILED, True, "resume.endpoint")
    async with make_scene(**settings) as scene:
        migrations.fits(await scene.again(again))


async def test_a_members_part_is_not_held_whole(
    migrations: Migrations, make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is too large for a member's job goes through this machine for root only."""
    monkeypatch.setattr("amistream.jobs.own_copy.IN_FLIGHT_MOST", 2000)
    put_files(migrations.cloud.endpoint, migrations.cloud.second, migrations.made, "a/")
    async with make_scene(source_roots=("/",), endpoint_url=migrations.cloud.proxy.url) as scene:
        job = await scene.run(migrations.plain(), confined=True)
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, "part.too_large")
        assert migrations.left() == []
        migrations.fits(await scene.run(migrations.plain()))


@KEEP
async def test_stopped_in_an_upload_in_chunks(
    keep: bool, cloud: Cloud, key_ring: KeyRing, make_scene: MakeScene, tmp_path: Path
) -> None:
    """Neither a cancelled nor a continued job leaves an unfinished upload, whatever the setting says by then."""
    migrations = Migrations.of(cloud, key_ring, tmp_path, [LARGE, 100])
    put_files(cloud.endpoint, cloud.second, migrations.made, "a/")
    held = await cloud.breaks(PauseRequest(), part(0), query="partNumber=2")
    async with make_scene(**CHUNKED) as scene:
        job = await scene.enter(migrations.plain())
        running = asyncio.create_task(scene.engine.run(job))
        await asyncio.to_thread(cloud.proxy.wait_hit, held)
        job.ask_to_stop(keep=True)
        running.cancel()
        await cloud.mend(held)
        await asyncio.to_thread(cloud.proxy.let_go, held)
        await asyncio.wait({running})
    assert (job.state, len(cloud.uploads())) == (State.INTERRUPTED, 1)
    async with make_scene(multipart_threshold="1GiB") as scene:
        if keep:
            again = await scene.again(job)
            migrations.fits(again)
        else:
            assert (await scene.clean(job)).state is State.CANCELLED
            assert migrations.left() == []


async def test_a_part_stored_in_chunks_is_recognised(
    cloud: Cloud, key_ring: KeyRing, make_scene: MakeScene, tmp_path: Path
) -> None:
    """A part whose checksum is that of its chunks is proved by its content, and removed."""
    migrations = Migrations.of(cloud, key_ring, tmp_path, [LARGE, 100])
    put_files(cloud.endpoint, cloud.second, migrations.made, "a/")
    async with make_scene(**CHUNKED) as scene:
        job = await failed_at(1, scene, migrations)
        assert migrations.left() == [migrations.parts[0]]
        again = await scene.again(job)
        result = migrations.fits(again)
        assert result.kept == 1
        with cloud.endpoint.blocking_client() as s3:
            for key in list_keys(cloud.endpoint, cloud.bucket):
                s3.delete_object(Bucket=cloud.bucket, Key=key)
        job = await failed_at(1, scene, migrations)
        assert (await scene.clean(job)).state is State.CANCELLED
        assert migrations.left() == []


@pytest.mark.parametrize("comes", [True, False])
async def test_a_copy_that_may_still_come(comes: bool, scene: Scene, migrations: Migrations) -> None:
    """A part that was in flight when the process died may come for a while: the removal does not end before."""
    denied = await migrations.cloud.breaks(DENIED, part(3))
    job = Job(migrations.plain(), name="" if comes else LentJob.name)
    await scene.engine.enter(job)
    with scene.held("migrations.copied") as call:
        running = asyncio.create_task(scene.engine.run(job))
        await call.came.wait()
        entry = await scene.journal.find(job.id)
        assert entry is not None
        # What the next process finds if this one dies here.
        ours = next(name for name in migrations.parts if name in entry.late[0])
        call.go.set()
        await running
    await migrations.cloud.mend(denied)
    await scene.journal.late(job.id, {0: dict.fromkeys(entry.late[0], (4102444800.0,))})
    if not comes:
        with migrations.cloud.endpoint.blocking_client() as s3:
            s3.delete_object(Bucket=migrations.cloud.bucket, Key=f"x/{ours}")
    cleaned = await scene.clean(job)
    # The claim of a named job goes last: without it the next removal would leave all as it is.
    assert migrations.left() == ([] if comes else [CLAIM])
    assert cleaned.state is State.CANCELLED
    if not comes:
        assert (cleaned.resumable, cleaned.looks_again_at is not None) == (True, True)
        assert any(f"{ours} may still appear" in each for each in cleaned.notices)
        await scene.journal.late(job.id, {})
        migrations.put_part(ours)
        assert (await scene.clean(job)).state is State.CANCELLED
        assert migrations.left() == []


@dataclass(kw_only=True)
class Steps:
    """Migrations of one small part, each of whose requests may be held."""

    migrations: Migrations
    settings: Settings
    aws: Aws

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[JobQueue]:
        """The daemon's queue from start to end, without its socket."""
        async with open_queue(self.settings, self.aws, by_itself=True) as queue:
            await queue.recover(resume=True)
            yield queue

    async def plan(self, *, all_of_them: bool) -> list[tuple[int, Action]]:
        """The requests of a whole job by number, each with the moments at which to stop: two if it makes something.

        That job is removed again.
        """
        requests = self.migrations.cloud.proxy.requests
        before = len(requests)
        async with self.queue() as queue:
            job, _ = await queue.submit(self.migrations.request())
            await job.ended.wait()
        self.migrations.fits(job)
        self.migrations.clear()
        made = [each.method == "PUT" or b"RegisterImage" in each.form for each in requests[before:]]
        assert (len(made) >= LEAST_STEPS, sum(made)) == (True, 4)
        return [
            (step, action)
            for step, makes in enumerate(made, 1)
            for action in (HELD if makes else HELD[step % 2 : step % 2 + all_of_them])
        ]

    async def held_at(self, step: int, action: Action, queue: JobQueue) -> tuple[Job, Fault]:
        """A job whose request of this number is held."""
        held = await self.migrations.cloud.breaks(action, method=".*", nth=step, times=1)
        job, _ = await queue.submit(self.migrations.request())
        await asyncio.to_thread(self.migrations.cloud.proxy.wait_hit, held)
        return job, held

    async def let_go(self, held: Fault) -> str:
        """Let the request continue; returns its kind."""
        (request,) = [each for each in self.migrations.cloud.proxy.requests if each.fault is held]
        await asyncio.to_thread(self.migrations.cloud.proxy.let_go, held)
        return f"{request.method} {request.path} {request.parameters.get('Action', '')}"


@pytest.fixture
async def steps(cloud: Cloud, key_ring: KeyRing, tmp_path: Path) -> AsyncIterator[Steps]:
    chosen = quick_settings(tmp_path)
    async with Aws(chosen) as aws:
        yield Steps(migrations=Migrations.of(cloud, key_ring, tmp_path, [300]), settings=chosen, aws=aws)


async def test_cancelled_at_each_request(steps: Steps) -> None:
    """Nothing is left, wherever the cancel comes."""
    wrong, planned = [], await steps.plan(all_of_them=True)
    async with steps.queue() as queue:
        for step, action in planned:
            job, held = await steps.held_at(step, action, queue)
            await queue.cancel(job.id)
            what = await steps.let_go(held)
            await job.ended.wait()
            left = steps.migrations.left()
            if (job.state, job.resumable, left) != (State.CANCELLED, False, []):
                wrong.append((step, action, what, job.state, job.notices, left))
                steps.migrations.clear()
            await turns()
    assert not wrong


async def test_interrupted_at_each_request_that_makes_something(steps: Steps) -> None:
    """The next process goes on by itself, wherever the interrupt comes: one right bundle, and one AMI."""
    wrong = []
    for step, action in await steps.plan(all_of_them=False):
        async with steps.queue() as queue:
            job, held = await steps.held_at(step, action, queue)
            stopping = asyncio.create_task(queue.drain(OnStop.INTERRUPT))
            await asyncio.sleep(0)
            what = await steps.let_go(held)
            await stopping
        assert job.state is State.INTERRUPTED, (what, job.state, job.error)
        async with steps.queue() as queue:
            again = queue.get(job.id)
            await again.ended.wait()
        if again.state is not State.DONE:
            wrong.append((step, action, what, again.state, again.error, again.notices))
        else:
            steps.migrations.fits(again)
        steps.migrations.clear()
    assert not wrong
