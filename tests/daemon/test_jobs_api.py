"""Submitting, listing, showing, cancelling and resuming jobs over the socket."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from amistream import __version__
from amistream.errors import LostError
from amistream.events import JobKind, JobView, State
from amistream.jobs.job import End
from amistream.request import CheckRequest
from amistream.request.convert import ConvertCheckRequest
from amistream.settings import OnStop
from daemon.rig import StartDaemon, request_for

if TYPE_CHECKING:
    from amistream.checks.findings import Finding
    from amistream.roots import Roots


async def test_submit_answers_the_job_and_where_to_find_it(start_daemon: StartDaemon) -> None:
    """A new job is answered with 202, its view and its path."""
    async with start_daemon() as daemon:
        answer = await daemon.submit("a")
        view = JobView.model_validate(answer.body)
        assert (answer.status, view.state, view.source) == (202, State.QUEUED, "/volumes/a")
        found = await daemon.ask("GET", answer.headers["Location"])
        assert (found.status, found.body["id"]) == (200, view.id)


async def test_a_conversion_is_a_job_of_its_own_kind(start_daemon: StartDaemon) -> None:
    """The kind chooses the fields that a job has; one that does not exist is refused by its name."""
    async with start_daemon() as daemon:
        values = {"kind": "convert", "source": "s3://bucket/image.manifest.xml", "ena": True}
        answer = await daemon.ask("POST", "/v1/jobs", json=values)
        view = JobView.model_validate(answer.body)
        assert (answer.status, view.kind, view.source) == (202, JobKind.CONVERT, values["source"])
        assert view.destinations == ()
        answer = await daemon.ask("POST", "/v1/jobs", json={**values, "destinations": ["s3://bucket"]})
        assert (answer.status, answer.error["field"]) == (422, "destinations")
        answer = await daemon.ask("POST", "/v1/jobs", json={**values, "kind": "copy"})
        assert (answer.status, answer.error["field"]) == (422, "kind")


async def test_the_checks_of_a_conversion(start_daemon: StartDaemon) -> None:
    """The doctor takes the fields of a job of either kind."""
    seen: list[type] = []

    async def examine(request: CheckRequest | ConvertCheckRequest, _: Roots | None) -> list[Finding]:
        seen.append(type(request))
        return []

    async with start_daemon(examine=examine) as daemon:
        for values in ({}, {"kind": "bundle"}, {"kind": "convert"}, {"kind": "convert", "volume_type": "gp2"}):
            answer = await daemon.ask("POST", "/v1/doctor", json=values)
            assert (answer.status, answer.body) == (200, {"findings": []})
        assert (await daemon.ask("POST", "/v1/doctor", json={"volume_type": "gp2"})).status == 422
    assert seen == [CheckRequest, CheckRequest, ConvertCheckRequest, ConvertCheckRequest]


async def test_job_is_shown_to_its_end(start_daemon: StartDaemon) -> None:
    """An ended job is shown with its result."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        await daemon.script.end(job)
        shown = await daemon.ask("GET", f"/v1/jobs/{job.id}")
        assert (shown.status, shown.body["state"], shown.body["result"]["bundled_size"]) == (200, "done", 400)


async def test_list_keeps_to_the_state_asked(start_daemon: StartDaemon) -> None:
    """The list is in order of submission and holds only jobs in the requested state."""
    async with start_daemon(max_jobs=1) as daemon:
        first = await daemon.submit_and_begin("a")
        second = await daemon.submit("b")
        third = await daemon.submit("c")
        every = await daemon.ask("GET", "/v1/jobs")
        assert [job["id"] for job in every.body["jobs"]] == [first.id, second.body["id"], third.body["id"]]
        queued = await daemon.ask("GET", "/v1/jobs?state=queued")
        assert [job["id"] for job in queued.body["jobs"]] == [second.body["id"], third.body["id"]]
        done = await daemon.ask("GET", "/v1/jobs?state=done")
        assert (done.status, done.body) == (200, {"jobs": []})


async def test_chosen_jobs(start_daemon: StartDaemon) -> None:
    """A list takes several states, a label and a limit, and waiting jobs have a place; an id may be shortened."""
    async with start_daemon(max_jobs=1) as daemon:
        first = await daemon.submit_and_begin("a")
        labelled = [{**request_for(name), "label": "x y"} for name in "bc"]
        second, third = [(await daemon.ask("POST", "/v1/jobs", json=each)).body for each in labelled]
        assert (first.user, second["user"], second["label"], second["place"]) == (os.getuid(), os.getuid(), "x y", 1)

        async def listed(query: str) -> list[tuple[str, int | None]]:
            return [(job["id"], job["place"]) for job in (await daemon.ask("GET", f"/v1/jobs?{query}")).body["jobs"]]

        waiting = [(second["id"], 1), (third["id"], 2)]
        assert await listed("state=queued&state=checking") == [(first.id, None), *waiting]
        assert await listed("label=x%20y&state=unfinished&state=queued") == waiting
        assert await listed("limit=1") == waiting[1:]
        assert await listed("state=unfinished") == []
        shown = [await daemon.ask("GET", f"/v1/jobs/{word}") for word in ("last", third["id"][-6:])]
        assert [each.body["id"] for each in shown] == [third["id"]] * 2
        assert (await daemon.ask("GET", "/v1/jobs/2")).error["code"] == "job.ambiguous"
        assert (await daemon.ask("DELETE", "/v1/jobs/last")).status == 404
        assert (await daemon.ask("GET", "/v1/jobs?limit=0")).error["field"] == "limit"


async def test_list_refuses_a_state_that_is_none(start_daemon: StartDaemon) -> None:
    """An unknown state is the caller's error in the parameter `state`."""
    async with start_daemon() as daemon:
        answer = await daemon.ask("GET", "/v1/jobs?state=sleeping")
        assert (answer.status, answer.error["field"]) == (422, "state")


async def test_no_more_than_max_jobs_run(start_daemon: StartDaemon) -> None:
    """A job beyond `max_jobs` waits until a running one has ended."""
    async with start_daemon(max_jobs=1) as daemon:
        first = await daemon.submit_and_begin("a")
        waiting = await daemon.submit("b")
        health = await daemon.ask("GET", "/v1/health")
        assert (health.body["jobs_running"], health.body["jobs_queued"]) == (1, 1)
        await daemon.script.end(first)
        assert (await daemon.script.wait_begun()).id == waiting.body["id"]


async def test_full_queue_refuses(start_daemon: StartDaemon) -> None:
    """A job beyond `max_queued` is answered with 503."""
    async with start_daemon(max_jobs=1, max_queued=1) as daemon:
        await daemon.submit_and_begin("a")
        assert (await daemon.submit("b")).status == 202
        refused = await daemon.submit("c")
        assert (refused.status, refused.error["code"]) == (503, "daemon.full")


async def test_same_destination_conflicts(start_daemon: StartDaemon) -> None:
    """Two active jobs never write to the same destination."""
    async with start_daemon() as daemon:
        await daemon.submit("a")
        refused = await daemon.submit("a")
        assert (refused.status, refused.error["field"]) == (409, "destinations")


async def test_repeated_key_gives_the_same_job(start_daemon: StartDaemon) -> None:
    """A repeat with the same Idempotency-Key is answered with 200 and the first job."""
    async with start_daemon() as daemon:
        headers = {"Idempotency-Key": "one"}
        first = await daemon.submit("a", headers=headers)
        again = await daemon.submit("a", headers=headers)
        assert (first.status, again.status) == (202, 200)
        assert (again.body["id"], again.headers["Location"]) == (first.body["id"], first.headers["Location"])
        assert len(daemon.queue.jobs()) == 1


async def test_key_with_another_request_conflicts(start_daemon: StartDaemon) -> None:
    """An Idempotency-Key with a different request is a conflict."""
    async with start_daemon() as daemon:
        headers = {"Idempotency-Key": "one"}
        await daemon.submit("a", headers=headers)
        refused = await daemon.submit("b", headers=headers)
        assert (refused.status, refused.error["code"]) == (409, "job.key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"], ids=["empty", "long", "space"])
async def test_unusable_key_is_refused(start_daemon: StartDaemon, key: str) -> None:
    """An Idempotency-Key is 1 to 255 visible characters."""
    async with start_daemon() as daemon:
        answer = await daemon.submit("a", headers={"Idempotency-Key": key})
        assert (answer.status, answer.error["field"]) == (422, "Idempotency-Key")
        assert daemon.queue.jobs() == []


async def test_queued_job_is_cancelled_without_running(start_daemon: StartDaemon) -> None:
    """A queued job is cancelled and never begins."""
    async with start_daemon(max_jobs=1) as daemon:
        first = await daemon.submit_and_begin("a")
        second = daemon.queue.get((await daemon.submit("b")).body["id"])
        answer = await daemon.ask("DELETE", f"/v1/jobs/{second.id}")
        assert (answer.status, answer.body["id"]) == (202, second.id)
        await second.ended.wait()
        await daemon.script.end(first)
        assert (second.state, second.started_at, daemon.script.begun.empty()) == (State.CANCELLED, None, True)


async def test_running_job_is_cancelled(start_daemon: StartDaemon) -> None:
    """A running job is asked to stop, and a second request to cancel it is no error."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        answer = await daemon.ask("DELETE", f"/v1/jobs/{job.id}")
        assert answer.status == 202
        await job.ended.wait()
        assert (await daemon.ask("GET", f"/v1/jobs/{job.id}")).body["state"] == "cancelled"


async def test_ended_job_cannot_be_cancelled(start_daemon: StartDaemon) -> None:
    """Cancelling an ended job is a conflict."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        await daemon.script.end(job)
        answer = await daemon.ask("DELETE", f"/v1/jobs/{job.id}")
        assert (answer.status, answer.error["code"]) == (409, "job.ended")


async def test_resume_is_refused(start_daemon: StartDaemon) -> None:
    """A running job, or one that kept nothing, cannot be resumed."""
    async with start_daemon() as daemon:
        job = await daemon.submit_and_begin()
        answer = await daemon.ask("POST", f"/v1/jobs/{job.id}/resume")
        assert (answer.status, answer.error["code"]) == (409, "job.not_resumable")
        await daemon.script.end(job)
        answer = await daemon.ask("POST", f"/v1/jobs/{job.id}/resume")
        assert (answer.status, answer.error["code"]) == (409, "job.not_resumable")
        assert "amistream bundle" in answer.error["hint"]


async def test_job_that_kept_something_is_resumed_or_removed(start_daemon: StartDaemon) -> None:
    """A job that ended resumable is shown so; resume begins it again under its id, cancel removes its parts."""
    async with start_daemon() as daemon:
        first = await daemon.submit_and_begin()
        first.end(End(State.FAILED, error=LostError("store.lost", "cannot go on: the store is gone"), resumable=True))
        daemon.script.may_end[first.id].set()
        shown = (await daemon.ask("GET", f"/v1/jobs/{first.id}")).body
        assert (shown["state"], shown["resumable"]) == ("failed", True)
        answer = await daemon.ask("POST", f"/v1/jobs/{first.id}/resume")
        assert (answer.status, answer.body["id"], answer.body["state"]) == (202, first.id, "queued")
        second = await daemon.script.wait_begun()
        assert (second.id, second.created_at) == (first.id, first.created_at)
        second.end(End(State.FAILED, error=LostError("store.lost", "cannot go on: the store is gone"), resumable=True))
        daemon.script.may_end[first.id].set()
        answer = await daemon.ask("DELETE", f"/v1/jobs/{first.id}")
        assert answer.status == 202
        third = daemon.queue.get(first.id)
        await third.ended.wait()
        assert (third.state, third.resumable) == (State.CANCELLED, False)


@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("DELETE", ""), ("POST", "/resume"), ("GET", "/events")])
async def test_unknown_job_is_not_found(start_daemon: StartDaemon, method: str, end: str) -> None:
    """Every endpoint of a job answers 404 for an unknown id."""
    async with start_daemon() as daemon:
        answer = await daemon.ask(method, f"/v1/jobs/nobody{end}")
        assert (answer.status, answer.error["code"]) == (404, "job.unknown")


async def test_health_counts(start_daemon: StartDaemon) -> None:
    """An idle daemon is ok, and shows its version and uptime."""
    async with start_daemon() as daemon:
        health = await daemon.ask("GET", "/v1/health")
        assert health.status == 200
        assert health.body.pop("uptime_s") >= 0
        idle = {
            "status": "ok",
            "version": __version__,
            "jobs_running": 0,
            "jobs_queued": 0,
            "notices": [],
            "queue": None,
        }
        assert health.body == idle


async def test_draining_daemon_refuses_jobs_and_lets_the_running_end(start_daemon: StartDaemon) -> None:
    """A stopping daemon answers, refuses new jobs, keeps queued ones and lets the running one end."""
    async with start_daemon(max_jobs=1) as daemon, asyncio.TaskGroup() as group:
        running = await daemon.submit_and_begin("a")
        waiting = daemon.queue.get((await daemon.submit("b")).body["id"])
        draining = group.create_task(daemon.queue.drain(OnStop.FINISH))
        await waiting.ended.wait()
        refused = await daemon.submit("c")
        assert (refused.status, refused.error["code"]) == (503, "daemon.stopping")
        assert (await daemon.ask("GET", "/v1/health")).body["status"] == "stopping"
        assert not draining.done()
        await daemon.script.end(running)
        await draining
        assert (running.state, waiting.state) == (State.DONE, State.INTERRUPTED)
