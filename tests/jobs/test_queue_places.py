"""The queue's limits: one job for each destination, also while it is taken up, and a bounded number of waiting jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from amistream.errors import BusyError, ConflictError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.journal import Journal
from amistream.jobs.records import NextStep
from amistream.request import parse_request
from jobs.queueing import left_behind, request, running


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({}, {}, True),
        ({}, {"prefix": "image"}, True),
        ({"prefix": "image"}, {}, True),
        ({}, {"prefix": "other"}, False),
        ({"prefix": "a"}, {"prefix": "b"}, False),
        (
            {"destinations": ["s3://one-1/x", "s3://two-2/x"]},
            {"destinations": ["s3://two-2/x", "s3://three-3/x"]},
            True,
        ),
        ({"destinations": ["s3://one-1/x"]}, {"destinations": ["s3://one-1/x/"]}, True),
        ({"destinations": ["s3://one-1/x"]}, {"destinations": ["s3://one-1/y"]}, False),
        ({"destinations": ["/bundles/a"]}, {"destinations": ["/bundles/a/"]}, True),
        ({"destinations": ["/bundles/a"]}, {"destinations": ["/bundles//b/../a/."]}, True),
    ],
)
@pytest.mark.parametrize("kept", [False, True], ids=["while it runs", "while it keeps its parts"])
async def test_the_same_place(
    first: dict[str, Any], second: dict[str, Any], same: bool, kept: bool, tmp_path: Path
) -> None:
    """Two jobs never write under the same names at one destination, even if one of them has ended unfinished."""
    async with running(tmp_path) as scene:
        job, _ = await scene.queue.submit(request("a", **first))
        await scene.hands.wait_begun()
        if kept:
            await scene.hands.end(job, State.FAILED)
        if not same:
            await scene.queue.submit(request("a", **second))
            return
        with pytest.raises(ConflictError) as caught:
            await scene.queue.submit(request("a", **second))
        assert caught.value.field == "destinations"
        assert job.id in caught.value.message
        if kept:
            assert caught.value.code == "job.kept_there"
            assert f"amistream resume {job.id}" in caught.value.hint
            assert f"amistream cancel {job.id}" in caught.value.hint
        else:
            assert caught.value.code == "job.same_destination"
            assert f"amistream watch {job.id}" in caught.value.hint
            await scene.hands.end(job)
            await scene.queue.submit(request("a", **second))


@pytest.mark.parametrize(
    ("second", "same"),
    [
        ({}, True),
        ({"source": "/volumes/b"}, True),
        ({"ami_name": "web 2"}, False),
        ({"region": "eu-west-3"}, False),
        ({"ami_name": None}, False),
        ({"ami_name": None, "register_image": False}, False),
    ],
)
@pytest.mark.parametrize("kept", [False, True], ids=["while it runs", "while it keeps its blocks"])
async def test_the_same_ami(second: dict[str, Any], same: bool, kept: bool, tmp_path: Path) -> None:
    """Two conversions never make AMIs of one name in one region, which EC2 would refuse in the end."""
    first = {"kind": "convert", "source": "/volumes/a", "ami_name": "web 1"}
    again = parse_request({name: value for name, value in {**first, **second}.items() if value is not None})
    async with running(tmp_path) as scene:
        job, _ = await scene.queue.submit(parse_request(first))
        await scene.hands.wait_begun()
        if kept:
            await scene.hands.end(job, State.FAILED)
        if not same:
            await scene.queue.submit(again)
            return
        with pytest.raises(ConflictError, match="the AMI 'web 1'") as caught:
            await scene.queue.submit(again)
        assert (caught.value.field, job.id in caught.value.message) == ("ami_name", True)
        assert caught.value.code == ("job.kept_there" if kept else "job.same_destination")
        assert (f"amistream resume {job.id}" in caught.value.hint) == kept


@pytest.mark.parametrize("word", ["resume", "cancel"])
async def test_a_place_is_not_free_while_its_job_is_taken_up(word: str, tmp_path: Path) -> None:
    """A new job that comes while a kept one is being taken up does not get its destination."""
    async with running(tmp_path, max_jobs=4) as scene:
        job = await scene.keep()
        asked = [getattr(scene.queue, word)(job.id), scene.queue.submit(request("a"))]
        taken, refused = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(taken, Job)
        assert isinstance(refused, ConflictError)
        assert refused.field == "destinations"


async def test_parts_of_an_earlier_daemon_hold_their_place(tmp_path: Path) -> None:
    """The kept parts of an earlier daemon's job block a new job at that destination until they are removed."""
    view = await left_behind(tmp_path, NextStep.KEPT, state=State.FAILED, resumable=True)
    async with running(tmp_path) as scene:
        await scene.queue.recover(resume=True)
        with pytest.raises(ConflictError) as caught:
            await scene.submit("a")
        assert caught.value.code == "job.kept_there"
        job = await scene.queue.cancel(view.id)
        await scene.hands.wait_begun()
        await scene.hands.end(job, State.CANCELLED)
        await scene.begin("a")


async def test_resumed_jobs_need_room_too(tmp_path: Path) -> None:
    """A job is not taken up while the queue is full: it stays as it is, and can be taken up later."""
    async with running(tmp_path, max_jobs=1, max_queued=1) as scene:
        kept = await scene.keep("a")
        busy = await scene.begin("b")
        await scene.submit("c")
        with pytest.raises(BusyError) as caught:
            await scene.queue.resume(kept.id)
        assert (caught.value.code, kept.resumable) == ("daemon.full", True)
        await scene.hands.end(busy)
        await scene.hands.wait_begun()
        assert (await scene.queue.resume(kept.id)).state is State.QUEUED


async def test_what_another_process_left_since(tmp_path: Path) -> None:
    """The parts of a job whose process died since this daemon began block their destination too, and can be resumed."""
    async with running(tmp_path) as scene:
        view = await left_behind(tmp_path, NextStep.KEPT, by_itself=False, state=State.BUNDLING)
        with pytest.raises(ConflictError) as caught:
            await scene.queue.submit(request("a"))
        assert caught.value.code == "job.kept_there"
        assert f"amistream resume {view.id}" in caught.value.hint
        await scene.queue.submit(request("b"))
        assert (await scene.queue.resume(view.id)).id == view.id


@pytest.mark.parametrize("state", [State.BUNDLING, State.FAILED])
async def test_a_job_of_a_living_process(state: State, tmp_path: Path) -> None:
    """A destination of a living process's job, running or kept, is refused to other jobs."""
    async with Journal(tmp_path, by_itself=False) as another, running(tmp_path) as scene:
        asked = request("a")
        view = Job(asked).view().model_copy(update={"state": state})
        await another.add(view, asked, confined=False, idempotency_key="")
        await another.set_next_step(view.id, NextStep.KEPT)
        with pytest.raises(ConflictError) as caught:
            await scene.queue.submit(asked)
        assert caught.value.code == ("job.kept_there" if state.ended else "job.same_destination")
        assert view.id in caught.value.message
        await another.end(view)
        await scene.queue.submit(asked)
