"""Following a job by server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientResponse

from amistream.events import Event, State
from amistream.jobs.job import Job
from daemon.rig import PATIENCE_S, Daemon, StartDaemon, progress


@asynccontextmanager
async def following(daemon: Daemon, job: Job, **headers: str) -> AsyncIterator[ClientResponse]:
    url = f"http://localhost/v1/jobs/{job.id}/events"
    async with (
        asyncio.timeout(PATIENCE_S),
        daemon.session.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}) as response,
    ):
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield response


async def next_event(response: ClientResponse) -> Event:
    """Read one event, and check that its three lines agree."""
    frame = (await response.content.readuntil(b"\n\n")).decode()
    number, kind, data = frame.rstrip("\n").split("\n")
    event = Event.model_validate_json(data.removeprefix("data: "))
    assert (number, kind) == (f"id: {event.id}", f"event: {event.type}")
    return event


async def rest(response: ClientResponse) -> list[Event]:
    return [
        Event.model_validate_json(line.removeprefix(b"data: "))
        for line in (await response.content.read()).splitlines()
        if line.startswith(b"data: ")
    ]


async def test_follower_sees_the_job_live(start_daemon: StartDaemon) -> None:
    """Each change of a running job arrives at once, and the stream ends after the last state."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        async with following(daemon, job) as response:
            assert (await next_event(response)).job.state is State.QUEUED
            assert (await next_event(response)).job.state is State.CHECKING
            job.report(progress(500))
            seen = await next_event(response)
            assert (seen.type, seen.job.progress) == ("progress", progress(500))
            job.note("the clock is off")
            noted = await next_event(response)
            assert (noted.type, noted.job.notices) == ("notice", ("the clock is off",))
            await daemon.script.end(job)
            last = await rest(response)
            assert [event.job.state for event in last] == [State.BUNDLING, State.COMMITTING, State.DONE]


async def test_late_follower_sees_the_past(start_daemon: StartDaemon) -> None:
    """A client that follows an ended job gets every state from the first, and the end of the stream."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        await daemon.script.end(job)
        async with following(daemon, job) as response:
            states = [event.job.state for event in await rest(response)]
        assert states == [State.QUEUED, State.CHECKING, State.BUNDLING, State.COMMITTING, State.DONE]


async def test_follower_goes_on_after_the_last_event_it_had(start_daemon: StartDaemon) -> None:
    """Last-Event-ID skips the events that the client already has."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        await daemon.script.end(job)
        async with following(daemon, job, Last_Event_ID="3") as response:
            assert [event.id for event in await rest(response)] == [4, 5]


@pytest.mark.parametrize("last", ["", "-1", "x", "1" * 16])
async def test_unusable_last_event_id_is_refused(start_daemon: StartDaemon, last: str) -> None:
    """Last-Event-ID must be the number of an event."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        answer = await daemon.ask("GET", f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": last})
        assert (answer.status, answer.error["field"]) == (422, "Last-Event-ID")


async def test_cancel_ends_the_stream(start_daemon: StartDaemon) -> None:
    """The follower of a cancelled job gets that state last."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        async with following(daemon, job) as response:
            await daemon.ask("DELETE", f"/v1/jobs/{job.id}")
            assert (await rest(response))[-1].job.state is State.CANCELLED


async def test_quiet_stream_is_kept_alive(start_daemon: StartDaemon) -> None:
    """A silent stream carries a comment from time to time."""
    async with start_daemon(keep_alive_s=0.001) as daemon:
        job = await daemon.submit_and_begin()
        async with following(daemon, job, Last_Event_ID="2") as response:
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"


async def test_followers_are_bounded(start_daemon: StartDaemon) -> None:
    """A follower over the limit gets 503, and is accepted once another stream has ended."""
    async with start_daemon(max_subscribers=1) as daemon:
        job = await daemon.submit_and_begin()
        async with following(daemon, job) as response:
            refused = await daemon.ask("GET", f"/v1/jobs/{job.id}/events")
            assert (refused.status, refused.error["code"]) == (503, "daemon.subscribers")
            await daemon.script.end(job)
            await rest(response)
        assert (await daemon.ask("GET", f"/v1/jobs/{job.id}/events")).status == 200


async def test_follower_that_leaves_frees_its_place(start_daemon: StartDaemon) -> None:
    """A client that disconnects from a silent stream frees its subscription."""
    async with start_daemon(max_subscribers=1) as daemon:
        job = await daemon.submit_and_begin()
        async with following(daemon, job) as response:
            await next_event(response)
            response.close()
        async with asyncio.timeout(PATIENCE_S):
            # The daemon notices the disconnect when its loop runs; each request is one turn.
            while True:
                async with daemon.session.get(f"http://localhost/v1/jobs/{job.id}/events") as response:
                    if response.status == 200:
                        break
        assert not job.state.ended
