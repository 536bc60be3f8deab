"""The commands about jobs that the daemon has."""

from __future__ import annotations

import json
import os
import pty
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amistream.cli.command_page import page_of
from amistream.cli.main import add_command, load_command
from amistream.cli.quick import rows
from amistream.entry import COMPAT, COMPAT_CONTEXT
from amistream.errors import ConflictError, NotFoundError
from amistream.events import JobView, State
from amistream.jobs.job import End, Job
from cli.running import Cli, Spawn, ended, lines_until
from cli.scripted import ScriptedDaemon, begin, succeed


async def test_jobs_lists_one_line_each(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Jobs are listed newest first below a heading, and the note says that there are older ones."""
    first, second = daemon.add(), daemon.add()
    begin(second)
    outcome = await cli("jobs")
    heading, *rows = outcome.stdout.splitlines()
    assert (outcome.status, outcome.stderr) == (0, "")
    assert heading.split() == ["ID", "STATE", "AGE", "SIZE", "WHO", "SOURCE", "AMI", "OR", "DESTINATION"]
    assert [row.split()[:3] for row in rows] == [[second.id, "bundling", "75"], [first.id, "queued", "0"]]
    assert rows[1].endswith("s ago  -          -    /dev/xvda  s3://bucket/web")
    limited = await cli("jobs", "--limit", "1")
    assert [line.split()[0] for line in limited.stdout.splitlines()] == ["ID", second.id]
    assert limited.stderr == "only the newest 1 are shown; --all shows every job, --limit N the newest N\n"
    assert len((await cli("jobs", "--all")).stdout.splitlines()) == 3
    assert [each.path for each in daemon.seen] == ["/v1/jobs?limit=21", "/v1/jobs?limit=2", "/v1/jobs"]


async def test_jobs_of_one_state(daemon: ScriptedDaemon, cli: Cli) -> None:
    """With --state and --label only those jobs are asked for; with --json the answer is the API's document."""
    daemon.add()
    succeed(wanted := daemon.add())
    outcome = await cli("jobs", "--state", "done", "--json")
    assert daemon.seen[0].path == "/v1/jobs?state=done&limit=20"
    assert [job["id"] for job in json.loads(outcome.stdout)["jobs"]] == [wanted.id]
    await cli("jobs", "--state", "failed", "--label", "a b", "--all")
    assert daemon.seen[-1].path == "/v1/jobs?state=failed&state=interrupted&state=unfinished&label=a+b"


async def test_a_job_by_a_part_of_its_id(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A change of a job is asked for by its whole id, which the command asks for first."""
    begin(job := daemon.add())
    begin(daemon.add())
    assert (await cli("cancel", job.id[-5:-1])).status == 2
    outcome = await cli("cancel", job.id[16:])
    assert (outcome.status, outcome.stdout) == (0, f"{job.id}\n")
    assert [(each.method, each.path) for each in daemon.seen[-3:-1]] == [
        ("GET", f"/v1/jobs/{job.id[16:]}"),
        ("DELETE", f"/v1/jobs/{job.id}"),
    ]


async def test_an_unknown_state_is_refused(cli: Cli) -> None:
    """A state that does not exist is refused with the list of those that do."""
    outcome = await cli("jobs", "--state", "asleep")
    assert outcome.status == 2
    assert "--state" in outcome.stderr
    assert "'queued'" in outcome.stderr


async def test_status_of_a_running_job(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A running job is shown with its progress and what limits it."""
    begin(job := daemon.add())
    job.note("the key was generated")
    outcome = await cli("status", job.id)
    assert outcome.status == 0
    assert "75 %, 0.7 s left, 320.0 MiB of 400.0 MiB read, 143.1 MiB/s, 9 parts stored" in outcome.stdout
    assert "limited by compression" in outcome.stdout
    assert "the key was generated" in outcome.stdout


async def test_status_of_an_ended_job(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Looking at a job succeeds whatever the job came to, and shows its result or its error."""
    succeed(good := daemon.add())
    bad = daemon.add()
    begin(bad)
    bad.end(End(State.FAILED, error=ConflictError("x.y", "cannot store it", hint="buy a disk")))
    bare = daemon.add()
    bare.end(End(State.FAILED, error=ConflictError("x.y", "cannot say why")))
    assert "ami-0123456789abcdef0" in (await cli("status", good.id)).stdout
    assert (await cli("status", bare.id)).stdout.endswith("cannot say why\n")
    outcome = await cli("status", bad.id)
    assert outcome.status == 0
    assert "cannot store it\n" in outcome.stdout
    assert "buy a disk" in outcome.stdout
    assert JobView.model_validate_json((await cli("status", bad.id, "--json")).stdout) == bad.view()


async def test_what_is_left_of_a_job(daemon: ScriptedDaemon, cli: Cli) -> None:
    """The list marks a job of which something is left; its status says what, and until when more may come."""
    begin(job := daemon.add())
    job.note("not all is removed: image.part.01 may still appear")
    until = datetime(2026, 11, 29, 2, 15, tzinfo=UTC)
    job.end(End(State.CANCELLED, resumable=True, looks_again_at=until))
    succeed(done := daemon.add())
    listed = (await cli("jobs")).stdout.splitlines()
    assert [", unfinished " in line for line in listed] == [False, False, True]
    assert done.id in listed[1]
    shown = (await cli("status", job.id)).stdout
    assert "not all is removed: image.part.01 may still appear" in shown
    assert "until 2026-11-29 02:15:00 UTC" in shown
    assert json.loads((await cli("status", job.id, "--json")).stdout)["looks_again_at"] == "2026-11-29T02:15:00Z"


async def test_watch_ends_as_the_job_does(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Watching a job that has ended tells its story again and exits with its status."""
    succeed(good := daemon.add())
    begin(bad := daemon.add())
    bad.move(State.CANCELLED)
    assert "ami-0123456789abcdef0" in (await cli("watch", good.id)).stdout
    assert (await cli("watch", bad.id)).status == 4


async def test_cancel_waits_for_the_end(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Cancelling succeeds when the job is cancelled, and prints its id."""
    begin(job := daemon.add())
    outcome = await cli("cancel", job.id)
    assert (outcome.status, outcome.stdout) == (0, f"{job.id}\n")
    assert job.state is State.CANCELLED
    assert [each.method for each in daemon.seen] == ["DELETE", "GET"]


@pytest.mark.parametrize("word", ["--detach", "--no-wait"])
async def test_cancel_without_waiting(daemon: ScriptedDaemon, cli: Cli, word: str) -> None:
    """With --detach or --no-wait cancelling returns while the job still cleans up."""
    begin(job := daemon.add())
    daemon.on_cancel = lambda _: None
    outcome = await cli("cancel", job.id, word, "--json")
    assert (outcome.status, json.loads(outcome.stdout)["state"]) == (0, "bundling")


async def test_a_cancel_that_comes_too_late(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A job that is done before the cancel reaches it is not reported as cancelled."""
    job = daemon.add()
    daemon.on_cancel = succeed
    outcome = await cli("cancel", job.id)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert f"cannot cancel job {job.id}: it has already ended (done)" in outcome.stderr


async def test_resume_follows_the_job(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A resumed job is followed to its end; with --detach only its id is printed."""
    succeed(job := daemon.add())
    outcome = await cli("resume", job.id)
    assert daemon.seen[0].path == f"/v1/jobs/{job.id}/resume"
    assert (outcome.status, "ami-0123456789abcdef0" in outcome.stdout) == (0, True)
    assert (await cli("resume", job.id, "--detach")).stdout == f"{job.id}\n"


def keep(daemon: ScriptedDaemon) -> Job:
    """Add a job that failed and kept its parts; a cancel removes them."""
    begin(job := daemon.add())
    job.end(End(State.FAILED, error=ConflictError("x.y", "cannot store it"), resumable=True, kept=2))

    def clean(old: Job) -> None:
        daemon.jobs[old.id] = again = old.again()
        again.move(State.CANCELLED)

    daemon.on_cancel = clean
    return job


async def test_clean_asks_first(daemon: ScriptedDaemon, cli: Cli, spawn: Spawn) -> None:
    """Parts of unfinished jobs are removed after a yes, given beforehand or at the question below their list."""
    succeed(daemon.add())
    jobs = [keep(daemon), keep(daemon)]
    outcome = await cli("clean")
    assert (outcome.status, daemon.requests("DELETE")) == (3, [])
    assert "there is no terminal to ask on" in outcome.stderr
    assert all(job.id in outcome.stderr for job in jobs)
    for answer, status in ((b"n\n", 3), (b"y\n", 0)):
        assert daemon.requests("DELETE") == []
        ours, theirs = pty.openpty()
        process = await spawn("clean", stdin=theirs)
        os.close(theirs)
        asked = await lines_until(process.stderr, "[y/N]")
        assert asked[-1] == "Remove all that 2 unfinished jobs stored? [y/N]\n"
        os.write(ours, answer)
        ends = await ended(process)
        os.close(ours)
        assert ends.status == status, ends.stderr
    assert {daemon.jobs[job.id].state for job in jobs} == {State.CANCELLED}
    assert (await cli("clean", "--json")).stdout == '{"jobs":[]}\n'


async def test_clean_some(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Ids and an age choose the jobs; an id without leftovers is refused before anything is removed."""
    old, young, other = keep(daemon), keep(daemon), keep(daemon)
    assert old.ended_at is not None
    old.ended_at -= timedelta(days=8)
    listed = await cli("clean", "--dry-run", "--older-than", "7d", "--json")
    assert [job["id"] for job in json.loads(listed.stdout)["jobs"]] == [old.id]
    for unknown, shown in (("none", "none"), ("", "''")):
        outcome = await cli("clean", young.id, unknown, "--yes")
        assert (outcome.status, daemon.requests("DELETE")) == (2, [])
        assert f"cannot clean job {shown}: " in outcome.stderr
    outcome = await cli("clean", young.id, old.id, "--yes", "--older-than", "1w", "--json")
    assert (outcome.status, [job["id"] for job in json.loads(outcome.stdout)["jobs"]]) == (0, [old.id])
    assert (await cli("clean", young.id, "--yes")).status == 0
    assert [daemon.jobs[job.id].resumable for job in (old, young, other)] == [False, False, True]


async def test_clean_goes_on_after_a_job_that_stays(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A job whose parts cannot be removed is reported, and the others are cleaned."""
    stays, goes = keep(daemon), keep(daemon)
    clean = daemon.on_cancel
    daemon.on_cancel = lambda job: clean(job) if job is goes else None
    outcome = await cli("clean", "--yes", "--json")
    assert (outcome.status, [job["id"] for job in json.loads(outcome.stdout)["jobs"]]) == (4, [goes.id])
    assert "amistream: cannot store it\n" in outcome.stderr
    assert daemon.jobs[stays.id].resumable


@pytest.mark.parametrize("command", ["status", "watch", "cancel", "resume"])
async def test_an_unknown_job(daemon: ScriptedDaemon, cli: Cli, command: str) -> None:
    """A job that the daemon does not know is the caller's mistake, whatever is asked about it."""
    daemon.refuse = NotFoundError("job.unknown", "cannot find a job 'x'", hint="`amistream jobs` lists them")
    outcome = await cli(command, "x", "--json")
    assert outcome.status == 2
    assert json.loads(outcome.stdout) == {"error": daemon.refuse.as_dict()}
    assert outcome.stderr == "amistream: cannot find a job 'x'\n`amistream jobs` lists them\n"


async def test_an_id_cannot_leave_its_place(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Any text that is given as an id stays one step of the request's path."""
    daemon.refuse = NotFoundError("job.unknown", "cannot find it")
    await cli("status", "a/b?c")
    assert daemon.seen[0].path == "/v1/jobs/a%2Fb%3Fc"


async def test_the_socket_is_found_in_the_settings(
    daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without --socket and its variable, the socket is that of the settings file."""
    monkeypatch.delenv("AMISTREAM_SOCKET")
    config = tmp_path / "amistream.toml"
    config.write_text(f'socket = "{daemon.socket}"\n')
    assert (await cli("jobs", "--config", str(config))).status == 0
    config.write_text("socket = [\n")
    outcome = await cli("jobs", "--config", str(config))
    assert (outcome.status, str(config) in outcome.stderr) == (2, True)


@pytest.mark.parametrize("name", [name for name, *rest in rows() if name and rest])
async def test_every_help(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The help of each command has an example and every option, whole at every width, and no types of flags."""
    add_command(*COMPAT, **COMPAT_CONTEXT)
    words = name.split()
    command: Any = load_command(words[0])
    page = page_of(command.commands[words[1]] if words[1:] else command, f"amistream {name}")
    entries = (*page.arguments, *page.options)
    wanted = [*(entry.term for entry in entries if entry.meaning), *(own for own, _ in page.commands)]
    texts = []
    for width in (60, 80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = await cli(*words, "--help-all")
        assert outcome.status == 0
        assert re.search(rf"^  (.* \| )?amistream {name}\b", outcome.stdout, re.MULTILINE)
        assert "<" not in outcome.stdout.replace(" <", "")
        assert "{SOURCE}" not in outcome.stdout
        lines = outcome.stdout.splitlines()
        # A single word may be longer.
        assert max(len(line) for line in lines if len(line.split()) > 2) <= width
        assert [term for term in wanted if not any(line.startswith(f"  {term}") for line in lines)] == []
        texts.append(outcome.stdout.replace("\\\n", "").split())
    assert texts[0] == texts[1] == texts[2]


async def test_a_short_help(cli: Cli) -> None:
    """A command with many options shows the main ones, and says how to see the rest; alone, the groups show theirs."""
    for words in (["bundle"], ["convert"], ["doctor"]):
        text = (await cli(*words, "-h")).stdout
        assert len(text.splitlines()) < 70
        assert "\n  --help-all" in text
        assert "--product-code" not in text
    assert (await cli("fleet")).stdout == (await cli("fleet", "--help")).stdout
    assert (await cli("fleet")).status == (await cli()).status == 0
    assert (await cli()).stdout == (await cli("--help")).stdout


async def test_help_knows_both_names(cli: Cli) -> None:
    """The help names both terms that people search for: instance store-backed and S3-backed."""
    for words in (["--help"], ["bundle", "--help"]):
        text = " ".join((await cli(*words)).stdout.split())
        assert "instance store-backed (S3-backed)" in text
