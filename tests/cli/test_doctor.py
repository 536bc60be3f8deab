"""`amistream doctor`: what it finds, in words and in JSON, its exit status, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream import __version__
from amistream.checks.findings import Finding, Findings, Status
from amistream.cli.commands.doctor import findings_text
from amistream.cli.main import load_command
from cli.running import Cli, Spawn, ended
from cli.scripted import ScriptedDaemon
from jobs.work import use_endpoint
from support.buckets import list_keys, open_uploads
from support.proxy import Answer, Fault, dry_run_answered
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing

ALONE = ["libraries", "cores", "memory", "state_dir", "source", "memory_limit", "clock", "keys", "ec2_certificate",
         "credentials", "region", "destination"]  # fmt: skip
TO_S3 = [
    *("libraries", "cores", "memory", "state_dir", "source", "size", "mount", "free_blocks", "parts", "memory_limit"),
    *(
        "boot",
        "keys",
        "ec2_certificate",
        "credentials",
        "clock",
        "bucket",
        "region",
        "acls",
        "encryption",
        "versions",
        "probe",
    ),
    *("destination", "account", "devices", "ami_name", "registration"),
]


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AMISTREAM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_image(tmp_path / "disk.img", 700_000)


@pytest.fixture
def words(image: Path, key_ring: KeyRing) -> tuple[str, ...]:
    """A source and keys that are well, for an AMI whose kernel is not in the volume."""
    return (
        "doctor", str(image), "--in-process", "--cert", str(key_ring.user.certificate), "--private-key",
        str(key_ring.user.key), "--ec2-cert", str(key_ring.ec2.certificate), "--account", "123456789012",
        "--virtualization", "paravirtual",
    )  # fmt: skip


@pytest.fixture
def bucket(ministack: Endpoint, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch) -> str:
    use_endpoint(ministack, monkeypatch)
    return make_bucket(ministack)


def read(text: str) -> dict[str, Finding]:
    """Read the JSON of one run, and assert its form."""
    assert text.count("\n") == 1
    values: list[dict[str, Any]] = json.loads(text)
    for value in values:
        assert set(value) == {"name", "status", "found", "why", "fix", "code", "field", "blocked_by"}
    findings = [Finding.model_validate(value) for value in values]
    assert len({finding.name for finding in findings}) == len(findings)
    for finding in findings:
        assert finding.found
        if finding.status is Status.FAILED:
            assert finding.found.startswith("cannot ")
            assert finding.code
            assert finding.why
            assert finding.fix
        if finding.status is Status.NOTICE:
            assert finding.why
    return {finding.name: finding for finding in findings}


def health(**changes: object) -> bytes:
    told = {"status": "ok", "version": __version__, "jobs_running": 1, "jobs_queued": 2, "uptime_s": 1.5}
    return json.dumps({**told, **changes}).encode()


async def test_a_machine_that_is_well(daemon: ScriptedDaemon, cli: Cli, state_dir: Path) -> None:
    """Without words it looks at the machine and its daemon; nothing fails, nothing is made, and the status is 0.

    A daemon that cannot run the checks leaves them to the command.
    """
    daemon.health = health()
    outcome = await cli("doctor", "--json")
    findings = read(outcome.stdout)
    assert list(findings) == ["daemon", *ALONE]
    assert (outcome.status, outcome.stderr) == (0, "")
    assert findings["daemon"].found == f"amistreamd {__version__} at {daemon.socket}, 1 running, 2 waiting"
    assert [request.path for request in daemon.seen] == ["/v1/health", "/v1/doctor"]
    assert findings["source"].found == "SOURCE was not given"
    assert findings["ec2_certificate"].blocked_by == ("region",)
    assert findings["credentials"].status is Status.NOTICE
    assert findings["keys"].status is Status.NOTICE
    assert "will create a key pair" in findings["keys"].found
    assert not state_dir.exists()


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (health(version="0.0.9"), Status.NOTICE, f"amistreamd 0.0.9 at .*; this command is {__version__}"),
        (health(status="stopping"), Status.NOTICE, "stopping"),
        (b"who are you?", Status.FAILED, "cannot understand what answers at"),
    ],
)
async def test_a_daemon_that_is_not_as_it_should_be(
    answer: bytes, status: Status, says: str, daemon: ScriptedDaemon, cli: Cli
) -> None:
    """A daemon of another version, one that stops, and what is no daemon, are told apart."""
    daemon.health = answer
    outcome = await cli("doctor", "--json")
    finding = read(outcome.stdout)["daemon"]
    assert finding.status is status
    assert re.search(says, finding.found)
    assert outcome.status == (3 if status is Status.FAILED else 0)


async def test_the_daemon_runs_the_checks(daemon: ScriptedDaemon, cli: Cli) -> None:
    """With a daemon the findings are the daemon's, about the request as given; a refusal is one of them."""
    daemon.health = health()
    found = Finding(name="source", status=Status.OK, found="all is well")
    daemon.findings = Findings(findings=(found,)).model_dump_json().encode()
    outcome = await cli("doctor", "disk.img", "--to", "out", "--json")
    assert (outcome.status, list(read(outcome.stdout).values())[1:]) == (0, [found])
    assert daemon.seen[-1].body == {
        "source": str(Path("disk.img").absolute()), "destinations": [str(Path("out").absolute())]
    }  # fmt: skip
    daemon.findings = b"?"
    finding = read((await cli("doctor", "--json")).stdout)["checks"]
    assert (finding.status, finding.code) == (Status.FAILED, "daemon.not_understood")


async def test_no_daemon(cli: Cli, socket: Path) -> None:
    """A daemon that is not there fails, unless jobs are to run without one."""
    outcome = await cli("doctor", "--json")
    finding = read(outcome.stdout)["daemon"]
    assert (outcome.status, finding.status, finding.code) == (3, Status.FAILED, "daemon.unreachable")
    assert f"amistreamd --socket {socket}" in finding.fix
    outcome = await cli("doctor", "--json", "--in-process")
    assert (outcome.status, list(read(outcome.stdout))) == (0, ALONE)


async def test_a_job_that_would_do(
    cli: Cli,
    words: tuple[str, ...],
    bucket: str,
    ministack: Endpoint,
    make_proxy: MakeProxy,
    state_dir: Path,
) -> None:
    """With the words of a bundle everything a job would look at is found well, and nothing is left anywhere."""
    proxy = make_proxy(ministack, dry_run_answered())
    outcome = await cli(*words, "--to", f"s3://{bucket}/x", "--endpoint-url", proxy.url, "--json")
    findings = read(outcome.stdout)
    assert (outcome.status, list(findings)) == (0, TO_S3)
    # The image is noise, in which no system can be looked for.
    assert {finding.name: finding.status for finding in findings.values() if finding.status is not Status.OK} == {
        "boot": Status.UNKNOWN
    }
    assert findings["ec2_certificate"].found.endswith(", not one of AWS's")
    assert findings["source"].found == "683.6 KiB image file, 1 extent"
    assert findings["region"].found == ministack.region
    assert [request.path.split("-probe-")[0] for request in proxy.seen("PUT")] == [f"/{bucket}/x/amistream"]
    assert list_keys(ministack, bucket) == []
    assert open_uploads(ministack, bucket) == []
    assert not state_dir.exists()


async def test_everything_that_is_wrong_is_told_at_once(
    cli: Cli, words: tuple[str, ...], bucket: str, ministack: Endpoint, make_proxy: MakeProxy, key_ring: KeyRing
) -> None:
    """Several failures are all told, those that hang on one are skipped and say so, and the order does not change."""
    denied = Fault(action=Answer(status=403, code="AccessDenied"), method="PUT", times=None)
    dry_run = Fault(action=Answer(status=403, code="UnauthorizedOperation"), method="POST", form="DryRun", times=None)
    proxy = make_proxy(ministack, denied, dry_run)
    spoiled = ("--private-key", str(key_ring.stranger.key), "--part-size", "5GiB", "--upload-concurrency", "64")
    outcome = await cli(*words, *spoiled, "--to", f"s3://{bucket}/x", "--endpoint-url", proxy.url, "--json")
    findings = read(outcome.stdout)
    assert (outcome.status, list(findings)) == (3, TO_S3)
    assert {finding.name: finding.code for finding in findings.values() if finding.status is Status.FAILED} == {
        "memory": "memory.small",
        "keys": "key.mismatch",
        "probe": "aws.AccessDenied",
        "registration": "aws.UnauthorizedOperation",
    }
    nothing = (*words[:1], "/nothing.img", *words[2:])
    outcome = await cli(*nothing, "--to", f"s3://{bucket}-not/x", "--endpoint-url", proxy.url, "--json")
    findings = read(outcome.stdout)
    assert (outcome.status, list(findings)) == (3, TO_S3)
    skipped = {finding.name: finding.blocked_by for finding in findings.values() if finding.status is Status.SKIPPED}
    assert skipped == {
        **dict.fromkeys(("size", "mount", "free_blocks", "parts", "boot"), ("source",)),
        **dict.fromkeys(("region", "acls", "encryption", "versions", "probe", "destination"), ("bucket",)),
        **dict.fromkeys(("ami_name", "registration"), ("bucket",)),
    }
    assert findings["probe"].found == "not checked without bucket"
    assert list_keys(ministack, bucket) == []


async def test_several_destinations(
    cli: Cli, words: tuple[str, ...], bucket: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy
) -> None:
    """Every destination is looked at, the second under names of its own; one AMI name serves one in each region."""
    proxy = make_proxy(ministack, dry_run_answered())
    closed = make_bucket(ministack, acls=False)
    to = ("--to", f"s3://{bucket}/x", "--to", f"s3://{closed}/x", "--endpoint-url", proxy.url, "--json")
    outcome = await cli(*words, *to, "--ami-name", f"one of {bucket}")
    findings = read(outcome.stdout)
    assert outcome.status == 3
    assert {finding.name: finding.code for finding in findings.values() if finding.status is Status.FAILED} == {
        "acls 2": "bucket.acls_disabled",
        "ami_names": "ami_name.twice",
    }
    assert findings["probe 2"].blocked_by == ("acls 2",)
    assert (findings["probe"].status, findings["destination 2"].status) == (Status.OK, Status.OK)
    assert list(findings)[: len(TO_S3)] == TO_S3


async def test_two_buckets_of_one_region_without_a_name(
    cli: Cli, words: tuple[str, ...], bucket: str, ministack: Endpoint, make_bucket: MakeBucket, make_proxy: MakeProxy
) -> None:
    """Default names of AMIs in one region differ, so no duplicate is reported."""
    proxy = make_proxy(ministack, dry_run_answered())
    to = ("--to", f"s3://{bucket}/x", "--to", f"s3://{make_bucket(ministack)}/x", "--endpoint-url", proxy.url, "--json")
    outcome = await cli(*words, *to)
    findings = read(outcome.stdout)
    assert (outcome.status, findings["ami_names"].status) == (0, Status.OK)
    first, second = (findings[name].found.removesuffix(" is free").strip("'") for name in ("ami_name", "ami_name 2"))
    assert second == f"{first}-2"


async def test_a_directory(cli: Cli, words: tuple[str, ...], tmp_path: Path) -> None:
    """A directory is looked at and not made; of AWS nothing is asked."""
    outcome = await cli(*words, "--to", str(tmp_path / "out" / "below"), "--json")
    findings = read(outcome.stdout)
    assert outcome.status == 0
    assert findings["directory"].found == f"{tmp_path}/out/below will be created, and {tmp_path}/out, too"
    assert findings["directory"].status is Status.NOTICE
    assert "credentials" not in findings
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "image.part.00").touch()
    outcome = await cli(*words, "--to", str(tmp_path / "out"), "--json")
    assert (outcome.status, read(outcome.stdout)["destination"].code) == (3, "destination.leftover")


async def test_a_destination_alone(cli: Cli, tmp_path: Path) -> None:
    """Without a source the destination is looked at all the same, but for what hangs on the volume."""
    outcome = await cli("doctor", "--to", str(tmp_path / "out"), "--in-process", "--account", "123456789012", "--json")
    findings = read(outcome.stdout)
    assert (findings["source"].status, findings["directory"].status) == (Status.SKIPPED, Status.OK)
    assert findings["space"].blocked_by == ("source",)


async def test_a_source_alone(cli: Cli, words: tuple[str, ...]) -> None:
    """Without a destination the volume and the keys are looked at."""
    outcome = await cli(*words, "--json")
    findings = read(outcome.stdout)
    assert outcome.status == 0
    assert {name: findings[name].status for name in ("source", "size", "keys", "destination")} == {
        **dict.fromkeys(("source", "size", "keys"), Status.OK),
        "destination": Status.SKIPPED,
    }
    assert findings["ec2_certificate"].found.startswith("SHA-1 fingerprint ")


async def test_words_for_people(cli: Cli, words: tuple[str, ...]) -> None:
    """Checks that are well share a line, failures with why and how come last; -v has a line for each."""
    outcome = await cli("doctor", "/nothing.img", *words[2:])
    assert (outcome.status, outcome.stderr) == (3, "")
    lines = outcome.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("failed"))
    assert re.match(r"failed   source +cannot bundle /nothing.img: there is no such file or device$", lines[at])
    assert re.fullmatch(r" {20,}why  there would be nothing to bundle", lines[at + 1])
    assert re.fullmatch(r" {20,}fix  check the path; `lsblk` lists the block devices", lines[at + 2])
    assert lines[at + 3] == ""
    assert re.fullmatch(r"ok       (\w+, )*cores, .*", lines[0])
    assert any(re.match(r"skipped  size +not checked without source$", line) for line in lines[:at])
    verbose = (await cli("doctor", "/nothing.img", *words[2:], "-v")).stdout.splitlines()
    assert any(re.match(r"ok       cores +\d+ cores?, \d+ workers?$", line) for line in verbose)
    assert verbose[-1] == lines[-1]
    assert re.fullmatch(r"1 failed, \d notice, \d ok, \d skipped", lines[-1])


def test_a_hint_of_several_lines() -> None:
    """Each line of a hint stands below the first."""
    text = findings_text([Finding(name="bucket", status=Status.FAILED, found="cannot", fix="first\nsecond", code="x")])
    assert text.splitlines()[1:3] == [f"{'':17}fix  first", f"{'':17}fix  second"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--part-size", "1"], "--part-size: "),
        (["-B", "x"], "--block-device-mapping: "),
        (["--ami-name", "x"], "--ami-name"),
    ],
)
async def test_a_wrong_option_is_named(cli: Cli, wrong: list[str], named: str) -> None:
    """A fault of the arguments alone is reported as `bundle` reports it."""
    outcome = await cli("doctor", *wrong)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert named in outcome.stderr


def test_the_words_of_bundle_are_understood() -> None:
    """Every option of `bundle` can be looked at beforehand; there is nothing to detach from."""
    options = {
        name: {option for each in load_command(name).params for option in each.opts} for name in ("bundle", "doctor")
    }
    assert options["bundle"] - options["doctor"] == {
        "--detach",
        "--no-wait",
        "--quiet",
        "-q",
        "--no-progress",
        "--dry-run",
        "-n",
    }
    assert options["doctor"] - options["bundle"] == set()


def test_a_library_that_is_missing(image: Path) -> None:
    """An installation that is not whole is told as one."""
    code = "import sys; sys.modules['isal'] = None; from amistream.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", str(image), "--json"], capture_output=True, text=True, check=False
    )
    (finding,) = read(done.stdout).values()
    assert (done.returncode, finding.code, finding.name) == (3, "libraries.missing", "libraries")
    assert "isal" in finding.found
    assert done.stderr == ""


async def test_an_interrupt(spawn: Spawn, words: tuple[str, ...]) -> None:
    """Ctrl-C ends it with exit status 130."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await release.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        process = await spawn(
            *words, "--to", "s3://bucket/web", "--endpoint-url", f"http://127.0.0.1:{port}", "--region", "eu-west-1",
            env={"AWS_ACCESS_KEY_ID": "A" * 20, "AWS_SECRET_ACCESS_KEY": "secret"},
        )  # fmt: skip
        await asked.wait()
        process.send_signal(signal.SIGINT)
        outcome = await ended(process)
        release.set()
    assert (outcome.status, outcome.stdout) == (130, "")
    assert outcome.stderr.endswith("cannot finish: interrupted\nnothing was left behind\n")


async def test_nothing_secret_is_told(
    cli: Cli, words: tuple[str, ...], bucket: str, ministack: Endpoint, make_proxy: MakeProxy
) -> None:
    """Neither credentials nor keys are in what is found."""
    proxy = make_proxy(ministack, dry_run_answered())
    for form in ([], ["--json"]):
        outcome = await cli(*words, "--to", f"s3://{bucket}/x", "--endpoint-url", proxy.url, *form)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in outcome.stdout + outcome.stderr
        assert "PRIVATE KEY" not in outcome.stdout + outcome.stderr
