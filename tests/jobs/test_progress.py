"""The speed of a running job: the time left, and the limiting stage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import BundleResult, State
from amistream.jobs.job import Job
from jobs.work import request, run, running_engine, settings
from support.proxy import PauseRequest
from support.volumes import random_image, sparse_image

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


async def test_holes_take_no_time(cloud: Cloud, key_ring: KeyRing, tmp_path: Path) -> None:
    """Of a sparse image the share, and so the time left, is that of its data; data in memory counts a fifth."""
    image = sparse_image(tmp_path / "sparse.img", 10 << 30, [(0, 16 << 20)])
    all_but_one = await cloud.breaks(PauseRequest(), r".*/image\.part\.0[1-9]")
    asked = cloud.request(image, key_ring, prefix="image", part_size="2MiB", upload_concurrency=PARTS)
    async with running_engine(settings(tmp_path)) as engine, asyncio.TaskGroup() as group:
        job = Job(asked)
        await engine.enter(job)
        group.create_task(engine.run(job))
        async for event in job.events():
            progress = event.job.progress
            if progress is not None and (progress.parts_made, progress.parts_stored) == (9, 1):
                break
        assert progress is not None
        assert progress.bytes_done == 10 << 30
        assert 0.25 < progress.stored_share <= 1
        await asyncio.to_thread(cloud.proxy.let_go, all_but_one)
    assert job.state is State.DONE, job.error


async def test_progress_within_a_part(cloud: Cloud, key_ring: KeyRing, tmp_path: Path) -> None:
    """The share that is stored grows while the only part is under way, and reaches the whole at the end."""
    image = random_image(tmp_path / "large.img", 16_000_000)
    async with running_engine(settings(tmp_path)) as engine, asyncio.TaskGroup() as group:
        job = Job(cloud.request(image, key_ring, part_size="20MiB", limit_upload="8MiB"))
        await engine.enter(job)
        group.create_task(engine.run(job))
        shares = [
            (event.job.progress.parts_stored, event.job.progress.stored_share)
            async for event in job.events()
            if event.job.progress is not None
        ]
    assert job.state is State.DONE, job.error
    assert any(0 < share < 1 for stored, share in shares if not stored)
    assert [share for _, share in shares] == sorted(share for _, share in shares)
    assert shares[-1] == (1, 1)


@pytest.mark.parametrize(
    ("limit", "in_s3", "compress", "in_flight"),
    [
        ("1MiB", True, "fast", 1),
        ("1MiB", True, "fast", PARTS),
        ("1MiB", True, "auto", 1),
        ("1MiB", False, "fast", 1),
        ("1GiB", True, "fast", 1),
    ],
)
async def test_who_holds_the_upload_back(
    image: Path,
    cloud: Cloud,
    key_ring: KeyRing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    compress: str,
    in_flight: int,
    *,
    in_s3: bool,
) -> None:
    """A limit of the user's is reported as the bottleneck when it is one, which it never is for directories.

    It is one too when everything is read at once and only the last parts wait; nothing in force already is advised.
    """
    monkeypatch.setattr("amistream.jobs.progress.TELLING_S", 0.0)
    # A busy machine sends less than the limit allows in three seconds.
    monkeypatch.setattr("amistream.jobs.progress._HELD_BACK", 0.3)
    limited: dict[str, Any] = {"limit_upload": limit, "compress": compress, "upload_concurrency": in_flight}
    asked = (
        cloud.request(image, key_ring, **limited) if in_s3 else request(image, tmp_path / "out", key_ring, **limited)
    )
    job = await run(asked, settings(tmp_path))
    assert isinstance(job.result, BundleResult), job.error
    held_back = in_s3 and limit == "1MiB"
    assert ("--limit-upload" in job.result.advice) == held_back
    if held_back:
        assert job.result.bottleneck == "upload"
        assert ("--compress auto" in job.result.advice) == (compress != "auto")


async def test_a_job_of_moments_has_no_bottleneck(image: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """A pass shorter than some seconds reports neither bottleneck nor advice."""
    job = await run(request(image, str(tmp_path / "out"), key_ring), settings(tmp_path))
    assert isinstance(job.result, BundleResult), job.error
    assert (job.result.bottleneck, job.result.advice) == (None, "")
    assert all(stage.busy_share <= 1 for stage in job.result.stages)
