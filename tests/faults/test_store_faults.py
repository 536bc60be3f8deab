"""A table of faults of the network and AWS: each row runs a whole job, and a failed one is resumed.

A row gives the proxy's faults, passing or lasting, and the job's outcome. Parts go up one after another, so that the
parts stored before a fault are known.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from amistream.events import BundleResult, State
from faults.scene import MANIFEST, PROBE, REGISTER, part
from support.proxy import Answer, DropReply, Fault, Reset, Slow, StallBody, TruncateReply

if TYPE_CHECKING:
    from amistream.jobs.job import Job
    from faults.scene import MakeScene, Scene
    from support.proxy import Action

DESCRIBE = "Action=DescribeImages"
CREATE, CHUNK, COMPLETE = "^uploads", "partNumber=2", "^uploadId=[^&]*$"
CHUNKED: dict[str, Any] = {
    "size": 7_000_000,
    "part_size": "6MiB",
    "multipart_threshold": "5MiB",
    "multipart_chunk": "5MiB",
}
"""Two parts, the first of which goes up in two chunks."""


def on_part(action: Action, *, times: int | None = 1, number: int | str = 2) -> Fault:
    return Fault(action=action, path=part(number), times=times)


def on_manifest(action: Action, *, times: int | None = 1, method: str = "PUT", nth: int = 1) -> Fault:
    return Fault(action=action, path=MANIFEST, times=times, method=method, nth=nth)


def on_upload(action: Action, step: str, *, times: int | None = 1) -> Fault:
    """A fault on one step of the first part's multipart upload."""
    return Fault(action=action, path=part(0), method="PUT" if step == CHUNK else "POST", query=step, times=times)


def on_ec2(action: Action, form: str = REGISTER, *, times: int | None = 1, nth: int = 1) -> Fault:
    return Fault(action=action, method="POST", form=form, times=times, nth=nth)


def on_probe(action: Action, method: str = "PUT", *, times: int | None = 1) -> Fault:
    return Fault(action=action, path=PROBE, method=method, times=times)


def says(status: int, code: str, *, early: bool = False) -> Answer:
    return Answer(status=status, code=code, early=early)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A script. `code` is the error's; `cause` is part of its message, by default the AWS code in brackets."""

    name: str
    faults: tuple[Fault, ...]
    code: str = ""
    cause: str = ""
    state: State = State.FAILED
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


PASSING = [
    Row(name="reset at byte 0 of a part", faults=(on_part(Reset(after=0), times=2),)),
    Row(name="reset at byte 1 of a part", faults=(on_part(Reset(after=1), times=2),)),
    Row(name="reset in the middle of a part", faults=(on_part(Reset(after=100_000), times=2),)),
    Row(name="reset after the last byte of a part", faults=(on_part(Reset(after=262_144), times=2),)),
    Row(name="reset in the manifest", faults=(on_manifest(Reset(after=100), times=2),)),
    Row(name="100-continue withheld", faults=(on_part(StallBody(after=0)),)),
    Row(name="server stops reading", faults=(on_part(StallBody(after=1000)),)),
    Row(name="slow drip", faults=(on_part(Slow(bytes_per_second=2_000_000)),)),
    Row(
        name="burst of 500, 503 and SlowDown",
        faults=(
            on_part(says(500, "InternalError"), times=2, number=0),
            on_part(says(503, "ServiceUnavailable"), times=2, number=1),
            on_part(says(503, "SlowDown", early=True), times=2, number=2),
            on_part(says(503, "SlowDown"), times=2, number=4),
        ),
    ),
    Row(name="400 BadDigest", faults=(on_part(says(400, "BadDigest")),)),
    Row(name="400 RequestTimeout", faults=(on_part(says(400, "RequestTimeout")),)),
    Row(name="400 ExpiredToken", faults=(on_part(says(400, "ExpiredToken")),)),
    Row(name="409 ConditionalRequestConflict", faults=(on_part(says(409, "ConditionalRequestConflict")),)),
    Row(name="307 TemporaryRedirect", faults=(on_part(says(307, "TemporaryRedirect")),)),
    Row(name="reply to a part lost", faults=(on_part(DropReply()),)),
    Row(name="reply to a part lost twice", faults=(on_part(DropReply(), times=2),)),
    Row(name="reply to a part cut off", faults=(on_part(TruncateReply()),)),
    Row(name="reply to the manifest lost twice", faults=(on_manifest(DropReply(), times=2),)),
    Row(name="reply to the manifest cut off", faults=(on_manifest(TruncateReply()),)),
    Row(
        name="reply about the manifest lost",
        faults=(Fault(action=DropReply(), path=MANIFEST, method="HEAD", nth=2, times=2),),
    ),
    Row(
        name="reply about a part lost",
        faults=(Fault(action=DropReply(), path=part(1), method="HEAD", times=2),),
    ),
    Row(
        name="list of what is there cut off",
        faults=(Fault(action=TruncateReply(), path="/[^/]*", query="list-type", method="GET"),),
    ),
    Row(name="upload begun, reply lost", faults=(on_upload(DropReply(), CREATE, times=2),), changes=CHUNKED),
    Row(name="upload begun, reply cut off", faults=(on_upload(TruncateReply(), CREATE),), changes=CHUNKED),
    Row(name="reply to a chunk lost twice", faults=(on_upload(DropReply(), CHUNK, times=2),), changes=CHUNKED),
    Row(name="chunk reset", faults=(on_upload(Reset(after=1_000_000), CHUNK, times=2),), changes=CHUNKED),
    Row(name="completed, reply lost", faults=(on_upload(DropReply(), COMPLETE),), changes=CHUNKED),
    Row(name="completed, reply cut off", faults=(on_upload(TruncateReply(), COMPLETE),), changes=CHUNKED),
    Row(
        name="not completed, 500 twice",
        faults=(on_upload(says(500, "InternalError"), COMPLETE, times=2),),
        changes=CHUNKED,
    ),
    Row(
        name="not completed, 200 with an error in it",
        faults=(on_upload(says(200, "InternalError"), COMPLETE),),
        changes=CHUNKED,
    ),
    Row(name="registered, reply lost", faults=(on_ec2(DropReply()),)),
    Row(name="registered, reply cut off", faults=(on_ec2(TruncateReply()),)),
    Row(name="registration reset", faults=(on_ec2(Reset(after=0)),)),
    Row(name="EC2 RequestLimitExceeded", faults=(on_ec2(says(503, "RequestLimitExceeded")),)),
    Row(name="EC2 500 twice", faults=(on_ec2(says(500, "InternalError"), times=2),)),
    Row(name="look at the image lost", faults=(on_ec2(DropReply(), DESCRIBE, nth=2),)),
    Row(name="probe stored, reply lost twice", faults=(on_probe(DropReply(), times=2),)),
    Row(name="probe 500", faults=(on_probe(says(500, "InternalError")),)),
    Row(name="probe deleted, reply lost twice", faults=(on_probe(DropReply(), "DELETE", times=2),)),
    Row(name="probe not deleted, 500", faults=(on_probe(says(500, "InternalError"), "DELETE"),)),
    Row(name="503 before anything else", faults=(Fault(action=says(503, "SlowDown"), path="/[^/]*", method="HEAD"),)),
    Row(name="first look at EC2 cut off", faults=(on_ec2(TruncateReply(), DESCRIBE),)),
    Row(name="EC2 busy before the job begins", faults=(on_ec2(says(503, "RequestLimitExceeded"), DESCRIBE),)),
]

LASTING = [
    Row(name="reset", faults=(on_part(Reset(after=1000), times=None),), code="aws.unreachable", cause="reset"),
    Row(
        name="100-continue withheld",
        faults=(on_part(StallBody(after=0), times=None),),
        code="store.stalled",
        cause="(tried 3 times)",
    ),
    Row(
        name="server stops reading",
        faults=(on_part(StallBody(after=1000), times=None),),
        code="store.stalled",
        cause="(tried 3 times)",
    ),
    Row(name="500", faults=(on_part(says(500, "InternalError"), times=None),), code="aws.InternalError"),
    Row(name="503", faults=(on_part(says(503, "ServiceUnavailable"), times=None),), code="aws.ServiceUnavailable"),
    Row(name="SlowDown", faults=(on_part(says(503, "SlowDown"), times=None),), code="aws.SlowDown"),
    Row(name="BadDigest", faults=(on_part(says(400, "BadDigest"), times=None),), code="aws.BadDigest"),
    Row(name="RequestTimeout", faults=(on_part(says(400, "RequestTimeout"), times=None),), code="aws.RequestTimeout"),
    Row(
        name="PermanentRedirect",
        faults=(on_part(says(301, "PermanentRedirect"), times=None),),
        code="aws.PermanentRedirect",
    ),
    Row(name="ExpiredToken", faults=(on_part(says(400, "ExpiredToken"), times=None),), code="aws.ExpiredToken"),
    Row(
        name="RequestTimeTooSkewed",
        faults=(on_part(says(403, "RequestTimeTooSkewed"), times=None),),
        code="aws.RequestTimeTooSkewed",
    ),
    Row(
        name="ConditionalRequestConflict",
        faults=(on_part(says(409, "ConditionalRequestConflict"), times=None),),
        code="aws.ConditionalRequestConflict",
    ),
    Row(name="AccessDenied", faults=(on_part(says(403, "AccessDenied"), times=None),), code="aws.AccessDenied"),
    Row(name="NoSuchBucket", faults=(on_part(says(404, "NoSuchBucket"), times=None),), code="aws.NoSuchBucket"),
    Row(name="reply lost", faults=(on_part(DropReply(), times=None),), code="aws.unreachable", cause="part.02"),
    Row(name="reply cut off", faults=(on_part(TruncateReply(), times=None),), code="aws.unreachable", cause="part.02"),
    Row(
        name="a part cannot be looked at",
        faults=(Fault(action=says(500, "InternalError"), path=part(2), method="HEAD", times=None),),
        code="aws.InternalError",
    ),
    Row(
        name="a part is gone",
        faults=(Fault(action=says(404, "NoSuchKey"), path=part(2), method="HEAD", times=None),),
        code="store.lost",
        cause="part.02: 262144 bytes were stored, and now it is not there",
    ),
    Row(
        name="manifest refused",
        faults=(on_manifest(says(403, "AccessDenied"), times=None),),
        code="aws.AccessDenied",
    ),
    Row(
        name="manifest's reply lost",
        faults=(on_manifest(DropReply(), times=None),),
        code="aws.unreachable",
        cause="manifest.xml",
    ),
    Row(
        name="manifest cannot be looked at",
        faults=(on_manifest(says(500, "InternalError"), method="HEAD", nth=2, times=None),),
        code="aws.InternalError",
    ),
    Row(
        name="EC2 RequestLimitExceeded",
        faults=(on_ec2(says(503, "RequestLimitExceeded"), times=None),),
        code="aws.RequestLimitExceeded",
    ),
    Row(
        name="EC2 UnauthorizedOperation",
        faults=(on_ec2(says(403, "UnauthorizedOperation"), times=None),),
        code="aws.UnauthorizedOperation",
    ),
    Row(
        name="EC2 cannot read the manifest",
        faults=(on_ec2(says(400, "InvalidManifest"), times=None),),
        code="aws.InvalidManifest",
    ),
    Row(
        name="registered, reply lost, EC2 gone",
        faults=(on_ec2(DropReply(), times=None), on_ec2(Reset(after=0), DESCRIBE, nth=2, times=None)),
        code="aws.unreachable",
        cause="look for",
    ),
    Row(
        name="registered, then EC2 busy",
        faults=(on_ec2(says(503, "RequestLimitExceeded"), DESCRIBE, nth=2, times=None),),
        code="register.unknown",
        cause="(RequestLimitExceeded)",
    ),
]

CLEANED = [
    Row(
        name="the first part is refused",
        faults=(on_part(says(403, "AccessDenied"), times=None, number="..?"),),
        code="aws.AccessDenied",
    ),
    Row(
        name="the first part fails for good",
        faults=(on_part(says(500, "InternalError"), times=None, number="..?"),),
        code="aws.InternalError",
    ),
    Row(
        name="another's part is there",
        faults=(on_part(says(412, "PreconditionFailed"), times=None),),
        code="store.exists",
        cause="it exists already",
    ),
    Row(
        name="an upload cannot be begun",
        faults=(on_upload(says(500, "InternalError"), CREATE, times=None),),
        code="aws.InternalError",
        changes=CHUNKED,
    ),
    Row(
        name="a chunk is refused",
        faults=(on_upload(says(403, "AccessDenied"), CHUNK, times=None),),
        code="aws.AccessDenied",
        changes=CHUNKED,
    ),
    Row(
        name="an upload cannot be completed",
        faults=(on_upload(says(500, "InternalError"), COMPLETE, times=None),),
        code="aws.InternalError",
        changes=CHUNKED,
    ),
    Row(
        name="the only part is completed, its reply lost",
        faults=(on_upload(DropReply(), COMPLETE, times=None),),
        code="aws.unreachable",
        cause="part.00",
        changes=CHUNKED,
    ),
    Row(
        name="the probe is refused",
        faults=(on_probe(says(403, "AccessDenied"), times=None),),
        code="aws.AccessDenied",
        state=State.REFUSED,
    ),
    Row(
        name="the probe's reply is always lost",
        faults=(on_probe(DropReply(), times=None),),
        code="aws.unreachable",
        cause="write to",
        state=State.REFUSED,
    ),
    Row(
        name="the bucket cannot be looked at",
        faults=(Fault(action=Reset(after=0), path="/[^/]*", method="HEAD", times=None),),
        code="aws.unreachable",
        cause="bucket",
        state=State.REFUSED,
    ),
    Row(
        name="EC2 is busy before anything is read",
        faults=(on_ec2(says(503, "RequestLimitExceeded"), DESCRIBE, times=None),),
        code="aws.RequestLimitExceeded",
        state=State.REFUSED,
    ),
]


def failed_as_the_row_says(job: Job, row: Row) -> None:
    """Assert the state, the exact code, and a message of one line that names the cause."""
    assert job.error is not None
    assert (job.state, job.error.code) == (row.state, row.code), job.error
    cause = row.cause or f"({row.code.removeprefix('aws.')})"
    assert cause in job.error.message
    assert job.error.message.startswith("cannot ")
    assert "\n" not in job.error.message


def done_right(there: Scene, job: Job) -> None:
    assert job.state is State.DONE, job.error
    assert isinstance(job.result, BundleResult)
    assert there.fits() == job.result.parts
    assert there.images() == [job.result.image_id]
    there.parts_stored_once()


@pytest.mark.parametrize("row", PASSING, ids=str)
async def test_what_passes_costs_a_repeat_and_not_the_job(row: Row, scene: MakeScene) -> None:
    """After a fault that passes the job is done, its bundle right, and no more is there than belongs to it."""
    async with scene(*row.faults, **{"upload_concurrency": 1, **row.changes}) as there:
        done_right(there, await there.run())
        for fault in row.faults:
            assert any(each.fault is fault for each in there.proxy.requests), "the fault did not happen"


@pytest.mark.parametrize("row", LASTING, ids=str)
async def test_what_lasts_fails_the_job_and_keeps_its_parts(row: Row, scene: MakeScene) -> None:
    """A lasting fault fails the job with its cause in one line; afterwards `resume` sends only the missing parts."""
    async with scene(*row.faults, **{"upload_concurrency": 1, **row.changes}) as there:
        job = await there.run()
        failed_as_the_row_says(job, row)
        assert job.error is not None
        assert job.resumable
        assert f"amistream resume {job.id}" in job.error.hint
        kept = set(there.left())
        assert kept
        await asyncio.to_thread(there.proxy.mend, *row.faults)
        done_right(there, await there.resume(job))
        assert kept <= set(there.left())


@pytest.mark.parametrize("row", [row for row in LASTING if row.name in {"AccessDenied", "500", "manifest refused"}])
async def test_a_kept_job_can_be_removed_instead(row: Row, scene: MakeScene) -> None:
    """`cancel` takes away what a failed job kept; nothing of it is left."""
    async with scene(*row.faults) as there:
        job = await there.run()
        await asyncio.to_thread(there.proxy.mend, *row.faults)
        assert (await there.cancel(job)).state is State.CANCELLED
        assert there.left() == []


@pytest.mark.parametrize("row", CLEANED, ids=str)
async def test_what_lasts_from_the_start_leaves_nothing(row: Row, scene: MakeScene) -> None:
    """A job that has stored nothing worth keeping fails with the cause in one line, and removes the rest."""
    async with scene(*row.faults, **{"upload_concurrency": 1, **row.changes}) as there:
        job = await there.run()
        failed_as_the_row_says(job, row)
        assert not job.resumable
        assert there.left() == []


@pytest.mark.parametrize(
    "action", [says(500, "InternalError"), DropReply(), Reset(after=0)], ids=["500", "lost", "reset"]
)
async def test_clean_up_repeats_what_fails_in_passing(action: Action, scene: MakeScene) -> None:
    """A part whose removal fails twice is removed at the third attempt."""
    refused = on_part(says(412, "PreconditionFailed"), times=None)
    deleting = Fault(action=action, path=part(1), method="DELETE", times=2)
    async with scene(refused, deleting, upload_concurrency=1) as there:
        job = await there.run()
        assert job.state is State.FAILED
        assert there.left() == []


async def test_what_cannot_be_removed_is_named_and_removed_later(scene: MakeScene) -> None:
    """A job whose clean-up fails names what is left, and `cancel` removes that when the fault is gone."""
    refused = on_part(says(412, "PreconditionFailed"), times=None)
    deleting = Fault(action=says(403, "AccessDenied"), path=part(1), method="DELETE", times=None)
    async with scene(refused, deleting, upload_concurrency=1) as there:
        job = await there.run()
        assert job.state is State.FAILED
        assert job.resumable
        assert there.left() == ["x/image.part.01"]
        assert any("x/image.part.01" in notice and "not all is removed" in notice for notice in job.notices)
        await asyncio.to_thread(there.proxy.mend, refused, deleting)
        assert (await there.cancel(job)).state is State.CANCELLED
        assert there.left() == []
