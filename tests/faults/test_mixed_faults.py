"""Endpoints that fail again and again, in every way at once: jobs finish, or end with the cause after few requests.

Counts: 6 jobs in three shapes with 20 % of all requests failing in fifteen ways, for one seed or as many as the
variable FAULT_SEEDS says; one job for each of its requests, from which on all fail; ten outages in the middle of a job,
and one from the start; success without content in eleven places, once and for good.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import BundleResult, State
from faults.scene import MANIFEST, PROBE, REGISTER, ended, part
from support.proxy import Answer, DropReply, Fault, HoldReply, HollowReply, Reset, StallBody, TruncateReply

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from faults.scene import MakeScene, Scene
    from support.proxy import Action, Request

ATTEMPTS = 2


class Dice:
    """Says for each request whether it fails, and how; the same seed asks for the same failures in the same order."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = random.Random(seed)
        self._share = share
        self.thrown = 0
        self.failures: Counter[str] = Counter()

    def __call__(self, request: Request) -> Action | None:
        self.thrown += 1
        if self._random.random() >= self._share:
            return None
        action = self._random.choice(self._ways(request))
        self.failures[action.code if isinstance(action, Answer) else type(action).__name__] += 1
        return action

    def _ways(self, request: Request) -> list[Action]:
        ways: list[Action] = [
            Answer(status=500, code="InternalError"),
            Answer(status=503, code="ServiceUnavailable"),
            Answer(status=503, code="SlowDown"),
            DropReply(),
            TruncateReply(),
            HollowReply(),
            HollowReply(body=b"<html/>"),
            Reset(after=self._random.choice([0, 1, 1000, 60_000])),
        ]
        if request.method != "DELETE":
            # Nothing in the answer to a deletion shows that it was done.
            ways.append(HollowReply(undone=True))
        if request.method == "PUT":
            ways += [
                Answer(status=503, code="SlowDown", early=True),
                Answer(status=400, code="BadDigest"),
                Answer(status=400, code="RequestTimeout"),
                StallBody(after=self._random.choice([0, 1000])),
                HoldReply(),
            ]
        return ways


class Outage:
    """From the `first` request on, all fail in the same way."""

    def __init__(self, action: Action) -> None:
        self.action = action
        self.first = 10**9
        self.thrown = 0

    def begin_at(self, first: int) -> None:
        self.first, self.thrown = first, 0

    def __call__(self, request: Request) -> Action | None:
        del request
        self.thrown += 1
        return self.action if self.thrown >= self.first else None


def failed_requests(there: Scene) -> int:
    """Count the requests that met a fault; with the stall time-out of each this bounds how long a job takes to fail."""
    return sum(each.fault is not None and "DryRun" not in each.form.decode() for each in there.proxy.requests)


@pytest.mark.parametrize("seed", range(int(os.environ.get("FAULT_SEEDS", "1"))))
async def test_a_fifth_of_all_requests_failing(seed: int, scene: MakeScene) -> None:
    """Jobs with many parts, with chunks, and registered, all finish; each bundle is right and stored once."""
    dice = Dice(seed, share=0.2)
    changes: dict[str, Any] = {
        "size": 5_500_000,
        "upload_attempts": 9,
        "multipart_threshold": "5MiB",
        "multipart_chunk": "5MiB",
    }
    async with scene(at_random=dice, **changes) as there:
        asked = [
            there.request("many-1", register_image=False, part_size="256KiB"),
            there.request("many-2", register_image=False, part_size="512KiB", upload_concurrency=4),
            there.request("chunks-1", register_image=False, part_size="6MiB"),
            there.request("chunks-2", register_image=False, part_size="6MiB", compress="small"),
            there.request("ami-1", part_size="1MiB"),
            there.request("ami-2", part_size="2MiB"),
        ]
        async with there.queue() as queue:
            jobs = [(await queue.submit(each))[0] for each in asked]
            for job in jobs:
                await ended(job)
        assert [job.state for job in jobs] == [State.DONE] * 6, [job.error for job in jobs]
        share = dice.failures.total() / dice.thrown
        assert dice.thrown > 120
        assert share == pytest.approx(0.2, abs=0.1)
        assert len(dice.failures) >= 6, dice.failures
        for each, job in zip(asked, jobs, strict=True):
            place = each.destinations[0].rpartition("/")[2]
            there.fits(place, thoroughly=True)
            if each.registers:
                assert isinstance(job.result, BundleResult)
                assert there.images(place) == [job.result.image_id]
        there.parts_stored_once()
        assert not [key for key in there.left() if "probe" in str(key)]


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        (Answer(status=500, code="InternalError"), "InternalError)"),
        (HollowReply(), "the answer"),
        (HollowReply(undone=True, body=b"<html/>"), "the answer"),
    ],
    ids=["errors", "success without content", "pages of something else"],
)
async def test_from_each_request_on_all_fail(action: Action, cause: str, scene: MakeScene) -> None:
    """A job is refused before its first part and fails after it, with the cause, after few requests."""
    outage = Outage(action)
    async with scene(at_random=outage, size=600_000, upload_attempts=ATTEMPTS) as there:
        async with there.queue() as queue:

            async def one(first: int) -> Job:
                outage.begin_at(first)
                job, _ = await queue.submit(there.request(f"from-{first}"))
                await ended(job)
                return job

            whole = await one(10**9)
            assert whole.state is State.DONE, whole.error
            requests = outage.thrown
            states = []
            for first in range(1, requests + 1):
                job = await one(first)
                states.append(job.state)
                # Checks run side by side; at most two parts are under way, and their removal fails too.
                assert outage.thrown - first < 7 * ATTEMPTS
                names_the_cause(job, cause)
        assert states == sorted(states, reverse=True), "first refused, then failed"
        assert set(states) == {State.REFUSED, State.FAILED}
        assert len(states) > 15


def names_the_cause(job: Job, cause: str) -> None:
    assert job.error is not None
    assert job.error.code not in ("internal.bug", "store.exists")
    assert cause in job.error.message
    assert "\n" not in job.error.message


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (StallBody(after=0), "store.stalled"),
        (HoldReply(), "store.stalled"),
        (DropReply(), "aws.unreachable"),
        (Reset(after=0), "aws.unreachable"),
        (Answer(status=503, code="SlowDown"), "aws.SlowDown"),
    ],
    ids=["100-continue withheld", "no replies", "replies lost", "reset", "SlowDown"],
)
@pytest.mark.parametrize("what", ["parts", "registration"])
async def test_an_outage_in_mid_job_ends_in_time(what: str, action: Action, code: str, scene: MakeScene) -> None:
    """A job whose endpoint fails for good ends after a bounded number of requests, and can be resumed."""
    form = f"{REGISTER}|DescribeImages"
    faults = {
        "parts": [Fault(action=action, method=".*", path=part("0[2-9]"), times=None)],
        "registration": [Fault(action=action, method="POST", form=form, nth=2, times=None)],
    }[what]
    async with scene(*faults, upload_attempts=ATTEMPTS) as there:
        job = await there.run()
        # Two parts at a time, or a registration that is looked for; the HTTP client may dial each once more.
        assert failed_requests(there) <= 4 * ATTEMPTS
        assert job.error is not None
        assert (job.state, job.error.code) == (State.FAILED, code)
        assert job.resumable
        await asyncio.to_thread(there.proxy.mend, *faults)
        again = await there.resume(job)
        assert again.state is State.DONE, again.error
        assert isinstance(again.result, BundleResult)
        assert there.images() == [again.result.image_id]
        there.fits()


async def test_nothing_answers_from_the_start(scene: MakeScene) -> None:
    """A job that gets no reply at all is refused with the cause, after as many attempts as are set."""
    async with scene(at_random=lambda _: HoldReply(), upload_attempts=ATTEMPTS) as there:
        job = await there.run()
        assert failed_requests(there) <= ATTEMPTS
        assert job.error is not None
        assert job.state is State.REFUSED
        assert there.ground.bucket in job.error.message
        assert "\n" not in job.error.message
        assert there.left() == []


PUT_LOST = Fault(action=DropReply(), path=part("01"))
"""The HTTP client sends it again, is told that the object exists, and looks at it."""
HOLLOW: dict[str, tuple[Fault, list[Fault]]] = {
    "a listing": (Fault(action=HollowReply(), method="GET", query="list-type"), []),
    "the probe": (Fault(action=HollowReply(undone=True), path=PROBE), []),
    "a part": (Fault(action=HollowReply(undone=True), path=part("01")), []),
    "a part that is looked at": (Fault(action=HollowReply(), method="HEAD", path=part("01")), [PUT_LOST]),
    "an upload's id": (Fault(action=HollowReply(), method="POST", query="^uploads", path=part(".*")), []),
    "a chunk": (Fault(action=HollowReply(), query="partNumber=2", path=part(".*")), []),
    "an upload's end": (Fault(action=HollowReply(), method="POST", query="^uploadId", path=part(".*")), []),
    "the manifest": (Fault(action=HollowReply(), path=MANIFEST), []),
    "the registration": (Fault(action=HollowReply(body=b"<x/>", undone=True), method="POST", form=REGISTER), []),
    "a look at the AMI": (Fault(action=HollowReply(body=b"<x/>"), method="POST", form="DescribeImages", nth=2), []),
}


@pytest.mark.parametrize("name", HOLLOW)
async def test_a_success_without_its_content(name: str, scene: MakeScene) -> None:
    """A reply without its content is asked for again; if that does not help, the job ends with the cause, resumable."""
    once, more = HOLLOW[name]
    for_good = replace(once, times=None)
    chunks: dict[str, Any] = {"multipart_threshold": "5MiB", "multipart_chunk": "5MiB", "size": 7_000_000}
    changes = chunks if name in ("an upload's id", "a chunk", "an upload's end") else {}
    sizes = {"part_size": "6MiB"} if changes else {}
    async with scene(*more, once, upload_attempts=ATTEMPTS, **changes) as there:
        job = await there.run(there.request("once", **sizes))
        assert job.state is State.DONE, job.error
        there.fits("once")
        for fault in (for_good, *map(replace, more)):
            await asyncio.to_thread(there.proxy.add, fault)
        job = await there.run(there.request("for-good", **sizes))
        names_the_cause(job, "the answer")
        await asyncio.to_thread(there.proxy.mend, for_good)
        if job.resumable:
            job = await there.resume(job)
            assert job.state is State.DONE, job.error
            there.fits("for-good")
        else:
            # Nothing had been stored yet.
            assert there.ground.keys(f"{there.root}/for-good") == []
