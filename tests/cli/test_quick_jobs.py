"""Short questions about jobs, which the client answers without its commands."""

from __future__ import annotations

import asyncio
import json

import pytest

from amistream.cli import quick
from amistream.cli.answers import Document, view_of
from amistream.cli.summary import job_text
from amistream.errors import ConflictError
from amistream.events import JobKind, JobResult, JobView, State
from amistream.jobs.job import End
from amistream.reports import Access, Digests, Migrated, Registered, Report, Signature
from cli.running import Cli
from cli.scripted import RESULT, ScriptedDaemon, begin, make_job, succeed
from jobs.converting import RESULT as CONVERTED

REPORT = Report(
    manifest="s3://b/m",
    deep=False,
    bundler="x",
    kind="machine",
    architecture="x86_64",
    image_name="web",
    image_size=1 << 30,
    bundled_size=1 << 20,
    parts=3,
    digests=Digests(compared=3, composite=0, unkept=0),
    signature=Signature.RIGHT,
    access=Access.GRANTED,
    content=None,
    differences=(),
    notes=("one",),
    elapsed_s=1.5,
)
MIGRATED = Migrated(
    manifest="s3://c/m",
    source="s3://b/m",
    parts=3,
    kept=0,
    bundled_size=1 << 20,
    elapsed_s=2.0,
    region="eu-west-1",
    copied=2,
    kernel="aki-12345678",
    ramdisk=None,
    image=Registered(image_id="ami-12345678", image_name="web", manifest="s3://c/m", region="eu-west-1"),
)


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        (JobKind.BUNDLE, RESULT),
        (JobKind.CONVERT, CONVERTED),
        (JobKind.VERIFY, REPORT),
        (JobKind.MIGRATE, MIGRATED),
        *((kind, None) for kind in JobKind),
    ],
)
def test_a_document_reads_as_its_model(kind: JobKind, result: JobResult | None) -> None:
    """The text of a job is the same whether it comes from the model or from its document."""
    begin(job := make_job())
    job.note("café \x1b[31m")
    seen = [job.view()]
    job.end(End(State.FAILED, error=ConflictError("x.y", "cannot store it", hint="buy a disk"), resumable=True))
    seen += [job.view(), job.view().model_copy(update={"error": None, "result": result})]
    for each in seen:
        view = JobView.model_validate(each.model_copy(update={"kind": kind}).model_dump())
        document = json.loads(view.model_dump_json(), object_hook=Document)
        assert job_text(view_of(document)) == job_text(view)


async def test_both_ways_give_the_same_output(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A call that is answered at once has the output of its command; every other one is left to the command."""
    succeed(done := daemon.add())
    begin(running := daemon.add())
    running.note("café \x1b[31m")
    calls = [
        ["jobs"],
        ["jobs", "--json"],
        ["jobs", "--state", "done"],
        ["jobs", "--state=done", "--json"],
        ["jobs", "--limit", "1", "--label=x"],
        ["jobs", "--limit", "100000"],
        ["jobs", "--all"],
        ["status", done.id],
        ["status", done.id[:-1]],
        ["status", "--json", running.id],
        ["status", running.id, "--socket", str(daemon.socket)],
    ]
    for arguments in calls:
        outcome = await cli(*arguments)
        assert outcome.status == 0
        assert outcome.stdout == await asyncio.to_thread(quick.answer, arguments), arguments


@pytest.mark.parametrize(
    "line",
    [
        "jobs extra",
        "jobs --stat done",
        "jobs --state",
        "jobs --json=yes",
        "jobs --limit 0",
        "jobs --limit 100001",
        "jobs --in-process",
        "jobs --help",
        "status",
        "status unknown",
        "status a b",
        "status --config f a",
        "status --socket= a",
    ],
)
async def test_anything_else_is_left_to_the_command(daemon: ScriptedDaemon, cli: Cli, line: str) -> None:
    """Other arguments, and answers that are errors, are not answered at once."""
    assert await asyncio.to_thread(quick.answer, line.split()) is None


async def test_an_answer_that_is_none_is_left_to_the_command(daemon: ScriptedDaemon, cli: Cli) -> None:
    """The command explains what another program answers at the socket."""
    for daemon.garbage in (b"hello", b"{}", b'{"jobs": [{}]}', b'{"jobs": 3}', b'{"state": "done"}', b"[" * 10_000):
        for arguments in (["jobs"], ["status", "x"]):
            assert await asyncio.to_thread(quick.answer, arguments) is None
