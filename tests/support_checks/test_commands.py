"""The helper that forks the console scripts: its processes are as those that a user starts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import commands
from support.commands import COMMANDS

PATIENCE_S = 120
ORPHAN = """
import subprocess, sys
from support import commands
daemon = commands.Popen([commands.COMMANDS / "amistreamd", *sys.argv[1:]], stderr=subprocess.PIPE)
while b"daemon.ready" not in daemon.stderr.readline():
    pass
print(daemon.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "words", ["amistream --help", "amistream jobs --json --socket none", "amistreamd --socket", "ec2-unbundle -m x"]
)
def test_a_forked_command_does_what_an_executed_one_does(words: str, tmp_path: Path) -> None:
    """Status, stdout and stderr are the same."""
    name, *rest = words.split()
    environ = {**os.environ, "HOME": str(tmp_path), "COLUMNS": "90"}
    forked, executed = (
        commands.run([COMMANDS / name, *rest], forked=forked, cwd=tmp_path, env=environ, timeout=PATIENCE_S)
        for forked in (True, False)
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (executed.returncode, executed.stdout, executed.stderr)
    assert forked.stdout + forked.stderr


def test_each_has_its_own_environment_and_directory(tmp_path: Path) -> None:
    """Neither stays for the next."""
    words = [COMMANDS / "amistreamd", "--socket", "s", "--state-dir", "state", "--config", "c.toml"]
    (tmp_path / "c.toml").write_text("max_jobs = 0\n")
    refused = commands.run(words, cwd=tmp_path, timeout=PATIENCE_S)
    assert (refused.returncode, "max_jobs (from c.toml)" in refused.stderr) == (2, True)
    refused = commands.run(words, env={**os.environ, "AMISTREAM_MAX_QUEUED": "none"}, timeout=PATIENCE_S)
    assert (refused.returncode, "AMISTREAM_MAX_QUEUED" in refused.stderr) == (2, False)


def test_a_killed_one(tmp_path: Path) -> None:
    """It has a pid of its own, and its status tells the signal."""
    words = [str(COMMANDS / "amistreamd"), "--socket", "s", "--state-dir", "state"]
    with commands.Popen[bytes](words, cwd=tmp_path, stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        while b"daemon.ready" not in daemon.stderr.readline():
            pass
        assert daemon.poll() is None
        os.kill(daemon.pid, signal.SIGKILL)
    assert daemon.returncode == -signal.SIGKILL


def test_none_outlives_the_tests(tmp_path: Path) -> None:
    """A daemon ends when the process that started it is killed."""
    argv = [sys.executable, "-c", ORPHAN, "--socket", "s", "--state-dir", "state"]
    environ = {**os.environ, "PYTHONPATH": str(Path(commands.__file__).parents[1])}
    with subprocess.Popen(argv, cwd=tmp_path, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        ended = os.pidfd_open(int(tests.stdout.readline()))
        tests.kill()
    assert select.select([ended], [], [], PATIENCE_S)[0]
    os.close(ended)
