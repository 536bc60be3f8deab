"""`amistreamd` as a process: from its start to its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amistream import __version__
from amistream.daemon.main import drain
from amistream.events import State
from amistream.jobs.journal_file import FILE
from amistream.settings import OnStop
from daemon.rig import StartDaemon
from support import commands

AMISTREAMD = commands.COMMANDS / "amistreamd"
PATIENCE_S = 120.0


def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an `amistreamd` that ends by itself."""
    return commands.run([AMISTREAMD, *arguments], env={**os.environ, **variables}, timeout=PATIENCE_S)


class Process:
    """A running `amistreamd`, whose log is read line by line to follow its progress."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.socket = directory / "run" / "a.sock"
        self.state_dir = directory / "state"
        self.popen = commands.Popen[str](
            [AMISTREAMD, "--socket", self.socket, "--state-dir", self.state_dir],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdin
        assert self.popen.stderr
        self._stdin, self._log = self.popen.stdin, self.popen.stderr

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._stdin.close()
        self._log.close()

    def wait_logged(self, event: str) -> dict[str, Any]:
        for line in self._log:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"ended without {event}")

    def curl(self, path: str, *options: str) -> dict[str, Any]:
        answer = subprocess.run(
            ["curl", "-s", "--unix-socket", str(self.socket), *options, f"http://localhost{path}"],
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
        )
        body: dict[str, Any] = json.loads(answer.stdout)
        return body

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE_S)


@contextmanager
def running(directory: Path, **variables: str) -> Iterator[Process]:
    process = Process(directory, **variables)
    try:
        ready = process.wait_logged("daemon.ready")
        assert ready["socket"] == str(process.socket)
        assert (ready["pid"], ready["version"]) == (process.popen.pid, __version__)
        yield process
    finally:
        process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_daemon_serves_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    """The daemon answers on its socket, and a signal ends it with status 0 and leaves no file."""
    with running(tmp_path) as process:
        assert process.curl("/v1/health")["status"] == "ok"
        assert stat.S_IMODE(process.state_dir.stat().st_mode) == 0o700
        assert process.stop(number) == 0
        assert not process.socket.exists()
        assert process.wait_logged("daemon.stopped")["pid"] == process.popen.pid


def test_nothing_is_asked_on_the_standard_input(tmp_path: Path) -> None:
    """The standard input of the daemon is empty, however it was started: a program that asks there gets an end."""
    with running(tmp_path) as process:
        assert Path(f"/proc/{process.popen.pid}/fd/0").readlink() == Path(os.devnull)


def test_standard_files_that_are_closed(tmp_path: Path) -> None:
    """Without any standard file the daemon serves and stops as with them, and none of its files takes their numbers."""
    options: list[str | Path] = ["--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "state"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
        closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", AMISTREAMD, *options]
        with subprocess.Popen(closed, env=environment) as process:
            try:
                while b"READY=1" not in manager.recv(4096):
                    pass
                descriptors = Path(f"/proc/{process.pid}/fd")
                assert {(descriptors / number).readlink() for number in "012"} == {Path(os.devnull)}
            finally:
                process.terminate()
            assert process.wait(PATIENCE_S) == 0


def test_second_daemon_refuses(tmp_path: Path) -> None:
    """A second daemon on the same socket ends with status 2 and one message; the first one is not disturbed."""
    with running(tmp_path) as process:
        second = run("--socket", process.socket, "--state-dir", process.state_dir)
        assert (second.returncode, second.stdout) == (2, "")
        assert f"a daemon is already running on {process.socket}" in second.stderr
        assert "Traceback" not in second.stderr
        assert process.curl("/v1/health")["status"] == "ok"


def test_daemon_takes_over_from_a_killed_one(tmp_path: Path) -> None:
    """The socket of a killed daemon is replaced."""
    with running(tmp_path) as process:
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
        assert process.socket.exists()
    with running(tmp_path) as process:
        assert process.curl("/v1/health")["status"] == "ok"


def test_service_manager_is_notified(tmp_path: Path) -> None:
    """The service manager is notified when the daemon is ready and when it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with running(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert manager.recv(200).startswith(b"READY=1\n")
            process.stop()
            assert manager.recv(200).startswith(b"STOPPING=1\n")


def test_the_end_of_a_job_is_announced(tmp_path: Path) -> None:
    """The hook of a refused job runs, also while the daemon stops, and the file for node_exporter has its end."""
    hook, page = tmp_path / "job", tmp_path / "amistream.prom"
    variables = {"AMISTREAM_ON_FAILURE": f"/bin/sh -c 'cat >{hook}'", "AMISTREAM_METRICS_TEXTFILE": str(page)}
    with running(tmp_path, **variables) as process:
        body = {"source": str(tmp_path / "none"), "destinations": [str(tmp_path / "bundle")]}
        job = process.curl("/v1/jobs", "-d", json.dumps(body))
        process.wait_logged("job.end")
        lines = process.curl(f"/v1/jobs/{job['id']}/log")["lines"]
        assert [line["event"] for line in (*lines[:2], lines[-1])] == ["job.submitted", "job.started", "job.end"]
        assert (lines[0]["fields"]["user"], lines[-1]["fields"]["state"]) == (os.getuid(), "refused")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait_logged("hook.end")["outcome"] == "ok"
        assert process.popen.wait(PATIENCE_S) == 0
    told = json.loads(hook.read_text())
    assert (told["id"], told["state"], told["hook"]) == (job["id"], "refused", "on_failure")
    assert 'amistream_jobs_ended_total{kind="bundle",state="refused"} 1.0' in page.read_text()


def test_first_signal_lets_jobs_end_and_the_second_interrupts_them(tmp_path: Path) -> None:
    """After one SIGTERM a running job goes on and new ones are refused; after two it is interrupted, and resumable."""
    volume = tmp_path / "volume"
    volume.write_bytes(b"\1" * 4096)
    with socket.socket() as silent_store:
        # Accepts connections and never answers, so the job waits in its checks.
        silent_store.bind(("127.0.0.1", 0))
        silent_store.listen()
        silent_store.settimeout(PATIENCE_S)
        body = {
            "source": str(volume),
            "destinations": ["s3://bucket"],
            "region": "us-east-1",
            "account": "123456789012",
            "endpoint_url": f"http://127.0.0.1:{silent_store.getsockname()[1]}",
        }
        variables = {"AWS_ACCESS_KEY_ID": "made-up", "AWS_SECRET_ACCESS_KEY": "made-up"}
        with running(tmp_path, **variables) as process:
            job = process.curl("/v1/jobs", "-d", json.dumps(body))
            connection, _ = silent_store.accept()
            with connection:
                process.popen.send_signal(signal.SIGTERM)
                process.wait_logged("daemon.stopping")
                assert process.curl("/v1/health")["status"] == "stopping"
                assert process.curl("/v1/jobs", "-d", json.dumps(body))["error"]["code"] == "daemon.stopping"
                assert process.curl(f"/v1/jobs/{job['id']}")["state"] == "checking"
                assert process.stop() == 0
                end = process.wait_logged("job.end")
                assert (end["job"], end["state"], end["resumable"]) == (job["id"], "interrupted", True)


async def test_second_signal_hurries_a_drain_that_waits(start_daemon: StartDaemon) -> None:
    """A second signal interrupts jobs that a drain waits for."""
    async with start_daemon() as daemon, asyncio.TaskGroup() as group:
        job = await daemon.submit_and_begin()
        hurry = asyncio.Event()
        draining = group.create_task(drain(daemon.queue, OnStop.FINISH, hurry=hurry))
        assert (await daemon.ask("GET", "/v1/health")).body["status"] == "stopping"
        assert not job.state.ended
        hurry.set()
        await draining
        assert (job.state, job.resumable) == (State.INTERRUPTED, True)


@pytest.mark.parametrize(
    ("how", "end"), [(OnStop.CANCEL, State.CANCELLED), (OnStop.INTERRUPT, State.INTERRUPTED)], ids=["cancel", "keep"]
)
async def test_drain_may_stop_jobs_at_once(start_daemon: StartDaemon, how: OnStop, end: State) -> None:
    """With on_stop = cancel or interrupt the first signal ends running and queued jobs so."""
    async with start_daemon(max_jobs=1) as daemon:
        job = await daemon.submit_and_begin("a")
        waiting = daemon.queue.get((await daemon.submit("b")).body["id"])
        await drain(daemon.queue, how, hurry=asyncio.Event())
        assert (job.state, waiting.state) == (end, end)
        assert job.resumable == waiting.resumable == (end is State.INTERRUPTED)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("max_jobs = 'many'", "max_jobs"), ("colour = 'red'", "colour"), ("=", "cannot read the configuration")],
)
def test_bad_configuration_is_status_2(tmp_path: Path, text: str, complaint: str) -> None:
    """An invalid configuration ends the daemon with one message."""
    config = tmp_path / "a.toml"
    config.write_text(text)
    ended = run("--config", config, "--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "state")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "a.sock").exists()


def test_unknown_group_is_status_2(tmp_path: Path) -> None:
    """An unknown group is refused before any socket is opened."""
    ended = run("--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "s", AMISTREAM_SOCKET_GROUP="no-such-group")
    assert ended.returncode == 2
    assert "no-such-group" in ended.stderr
    assert not (tmp_path / "a.sock").exists()


def test_state_directory_that_cannot_be_is_status_2(tmp_path: Path) -> None:
    """A state directory that cannot be made is refused."""
    (tmp_path / "file").touch()
    ended = run("--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "file")
    assert ended.returncode == 2
    assert "cannot make the state directory" in ended.stderr


def test_journal_of_a_newer_version_is_status_2(tmp_path: Path) -> None:
    """A journal of a newer version ends the daemon with the status on which systemd does not start it again."""
    (tmp_path / "state").mkdir(mode=0o700)
    with sqlite3.connect(tmp_path / "state" / FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    ended = run("--socket", tmp_path / "a.sock", "--state-dir", tmp_path / "state")
    assert ended.returncode == 2
    assert "another version of amistream made it (99)" in ended.stderr


def test_help_has_an_example() -> None:
    """--help shows the options and an example."""
    ended = run("--help")
    assert ended.returncode == 0
    assert "curl --unix-socket" in ended.stdout


def test_version_is_printed() -> None:
    """--version prints the version only."""
    assert run("--version").stdout == f"amistreamd {__version__}\n"
