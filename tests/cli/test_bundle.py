"""`amistream bundle` against a daemon: what it sends, what it refuses itself, and what it says at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.errors import ConflictError, RefusedError, StoreError
from amistream.events import JobView, State
from amistream.jobs.job import End, Job
from cli.running import Cli
from cli.scripted import RESULT, ScriptedDaemon, begin

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = ("bundle", "/dev/xvda", "--to", "s3://bucket/web")

EVERY_OPTION = (
    "--prefix", "web", "--region", "eu-west-1", "--endpoint-url", "http://localhost:9000", "--acl", "public-read",
    "--account", "1234-5678-9012", "--cert", "/c.pem", "--private-key", "/k.pem", "--ec2-cert", "/e.pem",
    "--arch", "i386", "--virtualization", "paravirtual", "-k", "aki-01234567", "--ramdisk", "ari-01234567",
    "-B", "ami=sda1,root=/dev/sda1", "-B", "ephemeral0=sdb", "--product-code", "A1", "--product-code", "B2",
    "--ancestor", "ami-01234567", "--inherit", "--register", "--ami-name", "web 1", "--description", "the web",
    "--tag", "team=web", "--tag", "note=a=b", "--part-size", "8MiB", "--upload-concurrency", "4",
    "--compress", "9", "--workers", "2",
)  # fmt: skip


async def test_every_option_reaches_the_request(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Each option fills the field of the request that it stands for."""
    outcome = await cli(*PLAIN, *EVERY_OPTION)
    assert outcome.status == 0, outcome.stderr
    assert daemon.requests("POST")[0].body == {
        "source": "/dev/xvda",
        "destinations": ["s3://bucket/web"],
        "prefix": "web",
        "region": "eu-west-1",
        "endpoint_url": "http://localhost:9000",
        "acl": "public-read",
        "account": "123456789012",
        "certificate": "/c.pem",
        "private_key": "/k.pem",
        "ec2_certificate": "/e.pem",
        "architecture": "i386",
        "virtualization": "paravirtual",
        "kernel": "aki-01234567",
        "ramdisk": "ari-01234567",
        "block_device_mappings": {"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb"},
        "product_codes": ["A1", "B2"],
        "ancestors": ["ami-01234567"],
        "inherit": True,
        "register_image": True,
        "ami_name": "web 1",
        "description": "the web",
        "tags": {"team": "web", "note": "a=b"},
        "part_size": 8 * 1024 * 1024,
        "upload_concurrency": 4,
        "compress": "9",
        "workers": 2,
    }


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [(["--sriov"], "sriov", True), (["--ena"], "ena", True), (["--no-inherit"], "inherit", False),
     (["--no-register"], "register_image", False)],
)  # fmt: skip
async def test_flags_reach_the_request(
    daemon: ScriptedDaemon, cli: Cli, words: list[str], field: str, value: bool
) -> None:
    """A flag is sent as it was said, and only that one."""
    await cli(*PLAIN, *words)
    assert daemon.requests("POST")[0].body == {
        "source": "/dev/xvda", "destinations": ["s3://bucket/web"], field: value,
    }  # fmt: skip


async def test_paths_are_made_absolute(
    daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path means the directory in which the command was started."""
    monkeypatch.chdir(tmp_path)
    await cli("bundle", "disk.img", "--to", "out", "--cert", "c.pem", "--private-key", "k.pem", "--ec2-cert", "e.pem",
              "--fstab", "fstab")  # fmt: skip
    assert daemon.requests("POST")[0].body == {
        "fstab": f"{tmp_path}/fstab",
        "source": f"{tmp_path}/disk.img",
        "destinations": [f"{tmp_path}/out"],
        "certificate": f"{tmp_path}/c.pem",
        "private_key": f"{tmp_path}/k.pem",
        "ec2_certificate": f"{tmp_path}/e.pem",
    }


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("EC2_CERT=/c.pem", "certificate"),
        ("AMISTREAM_CERTIFICATE=/c.pem", "certificate"),
        ("EC2_PRIVATE_KEY=/k.pem", "private_key"),
        ("EC2_ACCOUNT_ID=123456789012", "account"),
        ("AWS_ACCOUNT_ID=123456789012", "account"),
        ("AMISTREAM_ARCHITECTURE=arm64", "architecture"),
        ("AMISTREAM_ARCHITECTURE=aarch64", "architecture"),
        ("AMISTREAM_PREFIX=web", "prefix"),
    ],
)
async def test_variables_stand_for_options(
    daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch, setting: str, field: str
) -> None:
    """A variable of the settings or of the EC2 tools fills the field of its option."""
    variable, _, text = setting.partition("=")
    monkeypatch.setenv(variable, text)
    await cli(*PLAIN)
    assert daemon.requests("POST")[0].body[field] == text.replace("aarch64", "arm64")


async def test_options_win_over_variables(daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option on the command line counts, not its variable."""
    monkeypatch.setenv("AMISTREAM_PREFIX", "from-variable")
    await cli(*PLAIN, "--prefix", "from-option")
    assert daemon.requests("POST")[0].body["prefix"] == "from-option"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--ami-name", "#"], "--ami-name: "),
        (["--arch", "vax"], "--arch: "),
        (["--account", "1 2"], "--account: "),
        (["--part-size", "1"], "--part-size: "),
        (["--part-size", "many"], "--part-size: "),
        (["--part-size", "10MB"], "whole number of KiB: did you mean 10MiB?"),
        (["--upload-concurrency", "none"], "--upload-concurrency: "),
        (["--compress", "0"], "--compress: "),
        (["--kernel", "linux", "--virtualization", "paravirtual"], "--kernel: "),
        (["--kernel", "aki-01234567"], "--kernel and --ramdisk need --virtualization paravirtual"),
        (["-B", "ephemeral0"], "--block-device-mapping: 'ephemeral0' is not of the form VIRTUAL=DEVICE"),
        (["-B", "ephemeral0=xvdb"], "--block-device-mapping: "),
        (["-B", "ephemeral0=sdb,ephemeral0=sdc"], "--block-device-mapping: 'ephemeral0' is given more than once"),
        (["--to", ""], "--to: it is empty"),
        (["--cert", ""], "--cert: it is empty"),
        (["--fstab", ""], "--fstab: it is empty"),
        (["--tag", "web"], "--tag: 'web' is not of the form KEY=VALUE"),
        (["--product-code", "?"], "--product-code: "),
        (["--no-register", "--ami-name", "web-1"], "--ami-name, --description and --tag need --register"),
        (["--to", "http://bucket"], "--to: "),
        (["--nonsense"], "No such option: --nonsense"),
        (["--in-process", "--detach"], "--detach needs the daemon"),
        (["-q", "-v"], "--quiet and --verbose exclude each other"),
    ],
)
async def test_a_wrong_option_is_named_without_a_daemon(cli: Cli, words: list[str], named: str) -> None:
    """A fault of the arguments alone is reported at once, by the option's name, with exit status 2."""
    outcome = await cli(*PLAIN, *words)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("amistream: cannot ")
    assert named in outcome.stderr
    assert "openapi" not in outcome.stderr


async def test_missing_words_are_named(cli: Cli) -> None:
    """A command without its source or destination says which one it misses."""
    assert "'SOURCE'" in (await cli("bundle", "--to", "out")).stderr
    assert "'--to'" in (await cli("bundle", "x")).stderr


async def test_a_wrong_variable_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value that came from a variable is told with the variable's name, also to machines."""
    monkeypatch.setenv("EC2_ACCOUNT_ID", "1 2")
    outcome = await cli(*PLAIN, "--json")
    error = json.loads(outcome.stdout)["error"]
    assert (outcome.status, error["code"], error["field"]) == (2, "request.invalid", "account")
    assert "--account (from EC2_ACCOUNT_ID): " in error["message"]
    assert error["message"] in outcome.stderr


@pytest.mark.usefixtures("daemon")
async def test_the_end_is_told_to_people(cli: Cli) -> None:
    """A finished job is two lines on stdout; how it went is on stderr, state by state."""
    outcome = await cli(*PLAIN)
    made = (
        "done  s3://bucket/web/image.manifest.xml  ami-0123456789abcdef0  (web-1, eu-west-1)\n"
        "400.0 MiB -> 120.0 MiB in 12 parts, 2.5 s, 160.0 MiB/s\n"
    )
    assert (outcome.status, outcome.stdout) == (0, made)
    states = [line.rpartition(" ")[2] for line in outcome.stderr.splitlines()]
    assert states == ["queued", "checking", "bundling", "committing", "registering", "done"]
    quiet = await cli(*PLAIN, "-q")
    assert (quiet.stdout, quiet.stderr) == (made, "")
    verbose = await cli(*PLAIN, "-v", "--no-progress")
    assert (verbose.stdout.startswith(f"{made}\n"), verbose.stderr) == (True, "")
    assert [line.split()[0] for line in verbose.stdout.splitlines()[-4:]] == ["STAGE", "read", "compress", "upload"]


@pytest.mark.usefixtures("daemon")
async def test_the_end_is_told_to_machines(cli: Cli) -> None:
    """With --json stdout holds the job as one line and nothing else."""
    outcome = await cli(*PLAIN, "--json")
    assert outcome.stdout.count("\n") == 1
    job = JobView.model_validate_json(outcome.stdout)
    assert (job.state, job.result) == (State.DONE, RESULT)


def _refused(job: Job) -> None:
    job.move(State.CHECKING)
    job.end(
        End(State.REFUSED, error=RefusedError("source.empty", "cannot bundle /dev/xvda: it is empty", hint="fill it"))
    )


def _failed(job: Job) -> None:
    begin(job)
    job.note("a part was left behind")
    why = "cannot store part 3: the bucket is gone"
    job.end(End(State.FAILED, error=StoreError("aws.NoSuchBucket", why, hint="make it again", request_id="4F9C")))


def _cancelled(job: Job) -> None:
    begin(job)
    job.move(State.CANCELLED)


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        (_refused, 3, "amistream: cannot bundle /dev/xvda: it is empty\nfill it\n"),
        (
            _failed,
            4,
            "amistream: cannot store part 3: the bucket is gone\nmake it again\nAWS knows the request as 4F9C\n",
        ),
        (_cancelled, 4, "it was cancelled\n"),
    ],
)
async def test_a_bad_end_has_its_exit_status(
    daemon: ScriptedDaemon, cli: Cli, script: Callable[[Job], None], status: int, message: str
) -> None:
    """A job that does not succeed leaves stdout empty, says why and what to do, and exits as its state says."""
    daemon.on_submit = script
    outcome = await cli(*PLAIN)
    assert (outcome.status, outcome.stdout) == (status, "")
    assert outcome.stderr.endswith(message)


async def test_a_bad_end_is_told_to_machines(daemon: ScriptedDaemon, cli: Cli) -> None:
    """With --json a failed job is one document too, with the error in it."""
    daemon.on_submit = _failed
    outcome = await cli(*PLAIN, "--json")
    error: dict[str, Any] = json.loads(outcome.stdout)["error"]
    assert (outcome.status, error["code"]) == (4, "aws.NoSuchBucket")
    lines = [json.loads(line) for line in outcome.stderr.splitlines() if line.startswith("{")]
    assert [each["message"] for each in lines if each["type"] == "note"] == ["a part was left behind"]
    assert (lines[-1]["type"], lines[-1]["error"]["code"]) == ("error", "aws.NoSuchBucket")


async def test_detach_prints_the_id_only(daemon: ScriptedDaemon, cli: Cli) -> None:
    """With --detach the job's id is all that is written, and nothing is waited for."""
    daemon.on_submit = lambda _: None
    outcome = await cli(*PLAIN, "--detach")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, "".join(daemon.jobs) + "\n", "")
    outcome = await cli("bundle", "/dev/xvdb", "--to", "s3://bucket/other", "--detach", "--json")
    assert JobView.model_validate_json(outcome.stdout).state is State.QUEUED


async def test_a_settings_file_beside_a_daemon(daemon: ScriptedDaemon, cli: Cli, tmp_path: Path) -> None:
    """A settings file that is named is read, and what it is good for is said."""
    config = tmp_path / "own.toml"
    outcome = await cli(*PLAIN, "--config", str(config))
    assert (outcome.status, daemon.jobs) == (2, {})
    assert str(config) in outcome.stderr
    config.write_text("part_size = 5242880\n")
    outcome = await cli(*PLAIN, "--config", str(config))
    assert outcome.status == 0
    assert "note: the job has the daemon's settings" in outcome.stderr


async def test_a_lost_reply_does_not_make_a_second_job(daemon: ScriptedDaemon, cli: Cli) -> None:
    """A request whose reply got lost is sent again with the same Idempotency-Key."""
    daemon.lost_replies = 1
    outcome = await cli(*PLAIN)
    first, second = daemon.requests("POST")
    assert (outcome.status, len(daemon.jobs)) == (0, 1)
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


async def test_two_jobs_have_two_keys(daemon: ScriptedDaemon, cli: Cli) -> None:
    """Each run of the command is a job of its own, also with the same words."""
    await cli(*PLAIN)
    await cli(*PLAIN)
    first, second = daemon.requests("POST")
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


async def test_what_the_daemon_refuses_is_told_in_option_words(daemon: ScriptedDaemon, cli: Cli) -> None:
    """An error of the API that names a field is shown with the option that fills it."""
    daemon.refuse = ConflictError(
        "job.same_destination", "cannot take the job: another one writes there", hint="wait", field="destinations"
    )
    outcome = await cli(*PLAIN)
    assert outcome.status == 2
    assert outcome.stderr == "amistream: cannot take the job: another one writes there (--to)\nwait\n"
