"""Bundles of named jobs on several hosts: whatever happens between them, one bundle is there, whole, and once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from amistream.errors import FencedError
from amistream.events import BundleResult, State
from amistream.jobs.job import Job
from amistream.jobs.records import NextStep
from jobs.leases import LentJob
from jobs.runs import Fits, Scene, at_part
from support.buckets import list_keys
from support.proxy import Answer, PauseRequest

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud, HeldCall, MakeScene

NAME = "web-2026-11-28"
PARTS = 12


@dataclass(kw_only=True)
class Fleet:
    """Two hosts, each with a journal of its own, and a bucket for the bundle of one image."""

    a: Scene
    b: Scene
    cloud: Cloud
    folder: Path
    attempts: int = 0

    def lease(self, **changes: Any) -> LentJob:
        """The lease of the next receive of the message."""
        self.attempts += 1
        return LentJob(**{"name": NAME, "attempt": self.attempts, "holder": f"host-{self.attempts}", **changes})

    async def job(self, host: Scene, lease: LentJob | None = None, *, name: str = NAME, **changes: Any) -> Job:
        """A job of the name, entered in the host's journal."""
        lease = lease or self.lease(name=name)
        job = Job(self.cloud.request(host.image, host.keys, **changes), name=name, lease=lease)
        await host.engine.enter(job)
        return job

    async def run(self, host: Scene, lease: LentJob | None = None, **changes: Any) -> Job:
        """The job's run on a host that has not had it before."""
        job = await self.job(host, lease, **changes)
        await host.engine.run(job)
        return job

    async def again(self, host: Scene, job: Job) -> Job:
        """A further run, under the next lease, on a host that had the job before."""
        again = await host.remembered(job)
        again.lease = self.lease()
        await host.engine.run(again)
        return again

    async def cut(self, host: Scene, **changes: Any) -> Job:
        """A first run that is interrupted there: its claim and its parts stay, as after a crash."""
        job = await self.job(host, **changes)
        with host.held("seal", at_part(5)) as call:
            await host.stopped(job, call, keep=True)
        assert (job.state, job.resumable) == (State.INTERRUPTED, True)
        return job

    def objects(self) -> dict[str, tuple[str, dict[str, str]]]:
        """ETag and metadata of every object, by its name."""
        found = {}
        with self.cloud.endpoint.blocking_client() as s3:
            for key in list_keys(self.cloud.endpoint, self.cloud.bucket):
                head = s3.head_object(Bucket=self.cloud.bucket, Key=key)
                found[key.removeprefix("x/")] = head["ETag"], head["Metadata"]
        return found

    def put(self, name: str, body: bytes, **metadata: str) -> None:
        with self.cloud.endpoint.blocking_client() as s3:
            s3.put_object(Bucket=self.cloud.bucket, Key=f"x/{name}", Body=body, Metadata=metadata)

    def claim(self, **changes: Any) -> None:
        """A claim as another host puts it."""
        text = {"v": 1, "job": NAME, "run": "r", "holder": "h", "attempt": 1, "sent_at": LentJob.sent_at, "nonce": "n"}
        self.put("image.claim", json.dumps({**text, **changes}).encode())

    def is_whole(self, job: Job) -> BundleResult:
        """Assert that the job is done, and its bundle is there, of one run, and nothing else is."""
        assert job.state is State.DONE, (job.error, job.notices)
        objects = self.objects()
        parts = [f"image.part.{number:02d}" for number in range(PARTS)]
        assert sorted(objects) == ["image.manifest.xml", *parts]
        assert {tags["amistream-job"] for _, tags in objects.values()} == {NAME}
        assert len({tags["amistream-run"] for _, tags in objects.values()}) == 1
        assert self.cloud.uploads() == []
        self.a.fits(self.cloud.downloaded(self.folder / f"got {self.attempts}"))
        assert isinstance(job.result, BundleResult)
        assert (job.result.manifest, job.result.parts) == (f"s3://{self.cloud.bucket}/x/image.manifest.xml", PARTS)
        return job.result


@pytest.fixture
async def fleet(make_scene: MakeScene, cloud: Cloud, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with make_scene(state_dir=tmp_path / "a") as a, make_scene(state_dir=tmp_path / "b") as b:
        yield Fleet(a=a, b=b, cloud=cloud, folder=tmp_path)


def assert_fenced(job: Job) -> None:
    """The job has ended without an outcome, and another attempt may take it."""
    assert job.error is not None, job.state
    assert (job.state, job.error.code, job.resumable) == (State.INTERRUPTED, "lease.lost", True), job.error


def assert_refused(job: Job, code: str) -> None:
    assert job.error is not None, job.state
    assert (job.state, job.error.code, job.resumable) == (State.REFUSED, code, False), job.error
    assert job.error.hint


async def test_nobody_has_the_claim(fleet: Fleet) -> None:
    """A named job leaves its bundle, with its name on each object, and no claim."""
    fleet.is_whole(await fleet.run(fleet.a))


async def test_an_earlier_attempt_has_it(fleet: Fleet) -> None:
    """A later attempt on another host removes what the earlier one stored, and nothing else, and begins anew."""
    await fleet.cut(fleet.a)
    left = fleet.objects()
    assert "image.claim" in left
    for name in ("image.part.99", "image.part.00.old", "image.partial", "other.part.00"):
        fleet.put(name, b"somebody's")
    with fleet.cloud.endpoint.blocking_client() as s3:
        for name in ("image.part.07", "other.part.07"):
            s3.create_multipart_upload(Bucket=fleet.cloud.bucket, Key=f"x/{name}")
    refused = await fleet.run(fleet.b)
    assert_refused(refused, "destination.leftover")
    # Parts that nobody owns are an obstacle; those of the earlier attempt are gone already.
    assert sorted(fleet.objects()) == ["image.part.00.old", "image.part.99", "image.partial", "other.part.00"]
    assert [key for key, _ in fleet.cloud.uploads()] == ["x/other.part.07"]
    with fleet.cloud.endpoint.blocking_client() as s3:
        for name in fleet.objects():
            s3.delete_object(Bucket=fleet.cloud.bucket, Key=f"x/{name}")
        for key, upload in fleet.cloud.uploads():
            s3.abort_multipart_upload(Bucket=fleet.cloud.bucket, Key=key, UploadId=upload)
    fleet.is_whole(await fleet.run(fleet.b))


async def test_begun_anew_by_another_host(fleet: Fleet) -> None:
    """The next host begins anew under another key; the first one's kept job removes nothing, whoever asks for that."""
    first = await fleet.cut(fleet.a)
    before = {tag for tag, _ in fleet.objects().values()}
    job = await fleet.run(fleet.b)
    fleet.is_whole(job)
    assert any("an earlier attempt" in notice for notice in job.notices)
    assert before.isdisjoint(tag for tag, _ in fleet.objects().values())
    there = fleet.objects()
    cleaned = await fleet.a.clean(first)
    assert cleaned.state is State.CANCELLED
    assert any("nothing is removed" in notice for notice in cleaned.notices)
    assert fleet.objects() == there


@pytest.mark.parametrize("at", ["part.00", "manifest.xml"])
async def test_a_lease_that_ends_in_the_middle_of_a_removal(at: str, fleet: Fleet) -> None:
    """A host that stops in the middle of a removal deletes nothing more once its lease is over."""
    if at == "part.00":
        job = await fleet.cut(fleet.a)
    else:
        job = await fleet.run(fleet.a, fleet.lease(lost_at=3))
    there = fleet.objects()
    lease = fleet.lease()
    again = (await fleet.a.remembered(job)).again(lease)
    held = await fleet.cloud.breaks(PauseRequest(), f".*{at}", method="HEAD", times=1)
    removal = asyncio.create_task(fleet.a.engine.clean(again))
    await asyncio.to_thread(fleet.cloud.proxy.wait_hit, held)
    lease.over_at = lease.checks + 1
    await asyncio.to_thread(fleet.cloud.proxy.let_go, held)
    await removal
    assert_fenced(again)
    now = fleet.objects()
    assert {f"image.{at}", "image.claim"} <= now.keys() <= there.keys()
    cleaned = await fleet.a.clean(job)
    assert (cleaned.state, fleet.objects()) == (State.CANCELLED, {})


async def test_the_same_host_goes_on(fleet: Fleet) -> None:
    """A later attempt on the same host continues behind the parts that are stored, as after any restart."""
    job = await fleet.cut(fleet.a)
    kept = {tag for name, (tag, _) in fleet.objects().items() if ".part." in name}
    again = await fleet.again(fleet.a, job)
    result = fleet.is_whole(again)
    assert result.compression["resumed"] > 0
    assert kept <= {tag for tag, _ in fleet.objects().values()}


async def test_by_hand_on_the_same_host(fleet: Fleet) -> None:
    """A user may resume or remove a job whose claim is still its own; the other host's is refused to be taken over."""
    job = await fleet.cut(fleet.a)
    by_hand = Job(fleet.cloud.request(fleet.b.image, fleet.b.keys), name=NAME)
    await fleet.b.engine.enter(by_hand)
    there = fleet.objects()
    await fleet.b.engine.run(by_hand)
    assert_refused(by_hand, "destination.claimed")
    assert fleet.objects() == there
    cleaned = await fleet.a.clean(job)
    assert (cleaned.state, fleet.objects()) == (State.CANCELLED, {})


@pytest.mark.parametrize("later", [{"attempt": 2}, {"attempt": 1, "sent_at": LentJob.sent_at + 1}])
async def test_a_later_attempt_has_it(later: dict[str, Any], fleet: Fleet) -> None:
    """An attempt whose lease is the earlier one changes nothing."""
    fleet.claim(**{"attempt": 1, **later})
    there = fleet.objects()
    job = await fleet.run(fleet.a, LentJob(attempt=1))
    assert_fenced(job)
    assert fleet.objects() == there
    assert await fleet.a.next_step(job) is NextStep.WAITING


async def test_a_message_that_was_sent_again(fleet: Fleet) -> None:
    """A message from the dead letters counts its receives anew, and is later than the attempts before it died."""
    fleet.claim(attempt=5)
    fleet.is_whole(await fleet.run(fleet.a, LentJob(attempt=1, sent_at=LentJob.sent_at + 60)))


@pytest.mark.parametrize(
    "text", [{"job": "db"}, {"v": 2}, {"job": 7}], ids=["another job", "a newer version", "no claim"]
)
async def test_somebody_else_has_it(text: dict[str, Any], fleet: Fleet) -> None:
    """A destination that another job has claimed is refused, and the claim stays; so for jobs without a name."""
    fleet.claim(**text)
    there = fleet.objects()
    job = await fleet.run(fleet.a)
    assert_refused(job, "destination.claimed")
    assert ("'db' on h" in (job.error.message if job.error else "")) == (text == {"job": "db"})
    plain = await fleet.a.run(fleet.cloud.request(fleet.a.image, fleet.a.keys))
    assert_refused(plain, "destination.claimed")
    assert fleet.objects() == there


async def test_a_bundle_that_is_another_job_s(fleet: Fleet) -> None:
    """A bundle without the job's name refuses it, and stays; so does one of another job."""
    assert (await fleet.a.run(fleet.cloud.request(fleet.a.image, fleet.a.keys))).state is State.DONE
    there = fleet.objects()
    assert_refused(await fleet.run(fleet.a), "destination.exists")
    assert fleet.objects() == there


async def test_a_claim_of_a_dead_process(fleet: Fleet) -> None:
    """A job whose process died between its claim and its first entry leaves no claim when it is cancelled."""
    job = await fleet.job(fleet.a)
    fleet.claim(run=job.id)
    assert (await fleet.a.clean(job)).state is State.CANCELLED
    assert fleet.objects() == {}


async def test_another_request_under_the_name(fleet: Fleet) -> None:
    """A job is refused where its name has claimed a place, or made the bundle, for another request; all stays."""
    fleet.claim(request="0" * 32)
    there = fleet.objects()
    assert_refused(await fleet.run(fleet.a), "job.key_reused")
    assert fleet.objects() == there
    fleet.claim()
    fleet.is_whole(await fleet.run(fleet.a))
    there = fleet.objects()
    refused = await fleet.run(fleet.b, part_size="1MiB")
    assert_refused(refused, "job.key_reused")
    assert refused.error is not None
    assert "of a job of the same name with another request" in refused.error.message
    assert fleet.objects() == there


async def test_done_already(fleet: Fleet) -> None:
    """A job that is received once more ends with the result of its bundle, even if its source is gone by then."""
    first = fleet.is_whole(await fleet.run(fleet.a))
    there = fleet.objects()
    fleet.claim()
    fleet.b.image.rename(fleet.folder / "elsewhere.img")
    job = await fleet.run(fleet.b)
    (fleet.folder / "elsewhere.img").rename(fleet.b.image)
    second = fleet.is_whole(job)
    assert fleet.objects() == there
    same = {"manifest", "image_size", "bundled_size", "parts", "digest", "region"}
    assert first.model_dump(include=same) == second.model_dump(include=same)
    assert [place.manifest for place in second.places] == [first.manifest]


@pytest.mark.parametrize("how", ["a part is gone", "a part is another run's", "it cannot be read"])
async def test_a_torn_bundle(how: str, fleet: Fleet) -> None:
    """A manifest of the job whose parts are not all of its run is removed with them, and the job begins anew."""
    fleet.is_whole(await fleet.run(fleet.a))
    run = fleet.objects()["image.manifest.xml"][1]["amistream-run"]
    if how == "a part is gone":
        with fleet.cloud.endpoint.blocking_client() as s3:
            s3.delete_object(Bucket=fleet.cloud.bucket, Key="x/image.part.03")
    elif how == "a part is another run's":
        with fleet.cloud.endpoint.blocking_client() as s3:
            body = s3.get_object(Bucket=fleet.cloud.bucket, Key="x/image.part.03")["Body"].read()
        fleet.put("image.part.03", body, **{"amistream-job": NAME, "amistream-run": "another"})
    else:
        fleet.put("image.manifest.xml", b"<manifest>", **{"amistream-job": NAME, "amistream-run": run})
    fleet.is_whole(await fleet.run(fleet.b))
    assert fleet.objects()["image.manifest.xml"][1]["amistream-run"] != run


@pytest.mark.parametrize("step", [1, 2, 3], ids=["before the claim", "before the manifest", "after the manifest"])
async def test_the_lease_is_lost_at_each_step(step: int, fleet: Fleet) -> None:
    """A job whose lease is lost changes nothing from that step on; the next host brings it to its end, once."""
    lease = fleet.lease(lost_at=step)
    job = await fleet.run(fleet.a, lease)
    assert_fenced(job)
    names = set(fleet.objects())
    assert len(names) == {1: 0, 2: PARTS + 1, 3: PARTS + 2}[step]
    assert ("image.manifest.xml" in names) == (step == 3)
    fleet.is_whole(await fleet.run(fleet.b))
    fleet.is_whole(await fleet.again(fleet.a, job))


async def test_as_many_confirmations_as_steps(fleet: Fleet) -> None:
    """The queue is asked three times in a job: no fewer than the steps above, and no more."""
    lease = fleet.lease()
    fleet.is_whole(await fleet.run(fleet.a, lease))
    assert lease.confirmations == 3


@contextmanager
def asleep(host: Scene, at: str, fits: Fits = lambda *_: True) -> Iterator[HeldCall]:
    """A host that stops for so long that another one gets its job, and wakes up with a lease that looks good."""
    with host.held(at, fits) as call:
        yield call


@pytest.mark.parametrize(
    ("at", "fits"),
    [("seal", at_part(5)), ("conclude", lambda *_: True), ("commit", lambda *_: True)],
    ids=["seal", "conclude", "commit"],
)
async def test_a_host_that_wakes_up(at: str, fits: Fits, fleet: Fleet) -> None:
    """A host that stopped before a step, and wakes up when another has finished the job, changes nothing."""
    job = await fleet.job(fleet.a)
    with asleep(fleet.a, at, fits) as call:
        sleeper = asyncio.create_task(fleet.a.engine.run(job))
        await call.came.wait()
        fleet.is_whole(await fleet.run(fleet.b))
        there = fleet.objects()
        call.go.set()
        await sleeper
    assert_fenced(job)
    assert fleet.objects() == there
    fleet.is_whole(await fleet.again(fleet.a, job))
    assert fleet.objects() == there


async def test_a_host_that_wakes_up_while_another_works(fleet: Fleet) -> None:
    """A part that an earlier attempt sends late is in the way of one attempt, and removed by the next."""
    early, late = await fleet.job(fleet.a), await fleet.job(fleet.b)
    with asleep(fleet.a, "seal", at_part(5)) as of_early, asleep(fleet.b, "seal", at_part(3)) as of_late:
        sleeper = asyncio.create_task(fleet.a.engine.run(early))
        await of_early.came.wait()
        worker = asyncio.create_task(fleet.b.engine.run(late))
        await of_late.came.wait()
        of_early.go.set()
        await sleeper
        assert_fenced(early)
        of_late.go.set()
        await worker
    assert_fenced(late)
    fleet.is_whole(await fleet.again(fleet.b, late))


async def test_an_upload_that_begins_too_late(fleet: Fleet) -> None:
    """An upload that an earlier attempt begins when it has lost the claim is abandoned at the end of the later one."""
    await fleet.cut(fleet.a)
    job = await fleet.job(fleet.b)
    with asleep(fleet.b, "conclude") as call:
        worker = asyncio.create_task(fleet.b.engine.run(job))
        await call.came.wait()
        with fleet.cloud.endpoint.blocking_client() as s3:
            s3.create_multipart_upload(Bucket=fleet.cloud.bucket, Key="x/image.part.02")
        call.go.set()
        await worker
    fleet.is_whole(job)


async def test_a_manifest_that_comes_too_late(fleet: Fleet) -> None:
    """A manifest that arrives when another host has begun anew is no result, and is removed by the next attempt."""
    pause = await fleet.cloud.breaks(PauseRequest(whole=True), ".*manifest.xml", times=1)
    early, late = await fleet.job(fleet.a), await fleet.job(fleet.b)
    sleeper = asyncio.create_task(fleet.a.engine.run(early))
    await asyncio.to_thread(fleet.cloud.proxy.wait_hit, pause)
    with asleep(fleet.b, "seal", at_part(3)) as of_late:
        worker = asyncio.create_task(fleet.b.engine.run(late))
        await of_late.came.wait()
        await asyncio.to_thread(fleet.cloud.proxy.let_go, pause)
        await sleeper
        assert_fenced(early)
        assert "image.manifest.xml" in fleet.objects()
        of_late.go.set()
        await worker
    assert_fenced(late)
    fleet.is_whole(await fleet.again(fleet.a, early))


async def test_two_that_receive_it_at_once(fleet: Fleet) -> None:
    """Two deliveries of one message at the same moment: one bundle comes of them, and at most one is fenced."""
    first, second = await asyncio.gather(fleet.run(fleet.a), fleet.run(fleet.b))
    done = [job for job in (first, second) if job.state is State.DONE]
    for job in (first, second):
        if job not in done:
            assert_fenced(job)
    if not done:
        done = [await fleet.again(fleet.b, second)]
    fleet.is_whole(done[0])


async def test_a_failure_of_its_own(fleet: Fleet) -> None:
    """A job that holds its claim and fails shows its own failure, and the claim stays with its parts until it ends."""
    denied = await fleet.cloud.breaks(Answer(status=403, code="AccessDenied"), ".*part.05")
    job = await fleet.run(fleet.a)
    assert job.error is not None
    assert (job.state, job.error.code, job.resumable) == (State.FAILED, "aws.AccessDenied", True)
    assert "image.claim" in fleet.objects()
    await fleet.cloud.mend(denied)
    fleet.is_whole(await fleet.again(fleet.a, job))


async def test_cancelled_by_a_user(fleet: Fleet) -> None:
    """A cancelled job removes its claim last, and one that failed for good, too."""
    job = await fleet.job(fleet.a)
    with fleet.a.held("seal", at_part(5)) as call:
        await fleet.a.stopped(job, call)
    assert (job.state, fleet.objects()) == (State.CANCELLED, {})
    fleet.a.image.rename(fleet.folder / "elsewhere.img")
    refused = await fleet.run(fleet.a)
    (fleet.folder / "elsewhere.img").rename(fleet.a.image)
    assert refused.state is State.REFUSED
    assert fleet.objects() == {}


@pytest.mark.parametrize("step", [3, 4], ids=["after the manifest", "before the registration of an earlier bundle"])
async def test_registered_once(step: int, fleet: Fleet) -> None:
    """An attempt that finds the bundle without an AMI registers it; one that finds both reports them."""
    # The endpoint shows an image's name as its location.
    name = f"{fleet.cloud.bucket}/x/image.manifest.xml"
    changes: dict[str, Any] = {"register_image": True, "ami_name": name}
    assert_fenced(await fleet.run(fleet.a, fleet.lease(lost_at=3), **changes))
    assert fleet.cloud.images(name) == []
    if step == 4:
        assert_fenced(await fleet.run(fleet.b, fleet.lease(lost_at=1), **changes))
        assert fleet.cloud.images(name) == []
    results = [fleet.is_whole(await fleet.run(fleet.b, **changes)) for _ in range(2)]
    (image,) = fleet.cloud.images(name)
    assert [result.image_id for result in results] == [image["ImageId"]] * 2
    assert {"Key": "amistream:job", "Value": NAME} in image["Tags"]


async def test_a_default_name_is_the_same_on_every_host(fleet: Fleet) -> None:
    """Without a name for the AMI the job's name is in it, so that no two attempts register two."""
    changes: dict[str, Any] = {"register_image": True, "ami_name": None}
    first = fleet.is_whole(await fleet.run(fleet.a, **changes))
    second = fleet.is_whole(await fleet.run(fleet.b, **changes))
    assert first.image_id is not None
    assert (first.image_name, first.image_id) == (f"image {NAME}", second.image_id)


async def test_several_destinations(fleet: Fleet) -> None:
    """Of two destinations the one that is done stays, and the other one is begun anew by the next host."""
    cloud = fleet.cloud
    job = await fleet.job(fleet.a, both=True)
    held = await cloud.breaks(PauseRequest(whole=True), f"/{cloud.second}/.*manifest.xml", times=1)
    sleeper = asyncio.create_task(fleet.a.engine.run(job))
    await asyncio.to_thread(cloud.proxy.wait_hit, held)
    assert job.lease is not None
    job.ask_to_stop(keep=True, cause=FencedError("lease.lost", "cannot go on: the lease is over"))
    sleeper.cancel()
    await asyncio.wait({sleeper})
    await cloud.mend(held)
    assert_fenced(job)
    with cloud.endpoint.blocking_client() as s3:
        s3.delete_object(Bucket=cloud.second, Key="x/image.manifest.xml")
    there = fleet.objects()
    done = await fleet.run(fleet.b, both=True)
    assert done.state is State.DONE, done.error
    assert {name: etag for name, etag in fleet.objects().items() if name != "image.claim"} == {
        name: etag for name, etag in there.items() if name != "image.claim"
    }
    fleet.b.fits(cloud.downloaded(fleet.folder / "second", cloud.second))
    assert "image.claim" not in {key.rpartition("/")[2] for key in cloud.stored(cloud.second)}
    assert isinstance(done.result, BundleResult)
    assert [place.error for place in done.result.places] == [None, None]


class TestDirectory:
    """A directory is one host's: its claims keep the jobs of that host apart, and an earlier attempt's parts go."""

    async def run(self, host: Scene, lease: LentJob, **changes: Any) -> Job:
        job = Job(host.request(**changes), name=NAME, lease=lease)
        await host.engine.enter(job)
        await host.engine.run(job)
        return job

    async def test_a_bundle(self, scene: Scene) -> None:
        """A named job leaves its bundle, and no claim; cancelled it leaves nothing, not even the directory."""
        cancelled = Job(scene.request(), name=NAME, lease=LentJob())
        await scene.engine.enter(cancelled)
        with scene.held("seal", at_part(3)) as call:
            await scene.stopped(cancelled, call)
        assert cancelled.state is State.CANCELLED
        assert not scene.out.exists()
        job = await self.run(scene, LentJob(attempt=2))
        assert job.state is State.DONE, job.error
        assert "image.claim" not in scene.files()
        scene.fits()

    async def test_the_journal_is_lost(self, fleet: Fleet) -> None:
        """A later attempt without the journal of the earlier one begins anew."""
        assert_fenced(await self.run(fleet.a, LentJob(lost_at=2)))
        left = fleet.a.files()
        assert {"image.claim", "image.part.00"} <= left.keys()
        (fleet.a.out / ".image.part.05.abcdef.partial").write_bytes(b"half of i")
        (fleet.a.out / "other.part.00").write_bytes(b"somebody's")
        job = await self.run(fleet.b, LentJob(attempt=2))
        assert job.state is State.DONE, job.error
        now = fleet.b.files()
        assert (now.pop("other.part.00"), "image.claim" in now) == (b"somebody's", False)
        assert not list(fleet.b.out.glob(".*"))
        assert now["image.part.00"] != left["image.part.00"]
        (fleet.b.out / "other.part.00").unlink()
        fleet.b.fits()

    async def test_done_but_not_reported(self, fleet: Fleet) -> None:
        """A bundle that an earlier attempt finished under its claim is the result; without a claim it is anybody's."""
        assert_fenced(await self.run(fleet.a, LentJob(lost_at=3)))
        there = {name: data for name, data in fleet.a.files().items() if name != "image.claim"}
        job = await self.run(fleet.b, LentJob(attempt=2))
        assert job.state is State.DONE, job.error
        assert fleet.b.files() == there
        fleet.b.fits()
        assert_refused(await self.run(fleet.b, LentJob(attempt=3)), "destination.exists")

    async def test_another_job_s_claim(self, fleet: Fleet) -> None:
        """A directory that another job has claimed is refused, and the claim stays."""
        assert_fenced(await self.run(fleet.a, LentJob(lost_at=2)))
        there = fleet.a.files()
        other = Job(fleet.b.request(), name="db", lease=LentJob(name="db", attempt=9))
        await fleet.b.engine.enter(other)
        await fleet.b.engine.run(other)
        assert_refused(other, "destination.claimed")
        assert fleet.a.files() == there


async def test_an_endpoint_that_cannot_keep_hosts_apart(fleet: Fleet) -> None:
    """A named job is refused where conditions are not known, and a job without a name is not."""
    await fleet.cloud.breaks(Answer(status=501, code="NotImplemented"), header="if-match")
    assert_refused(await fleet.run(fleet.a), "claim.unsupported")
    assert fleet.objects() == {}
