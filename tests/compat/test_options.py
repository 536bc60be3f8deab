"""Options of the old commands: every form that scripts use, and errors that repeat no secret."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from amistream.cli.foreground import InterruptedHereError
from amistream.compat.access import bucket_address, endpoint, region_of
from amistream.compat.main import exit_status, run
from amistream.compat.options import Use, in_old_words, option, parse
from amistream.compat.tables import COMMANDS, Command, Family, find_command
from amistream.errors import (
    EXIT_INTERRUPTED,
    AmistreamError,
    BundleExistsError,
    DifferenceError,
    JobError,
    RefusedError,
    StoreError,
    UnconfirmedError,
    UsageError,
)
from support import commands

PATIENCE_S = 120
ROOT = Path(__file__).parents[2]
OPTIONS = (
    option("-b, --bucket BUCKET", "", required=True),
    option("-m, --manifest FILE", ""),
    option("-s, --secret-key KEY", "", use=Use.SECRET),
    option("-B, --block-device-mapping MAPPING", "", repeated=True),
    option("--acl ACL", "", choices=("public-read",)),
    option("-y, --yes", ""),
    option("--policy TEXT", "not taken.", use=Use.REFUSED),
)


def parsed(line: str) -> dict[str, object]:
    given = parse("old", "", OPTIONS, line.split())
    return {each.key: given.several(each.key) if each.repeated else given[each.key] for each in given.options}


@pytest.mark.parametrize(
    "line",
    [
        "-b web -m file -y",
        "-bweb -mfile -y",
        "--bucket web --manifest file --yes",
        "--bucket=web --manifest=file --yes",
        "--buck web --man file --ye",
        "-y --manifest file -b web",
    ],
)
def test_forms(line: str) -> None:
    """Options may be long or short, joined or apart, abbreviated and in any order, as in the old parsers."""
    assert parsed(line) == {"bucket": "web", "manifest": "file", "yes": "True"}


@pytest.mark.parametrize("line", ["--policy TEXT", "--policy TEXT -b web", "-b web --pol=TEXT"])
def test_refused(line: str) -> None:
    """An option that is not supported is named with what to do, also where others are missing."""
    with pytest.raises(UsageError, match="--policy: not taken"):
        parsed(line)


def test_lists() -> None:
    """A list may be given with commas or by repeating the option."""
    several = ["root=/dev/sda1", "ami=sda1", "swap=sda3"]
    assert parsed("-b web -B root=/dev/sda1,ami=sda1 -B swap=sda3")["block-device-mapping"] == several


@pytest.mark.parametrize(
    "line",
    [
        "-b web --bogus=SECRET",
        "-b web -zSECRET",
        "-b web SECRET",
        "-b web -ySECRET",
        "-b web --yes=SECRET",
        "-b web --acl SECRET",
        "-b web --policy SECRET",
        "-s SECRET",
        "-b web --=SECRET",
        "-b web --m=SECRET --b=SECRET -- -s SECRET",
    ],
)
def test_nothing_is_repeated(line: str) -> None:
    """Errors about options contain no value."""
    with pytest.raises(UsageError) as caught:
        parsed(line)
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).startswith("cannot run old: ")


def test_names_of_ours_become_theirs() -> None:
    """In messages, the old command's option replaces that of amistream."""
    command = find_command("ec2-bundle-image")
    assert command is not None
    text = in_old_words("give --ec2-cert or --account, --private-key and --part-size", command.options)
    assert text == "give --ec2cert or --user, --privatekey and --part-size"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", ("", "")),
        ("https://s3.amazonaws.com/", ("", "")),
        ("s3.amazonaws.com", ("", "")),
        ("https://s3-eu-west-1.amazonaws.com", ("", "eu-west-1")),
        ("https://s3.eu-central-1.amazonaws.com", ("", "eu-central-1")),
        ("https://s3.cn-north-1.amazonaws.com.cn", ("", "cn-north-1")),
        ("http://127.0.0.1:8333", ("http://127.0.0.1:8333", "")),
        ("https://evil.example/s3.amazonaws.com", ("https://evil.example/s3.amazonaws.com", "")),
        ("http://h:8773/services/objectstorage/", ("http://h:8773/services/objectstorage", "")),
        ("http://h/a?b", None),
        ("http://", None),
        ("http://user:secret@h/a?b", None),
        ("https://s3.amazonaws.com.example:443/", ("https://s3.amazonaws.com.example:443", "")),
    ],
)
def test_endpoints(url: str, expected: tuple[str, str] | None) -> None:
    """AWS's own endpoints are left to the SDK, others are used, with their path; one with a query is refused."""
    if expected is None:
        with pytest.raises(UsageError) as caught:
            endpoint(url)
        assert "secret" not in str(caught.value)
    else:
        assert endpoint(url) == expected


def test_places() -> None:
    """Buckets with a path, S3's old locations and euca2ools' user@region keep their meaning."""
    assert bucket_address("web/2026/") == "s3://web/2026"
    assert bucket_address("s3://web") == "s3://web"
    assert [region_of(text) for text in ("EU", "US", "me@eu-west-1", "eu-west-1", "")] == [
        "eu-west-1", "us-east-1", "eu-west-1", "eu-west-1", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "in_s3", "down", "local", "system", "euca2ools"),
    [
        (UsageError("usage", ""), 1, 1, 1, 1, 2),
        (RefusedError("key.mismatch", ""), 2, 2, 2, 254, 1),
        (RefusedError("metadata.unreachable", ""), 2, 2, 2, 12, 1),
        (JobError("source.changed", ""), 2, 2, 2, 254, 1),
        (DifferenceError("part.digest", ""), 2, 2, 2, 254, 1),
        (StoreError("aws.AccessDenied", ""), 3, 3, 2, 254, 1),
        (RefusedError("bucket.missing", ""), 3, 3, 2, 254, 1),
        (BundleExistsError("destination.exists", ""), 3, 2, 2, 254, 1),
        (StoreError("directory.failed", ""), 2, 2, 2, 254, 1),
        (UnconfirmedError("unconfirmed", ""), 5, 5, 5, 254, 1),
        (InterruptedHereError("interrupted", ""), 130, 130, 130, 255, 130),
    ],
)
def test_exit_statuses(error: AmistreamError, in_s3: int, down: int, local: int, system: int, euca2ools: int) -> None:
    """Each kind of failure ends with the status of its tools; S3's only for commands that use S3."""
    for name, status in {
        "ec2-upload-bundle": in_s3,
        "ec2-download-bundle": down,
        "ec2-bundle-image": local,
        "ec2-bundle-vol": system,
        "euca-bundle-and-upload-image": euca2ools,
    }.items():
        command = find_command(name)
        assert command is not None
        assert exit_status(command, error) == status, name


@pytest.mark.parametrize(
    ("line", "work", "status"),
    [
        ("ec2-bundle-vol -c c -k k -u 111122223333", "running_system.bundle_volume", 255),
        ("ec2-unbundle -k k -m m", "copying.take_out", 130),
    ],
)
def test_interrupted(line: str, work: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that a signal ended has the status that the command's tools give it."""
    monkeypatch.setattr(f"amistream.compat.{work}", lambda _: EXIT_INTERRUPTED)
    monkeypatch.setenv("AMISTREAM_ALLOW_EXPOSED_KEY", "")
    name, *words = line.split()
    assert run(name, words) == status


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists every option, --manual is the same, --version shows the command; each ends with status 0."""
    assert run(command.name, ["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for each in command.options for name in each.names)
    assert run(command.name, ["--version"]) == 0
    assert command.name in capsys.readouterr().out
    if command.family is Family.AMI_TOOLS:
        assert run(command.name, ["--manual"]) == 0
        assert capsys.readouterr().out == told


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """For an unknown name the error lists the old commands."""
    assert run("ec2-run-instances", []) == 2
    assert "ec2-upload-bundle" in capsys.readouterr().err


def test_scripts_are_installed() -> None:
    """Every command is a script with its name."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name for name, target in scripts.items() if target == "amistream.entry:old_command"} == {
        command.name for command in COMMANDS
    }
    for name in scripts:
        done = commands.run([commands.COMMANDS / name, "--version"], forked=False, timeout=PATIENCE_S)
        assert (done.returncode, done.stdout.split()[0]) == (0, name)


def test_as_a_command_of_amistream() -> None:
    """`amistream compat NAME` is the same as NAME, also with --help."""
    code = "from amistream.entry import client; client()"
    for words, status, told in (
        (["compat", "ec2-unbundle", "--help"], 0, "usage: ec2-unbundle"),
        (["compat", "ec2-unbundle", "-m", "x", "--json"], 1, "cannot run ec2-unbundle"),
        (["compat", "--help"], 0, "ec2-delete-bundle"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert told in done.stdout + done.stderr


def test_help_is_light() -> None:
    """Help and invalid options load neither the AWS SDK nor the ciphers."""
    code = "import sys; from amistream.compat.main import run; run('ec2-unbundle', ['-h']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"aiobotocore", "botocore", "cryptography", "pydantic"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_table_in_the_documentation(command: Command) -> None:
    """docs/drop-in.md has every option of every command, and no other."""
    document = (ROOT / "docs" / "drop-in.md").read_text()
    section = document.partition(f"\n### `{command.name}`\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`-.*?) \| (.*?) \|$", section, re.MULTILINE)
    told = {tuple(re.findall(r"`(-[\w-]+)`", names)): text for names, text in rows}
    common = {"version", "manual", "batch", "debug"}
    assert told == {
        each.names: f"{'Required. ' if each.required else ''}{each.help}"
        for each in command.options
        if each.key not in common
    }
