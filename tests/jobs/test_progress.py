"""The speed of a running job: the time left, and the limiting stage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import State
from amistream.jobs.job import Job
from jobs.work import request, run, running_engine, settings
from support.proxy import PauseRequest

if TYPE_CHECKING:
    from pathlib import Path

    from jobs.runs import Cloud
    from support.keys import KeyRing

PARTS = 12
"""Size of `image`."""


async def test_time_left_for_what_is_under_way(image: Path, cloud: Cloud, key_ring: KeyRing, tmp_path: Path) -> None:
    """Once the volume is read, time is left until the last part is stored, and then none."""
    all_but_one = await cloud.breaks(PauseRequest(), r".*/image\.part\.(0[1-9]|1\d)")
    asked = cloud.request(image, key_ring, prefix="image", upload_concurrency=PARTS)
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
        await asyncio.to_thread(cloud.proxy.let_go, all_but_one)
    assert job.state is State.DONE, job.error
    assert job.progress is not None
    assert (job.progress.parts_stored, job.progress.eta_s) == (PARTS, 0)


@pytest.mark.parametrize(("limit", "in_s3"), [("1MiB", True), ("1MiB", False), ("1GiB", True)])
async def test_who_holds_the_upload_back(
    image: Path, cloud: Cloud, key_ring: KeyRing, tmp_path: Path, limit: str, *, in_s3: bool
) -> None:
    """A limit of the user's is reported as the bottleneck when it is one, which it never is for directories."""
    limited: dict[str, Any] = {"limit_upload": limit, "upload_concurrency": 1}
    asked = (
        cloud.request(image, key_ring, **limited) if in_s3 else request(image, tmp_path / "out", key_ring, **limited)
    )
    job = await run(asked, settings(tmp_path))
    assert job.result is not None, job.error
    assert ("--limit-upload" in job.result.advice) == (in_s3 and limit == "1MiB")
