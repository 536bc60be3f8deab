"""The installed command as a process: signals, pipes, a terminal, and what happens on a bug."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import amistream
from amistream.cli import main
from amistream.compat.main import run as run_old_command
from cli.running import Cli, Spawn, ended, lines_until
from cli.scripted import ScriptedDaemon, begin, finish

PLAIN = ("bundle", "/dev/xvda", "--to", "s3://bucket/web")


async def test_version(spawn: Spawn) -> None:
    """The version is one line on stdout."""
    outcome = await ended(await spawn("--version"))
    assert (outcome.status, outcome.stdout) == (0, f"amistream {amistream.__version__}\n")


@pytest.mark.parametrize("ignored", [False, True])
def test_interrupt_while_the_command_is_loaded(*, ignored: bool) -> None:
    """Ctrl-C before the command is there ends it quietly, unless whoever started it ignores interrupts."""
    handler = "SIG_IGN" if ignored else "default_int_handler"
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "amistream.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["amistream", "jobs", "--help"]
from amistream.entry import client
client()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0 if ignored else -signal.SIGINT, "")


def test_interrupt_while_the_work_of_an_old_command_is_loaded() -> None:
    """Ctrl-C while the SDK is being loaded ends an old command as quietly."""
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "amistream.compat.copying":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["ec2-unbundle", "-k", "/none", "-m", "/none"]
from amistream.entry import old_command
old_command()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


async def test_interrupt_leaves_the_job_running(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """Ctrl-C while a job is followed leaves it to the daemon and says how to come back to it."""
    daemon.on_submit = begin
    process = await spawn(*PLAIN)
    await lines_until(process.stderr, "75 %")
    process.send_signal(signal.SIGINT)
    outcome = await ended(process)
    (job,) = daemon.jobs.values()
    assert (outcome.status, outcome.stdout) == (130, "")
    assert f"amistream watch {job.id}" in outcome.stderr
    assert f"amistream cancel {job.id}" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not job.state.ended
    assert daemon.requests("DELETE") == []


async def test_interrupt_before_the_daemon_answered(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """Ctrl-C while the request is on its way does not claim to know whether there is a job."""
    arrived = asyncio.Event()
    release = asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await release.wait()
        writer.close()

    silent = daemon.socket.with_name("silent.sock")
    async with await asyncio.start_unix_server(hold, silent):
        process = await spawn(*PLAIN, "--socket", str(silent))
        await arrived.wait()
        process.send_signal(signal.SIGINT)
        outcome = await ended(process)
        release.set()
    assert outcome.status == 130
    assert "cannot say whether the daemon took the request" in outcome.stderr


async def test_plain_progress_off_a_terminal(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """Off a terminal progress is plain lines on stderr, without an escape code anywhere."""
    daemon.on_submit = begin
    process = await spawn(*PLAIN, env={"TERM": "xterm-256color"})
    lines = await lines_until(process.stderr, "75 %")
    finish(next(iter(daemon.jobs.values())))
    outcome = await ended(process)
    assert outcome.status == 0
    assert "\x1b" not in outcome.stdout + outcome.stderr + "".join(lines)


async def test_bars_on_a_terminal(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """On a terminal the bar and the stages are drawn, the bottleneck is marked, and stdout stays the result alone."""
    begin(job := daemon.add())
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = await spawn(
        "watch", job.id, "-v", stderr=theirs, env={"TERM": "xterm-256color", "COLUMNS": "140", "NO_COLOR": ""}
    )
    os.close(theirs)
    screen = await _screen_until(ours, "limits")
    job.note("the clock is 3 s late")
    screen += await _screen_until(ours, "the clock is 3 s late")
    finish(job)
    outcome = await ended(process)
    os.close(ours)
    assert outcome.status == 0
    assert "\x1b[" in screen
    for word in ("75 %", "143.1 MiB/s", "0.7 s left", "9 parts stored", "busy 75 %",
                 f"job {job.id}  /dev/xvda -> s3://bucket/web"):  # fmt: skip
        assert word in screen
    assert (
        next(line for line in screen.splitlines() if "<- limits" in line)
        .lstrip("\x1b[0123456789;mKA")
        .startswith("compress")
    )
    assert "\x1b" not in outcome.stdout
    assert outcome.stdout.startswith("done")


async def _screen_until(descriptor: int, word: str) -> str:
    """Read what is drawn on a terminal up to `word`."""
    loop = asyncio.get_running_loop()
    text = ""
    while word not in text:
        readable = asyncio.Event()
        loop.add_reader(descriptor, readable.set)
        await readable.wait()
        loop.remove_reader(descriptor)
        text += os.read(descriptor, 65536).decode()
    return text


@pytest.mark.parametrize("words", [["jobs"], ["jobs", "--json"]])
async def test_a_reader_that_leaves(daemon: ScriptedDaemon, spawn: Spawn, words: list[str]) -> None:
    """When nobody reads the result any more, the command ends quietly and well."""
    daemon.add()
    reading, writing = os.pipe()
    os.close(reading)
    process = await spawn(*words, stdout=writing)
    os.close(writing)
    outcome = await ended(process)
    assert (outcome.status, outcome.stderr) == (0, "")


async def test_nobody_reads_the_progress(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """A closed stderr does not end the command: the result is still written."""
    daemon.on_submit = begin
    reading, writing = os.pipe()
    os.close(reading)
    process = await spawn(*PLAIN, stderr=writing)
    os.close(writing)
    await daemon.following.wait()
    finish(next(iter(daemon.jobs.values())))
    outcome = await ended(process)
    assert (outcome.status, outcome.stdout.startswith("done")) == (0, True)


async def test_a_bug_is_one_line(daemon: ScriptedDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw asks for a report and exits with 1; AMISTREAM_DEBUG=1 adds where it happened."""

    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError("division by zero")

    daemon.add()
    monkeypatch.setattr("amistream.cli.commands.jobs.list_of_jobs", broken)
    outcome = await cli("jobs")
    assert outcome.status == 1
    assert outcome.stderr.startswith("amistream: cannot go on: an error in amistream itself (ZeroDivisionError: ")
    assert "report" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    monkeypatch.setenv("AMISTREAM_DEBUG", "1")
    assert "Traceback" in (await cli("jobs")).stderr


async def test_a_result_that_cannot_be_written(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """A full disk behind the standard output is told as what it is, and no bug."""
    daemon.add()
    with Path("/dev/full").open("w") as full:
        outcome = await ended(await spawn("jobs", stdout=full))
    assert outcome.status == 1
    assert outcome.stderr.startswith("amistream: cannot write to the standard output: No space left on device\n")


async def test_an_error_counts_more_than_what_could_not_be_written(daemon: ScriptedDaemon, spawn: Spawn) -> None:
    """A failure that cannot be reported in JSON is reported in words, with its own exit status."""
    none = str(daemon.socket.with_name("none.sock"))
    with Path("/dev/full").open("w") as full:
        outcome = await ended(await spawn("status", "x", "--json", "--socket", none, stdout=full))
    assert outcome.status == 6
    assert outcome.stderr.startswith("amistream: cannot reach the daemon")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (lambda: main.run(["tune", "/dev/null", "--to", "/x", "--write", "/closed/k"]), 3),
        (lambda: run_old_command("ec2-unbundle", ["-m", "/closed/x", "-k", "/closed/k"]), 2),
    ],
)
def test_a_file_that_may_not_be_looked_at(
    run: Callable[[], int], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that the system reports about a user's file names that file, and is no bug."""

    def refuse(path: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("exists", "is_file"):
        monkeypatch.setattr(Path, name, refuse)
    assert run() == status
    assert "cannot use /closed/k: Permission denied" in capsys.readouterr().err
