"""The settings of a daemon that is not started: all their faults, and their values with their origin."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from amistream.daemon import main as daemon
from amistream.daemon.config_report import config_text, faults_of
from amistream.settings import Settings, load
from support.commands import COMMANDS

FILE = """
part_size = "20MiB"
socket_group = "no-such-group"
source_roots = ["/no/such/root"]
certificate = "/no/such/cert.pem"
endpoint_url = "https://user:password@cloud:8773/path"
metrics_textfile = "/no/such/a.prom"
on_failure = ["/bin/page", "--token", "s3cr3t"]
ec2_certificates = { default = "/no/such/ec2.pem" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "amistream.toml"
    path.write_text(FILE)
    return path


def test_every_fault_is_told_at_once(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A check names each thing that is missing, with its fix, and ends with 2; a valid file with 0."""
    assert daemon.check_config(load(file), file) == 2
    told = capfd.readouterr().err
    assert [line for line in told.splitlines() if line.startswith("amistreamd: ")] == [
        "amistreamd: cannot open the socket to the group 'no-such-group': the group does not exist",
        "amistreamd: cannot allow /no/such/root as one of source_roots: it does not exist",
        "amistreamd: cannot use the settings certificate and private_key: one of the two is missing",
        "amistreamd: cannot run /bin/page, the command of on_failure: there is no such program",
        "amistreamd: cannot write /no/such/a.prom: there is no directory /no/such",
        "amistreamd: cannot read the certificate /no/such/ec2.pem: No such file or directory",
    ]
    file.write_text("part_size = '20MiB'")
    assert daemon.check_config(load(file), file) == 0
    assert capfd.readouterr().err == f"the configuration is valid: {file}\n"


def test_the_settings_as_they_are(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has its origin; the text is a configuration again, without passwords and arguments."""
    monkeypatch.setenv("AMISTREAM_WORKERS", "3")
    arguments: dict[str, Any] = {"socket": Path("/run/a.sock"), "state_dir": None}
    text = config_text(load(file, **arguments), file, arguments)
    assert {
        'socket = "/run/a.sock"  # an argument',
        f'part_size = "20MiB"  # {file}',
        "workers = 3  # AMISTREAM_WORKERS",
        "max_jobs = 2  # default",
        "#memory_limit =  # not set",
        f'endpoint_url = "https://cloud:8773/path"  # {file}',
        f'on_failure = ["/bin/page"]  # {file}',
        f'ec2_certificates = {{ "default" = "/no/such/ec2.pem" }}  # {file}',
    } <= set(text.splitlines())
    again = Settings(**tomllib.loads(text))
    assert (again.part_size, again.workers) == (20 << 20, 3)
    assert len(faults_of(again)) == 6


@pytest.mark.parametrize(("end", "status"), [("| head -c 1", 0), ("> /dev/full", 1)])
def test_nobody_reads(file: Path, end: str, status: int) -> None:
    """A reader that leaves early is no error, a full disk is one; neither gives a traceback."""
    command = f"set -o pipefail; {COMMANDS / 'amistreamd'} --print-config --config {file} {end}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == (2 if status else 0)
