"""The speed of a running job: the time left, and the limiting stage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from jobs.work import request, run, running_engine, settings, use_endpoint
from support.proxy import Fault, PauseRequest
from support.volumes import random_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

PARTS = 12
"""Size of `image`."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 3_000_000)


async def test_time_left_for_what_is_under_way(
    image: Path,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    make_proxy: MakeProxy,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once the volume is read, time is left until the last part is stored, and then none."""
    use_endpoint(ministack, monkeypatch)
    all_but_one = Fault(action=PauseRequest(), path=r".*/image\.part\.(0[1-9]|1\d)", times=None)
    proxy = make_proxy(ministack, all_but_one)
    place = f"s3://{make_bucket(ministack)}/x"
    asked = request(
        image,
        place,
        key_ring,
        endpoint_url=proxy.url,
        prefix="image",
        register_image=False,
        upload_concurrency=PARTS,
    )
    async with running_engine(settings(tmp_path)) as engine, asyncio.TaskGroup() as group:
        job = Job(asked)
        await engine.enter(job)
        group.create_task(engine.run(job))
        async for event in job.events():
            progress = event.job.progress
            if progress is not None and (progress.parts_made, progress.parts_stored) == (PARTS, 1):
                break
        assert progress is not None
        assert progress.bytes_done == progress.bytes_total
        assert progress.eta_s is not None
        assert progress.eta_s > 0
        await asyncio.to_thread(proxy.let_go, all_but_one)
    assert job.state is State.DONE, job.error
    assert job.progress is not None
    assert (job.progress.parts_stored, job.progress.eta_s) == (PARTS, 0)


@pytest.mark.parametrize(("limit", "in_s3"), [("1MiB", True), ("1MiB", False), ("1GiB", True)])
async def test_who_holds_the_upload_back(
    image: Path,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    *,
    in_s3: bool,
) -> None:
    """A limit of the user's is reported as the bottleneck when it is one, which it never is for directories."""
    use_endpoint(ministack, monkeypatch)
    place = f"s3://{make_bucket(ministack)}/x" if in_s3 else str(tmp_path / "out")
    more = {"endpoint_url": ministack.url, "register_image": False} if in_s3 else {}
    asked = request(image, place, key_ring, limit_upload=limit, upload_concurrency=1, **more)
    job = await run(asked, settings(tmp_path))
    assert job.result is not None, job.error
    assert ("--limit-upload" in job.result.advice) == (in_s3 and limit == "1MiB")
