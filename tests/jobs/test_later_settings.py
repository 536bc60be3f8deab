"""Settings that change between two runs of a job: it keeps to those it began with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from amistream.jobs.records import NextStep
from jobs.runs import DENIED
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from amistream.jobs.job import Job
    from jobs.runs import Cloud, MakeScene
    from support.endpoints import Endpoint

CHUNKS: dict[str, Any] = {
    "part_size": "7MiB",
    "upload_concurrency": 1,
    "multipart_threshold": "5MiB",
    "multipart_chunk": "5MiB",
}
RESUMED = pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "removed"])


@RESUMED
async def test_another_prefix(resumed: bool, make_scene: MakeScene) -> None:
    """The parts are found under the name that they were given."""
    async with make_scene() as scene:
        job = await scene.run(room=5)
        assert job.resumable
    async with make_scene(prefix="web") as scene:
        job = await (scene.again if resumed else scene.clean)(job)
        assert job.state is (State.DONE if resumed else State.CANCELLED), job.error
        if resumed:
            scene.fits()
        else:
            assert scene.files() == {}


@pytest.fixture
async def stored(make_scene: MakeScene, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job with parts in the cloud's bucket, at the endpoint that its settings named."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    denied = await cloud.breaks(DENIED, ".*part.0[5-9]")
    async with make_scene(endpoint_url=cloud.proxy.url, region="us-east-1") as scene:
        job = await scene.run(cloud.request(scene.image, scene.keys, endpoint_url=None))
        assert job.resumable, job.error
    await cloud.mend(denied)
    return job


@RESUMED
async def test_another_endpoint(
    resumed: bool, stored: Job, cloud: Cloud, moto_server: Endpoint, make_scene: MakeScene, tmp_path: Path
) -> None:
    """A job continues, and is removed, at the endpoint of its parts."""
    async with make_scene(endpoint_url=moto_server.url, region="us-east-1") as scene:
        job = await (scene.again if resumed else scene.clean)(stored)
        assert job.state is (State.DONE if resumed else State.CANCELLED), job.error
        if resumed:
            scene.fits(cloud.downloaded(tmp_path / "got"))
        else:
            assert cloud.stored() == []


async def test_a_member_s_job_at_another_endpoint(
    stored: Job, cloud: Cloud, moto_server: Endpoint, make_scene: MakeScene
) -> None:
    """A confined job is signed for the endpoint of the settings only: it waits until they are as before."""
    there = cloud.stored()
    async with make_scene(endpoint_url=moto_server.url, region="us-east-1") as scene:
        for act in (scene.engine.run, scene.engine.clean):
            job = await scene.remembered(stored)
            job.confined = True
            await act(job)
            assert (job.state, job.resumable) == (State.FAILED, True)
            assert job.error is not None
            assert job.error.code == "resume.endpoint"
            assert "endpoint_url" in job.error.message
    assert cloud.stored() == there


@pytest.mark.parametrize("both", [False, True], ids=["an upload is open", "one of two destinations has the part"])
@pytest.mark.parametrize("change", [{"multipart_chunk": "6MiB"}, {"multipart_threshold": "16MiB"}])
async def test_parts_uploaded_in_another_way(
    change: dict[str, str], both: bool, make_scene: MakeScene, cloud: Cloud, tmp_path: Path
) -> None:
    """A job continues under settings that change how parts are uploaded: it is the same part at each destination."""
    random_image(tmp_path / "disk.img", 20_000_000)
    if both:
        faults = [
            await cloud.breaks(DENIED, f"/{cloud.second}/.*part.01"),
            await cloud.breaks(DENIED, f"/{cloud.bucket}/.*manifest.xml"),
        ]
    else:
        faults = [await cloud.breaks(DENIED, ".*part.01", query="partNumber")]
    async with make_scene(**CHUNKS) as scene:
        job = await scene.run(cloud.request(scene.image, scene.keys, both=both))
        assert (job.state, job.resumable) == (State.FAILED, True)
    await cloud.mend(*faults)
    async with make_scene(**{**CHUNKS, **change}) as scene:
        job = await scene.again(job)
        assert job.state is State.DONE, job.error
        assert await scene.next_step(job) is NextStep.OVER
        for bucket in (cloud.bucket, cloud.second) if both else (cloud.bucket,):
            assert cloud.uploads(bucket) == []
            scene.fits(cloud.downloaded(tmp_path / bucket, bucket))
    assert len(cloud.proxy.seen("POST", f"/{cloud.bucket}/.*part.00", "uploads")) == 1
