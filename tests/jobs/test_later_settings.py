"""Settings that change between two runs of a job: it keeps to those it began with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.records import NextStep
from amistream.request import parse_request
from jobs.lives import files, scene_with
from jobs.work import request, settings, use_endpoint
from support.buckets import download_bundle, list_keys
from support.proxy import Answer, Fault, dry_run_answered
from support.referee import check_bundle
from support.volumes import random_image

if TYPE_CHECKING:
    from amistream.settings import Settings
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 3_000_000)


def figures(tmp_path: Path, **changed: Any) -> Settings:
    return settings(tmp_path, upload_concurrency=2, block_size="64KiB", **changed)


@pytest.mark.parametrize("end", ["resumed", "removed"])
async def test_another_prefix(end: str, image: Path, tmp_path: Path, key_ring: KeyRing) -> None:
    """The parts are found under the name that they were given."""
    out = tmp_path / "out"
    async with scene_with(figures(tmp_path)) as scene:
        job = await scene.run(request(image, out, key_ring), room=5)
        assert job.resumable
    async with scene_with(figures(tmp_path, prefix="web")) as scene:
        if end == "resumed":
            job = await scene.again(job)
            assert job.state is State.DONE, job.error
            check_bundle(out, image, key_ring.user.key, key_ring.user.certificate)
        else:
            job = await scene.remembered(job)
            await scene.engine.clean(job)
            assert job.state is State.CANCELLED
            assert files(out) == {}


@pytest.fixture
async def elsewhere(
    ministack: Endpoint,
    moto_server: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
    image: Path,
    tmp_path: Path,
    key_ring: KeyRing,
) -> tuple[Job, str, Settings]:
    """A job with parts in a bucket of ministack, the bucket, and settings that name moto by now."""
    use_endpoint(ministack, monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    bucket = make_bucket(ministack)
    denied = Fault(action=Answer(status=403, code="AccessDenied"), path=".*part.0[5-9]", times=None)
    proxy = make_proxy(ministack, denied)
    asked = request(image, f"s3://{bucket}/x", key_ring, register_image=False)
    async with scene_with(figures(tmp_path, endpoint_url=proxy.url, region="us-east-1")) as scene:
        job = await scene.run(asked)
        assert job.resumable, job.error
    await asyncio.to_thread(proxy.mend, denied)
    return job, bucket, figures(tmp_path, endpoint_url=moto_server.url, region="us-east-1")


async def test_another_endpoint(
    elsewhere: tuple[Job, str, Settings], ministack: Endpoint, image: Path, tmp_path: Path, key_ring: KeyRing
) -> None:
    """A job continues at the endpoint of its parts."""
    job, bucket, changed = elsewhere
    async with scene_with(changed) as scene:
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
    download_bundle(ministack, bucket, "x/", tmp_path / "got")
    check_bundle(tmp_path / "got", image, key_ring.user.key, key_ring.user.certificate)


async def test_removed_at_another_endpoint(elsewhere: tuple[Job, str, Settings], ministack: Endpoint) -> None:
    """A job is removed from the endpoint of its parts, and is not over before."""
    job, bucket, changed = elsewhere
    async with scene_with(changed) as scene:
        job = await scene.remembered(job)
        await scene.engine.clean(job)
        assert job.state is State.CANCELLED, job.notices
    assert list_keys(ministack, bucket) == []


async def test_a_member_s_job_at_another_endpoint(elsewhere: tuple[Job, str, Settings], ministack: Endpoint) -> None:
    """A confined job is signed for the endpoint of the settings only: it waits until they are as before."""
    job, bucket, changed = elsewhere
    there = list_keys(ministack, bucket)
    async with scene_with(changed) as scene:
        for removed in (False, True):
            job = await scene.remembered(job)
            job.confined = True
            await (scene.engine.clean if removed else scene.engine.run)(job)
            assert (job.state, job.resumable) == (State.FAILED, True)
            assert job.error is not None
            assert job.error.code == "resume.endpoint"
            assert "endpoint_url" in job.error.message
    assert list_keys(ministack, bucket) == there


@pytest.mark.parametrize("change", [{"multipart_chunk": "6MiB"}, {"multipart_threshold": "16MiB"}])
async def test_one_of_two_destinations_has_a_part_already(
    change: dict[str, str],
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key_ring: KeyRing,
) -> None:
    """A part that is uploaded to two destinations in different ways is the same part."""
    use_endpoint(ministack, monkeypatch)
    buckets = [make_bucket(ministack) for _ in range(2)]
    denied = Answer(status=403, code="AccessDenied")
    faults = [
        Fault(action=denied, path=f"/{buckets[1]}/.*part.01", times=None),
        Fault(action=denied, method="PUT", path=f"/{buckets[0]}/.*manifest.xml", times=None),
    ]
    proxy = make_proxy(ministack, *faults, dry_run_answered())
    image = random_image(tmp_path / "disk.img", 20_000_000)
    asked = request(image, "s3://one", key_ring, endpoint_url=proxy.url, register_image=False)
    values = json.loads(asked.model_dump_json(exclude_none=True))
    to_both = parse_request({**values, "destinations": [f"s3://{bucket}/x" for bucket in buckets]})
    chunks = {
        "part_size": "7MiB",
        "upload_concurrency": 1,
        "multipart_threshold": "5MiB",
        "multipart_chunk": "5MiB",
    }
    async with scene_with(settings(tmp_path, **chunks)) as scene:
        job = await scene.run(to_both)
        assert job.resumable
    for fault in faults:
        await asyncio.to_thread(proxy.mend, fault)
    async with scene_with(settings(tmp_path, **{**chunks, **change})) as scene:
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert await scene.next_step(job) is NextStep.OVER
    for number, bucket in enumerate(buckets):
        got = tmp_path / f"got{number}"
        download_bundle(ministack, bucket, "x/", got)
        check_bundle(got, image, key_ring.user.key, key_ring.user.certificate)
