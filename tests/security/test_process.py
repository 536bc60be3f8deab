"""Protection of the daemon's process: no core dump, and no access for other processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from security.people import PYTHON, STRANGER, STRANGER_ID, machine, needs_root
from support import commands
from support.commands import COMMANDS
from support.daemons import Daemon, running_daemon

if TYPE_CHECKING:
    from support.keys import KeyRing

PATIENCE_S = 120
PR_GET_DUMPABLE = 3
WITH_CORES = ("prlimit", "--core=unlimited", "--")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path, None, forked=False) as running:
        yield running


def status(pid: int, name: str) -> str:
    """Read a line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def test_the_daemon_leaves_no_core(daemon: Daemon) -> None:
    """The limit for core dumps is zero and cannot be raised."""
    (line,) = [
        line
        for line in Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
        if line.startswith("Max core file size")
    ]
    assert line.split()[4:6] == ["0", "0"]


def test_a_daemon_that_crashes_leaves_nothing_behind(tmp_path: Path) -> None:
    """A crashing daemon writes no core, even where core dumps are enabled."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        pytest.skip("core dumps go elsewhere on this machine")
    control = tmp_path / "control"
    control.mkdir()
    subprocess.run([*WITH_CORES, PYTHON, "-c", "import os; os.abort()"], cwd=control, check=False)
    assert list(control.iterdir()), "no core dump can be had here"

    place = tmp_path / "daemon"
    place.mkdir()
    argv = [*WITH_CORES, str(COMMANDS / "amistreamd"), "--socket", "s", "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(argv, cwd=place, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"daemon.ready" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGABRT)
        assert process.wait(PATIENCE_S) == -signal.SIGABRT
    assert {path.name for path in place.iterdir()} == {"s", ".s.lock"}


def test_files_are_the_daemons_alone(daemon: Daemon, tmp_path: Path) -> None:
    """All files of the daemon are private; only the socket is open, to its group."""
    assert status(daemon.process.pid, "Umask") == "0077"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert "journal.sqlite" in modes
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


@needs_root
def test_another_process_of_the_same_user_cannot_look_in() -> None:
    """A daemon of an ordinary user shows its memory and environment to root alone, and still works."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, STRANGER_ID, STRANGER_ID)
        argv = ["setpriv", *STRANGER, "--", str(COMMANDS / "amistreamd"), "--socket", str(folder / "s")]
        environ = {"PATH": os.environ["PATH"], "HOME": name, "TELLTALE": "seen"}
        with subprocess.Popen([*argv, "--state-dir", f"{name}/state"], stderr=subprocess.PIPE, env=environ) as process:
            try:
                assert process.stderr is not None
                while b"daemon.ready" not in process.stderr.readline():
                    pass
                peeping = "import sys; print(open(sys.argv[1], 'rb').read(1))"
                for file in ("environ", "mem", "maps"):
                    seen = subprocess.run(
                        ["setpriv", *STRANGER, "--", PYTHON, "-I", "-c", peeping, f"/proc/{process.pid}/{file}"],
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    assert "PermissionError" in seen.stderr, file
                health = ["curl", "-sf", "--unix-socket", str(folder / "s"), "http://d/v1/health"]
                assert b'"ok"' in subprocess.run(health, capture_output=True, check=True).stdout
            finally:
                process.terminate()
            assert process.wait(PATIENCE_S) == 0


@needs_root
def test_a_daemon_that_is_not_roots_bundles(key_ring: KeyRing) -> None:
    """A protected daemon of an ordinary user can still read its own descriptors and mounts."""
    with machine(key_ring) as place:
        place.root.joinpath("allowed.img").write_bytes(b"\1" * 100_000)
        script = (
            "import sys; from pathlib import Path; from amistream.process import keep_secrets_in\n"
            "from amistream.roots import Roots; from amistream.source.file import open_volume\n"
            "keep_secrets_in(); print(open_volume(Path(sys.argv[2]), Roots([Path(sys.argv[1])])).size)"
        )
        place.root.joinpath("allowed.img").chmod(0o644)
        done = subprocess.run(
            ["setpriv", *STRANGER, "--", sys.executable, "-c", script, place.root, place.root / "allowed.img"],
            capture_output=True,
            text=True,
            check=False,
            # Without coverage, which would write where the other user cannot.
            env={"PATH": os.environ["PATH"]},
        )
        assert (done.stdout, done.stderr) == ("100000\n", "")


def test_a_process_closes_itself_up() -> None:
    """A job in the command's own process is protected in the same way."""
    script = (
        "import ctypes, resource; from amistream.process import keep_secrets_in; keep_secrets_in()\n"
        f"print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0))"
    )
    done = subprocess.run([*WITH_CORES, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0) 0\n"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_state_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """A state directory in which others can create files, such as a key, is refused with the commands that fix it."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    argv = [COMMANDS / "amistreamd", "--socket", tmp_path / "s", "--state-dir", state]
    ended = commands.run(argv, timeout=PATIENCE_S)
    assert ended.returncode == 2
    assert f"cannot use the state directory {state}: other users" in ended.stderr
    assert f"chmod 700 {state}" in ended.stderr
    assert not (tmp_path / "s").exists()


def test_a_root_that_allows_nothing_is_warned_of_at_the_start(tmp_path: Path) -> None:
    """The daemon warns at its start of roots that are links or do not exist."""
    (tmp_path / "link").symlink_to(tmp_path)
    roots = f"{tmp_path}:{tmp_path / 'link'}:{tmp_path / 'nothing'}"
    with running_daemon(tmp_path, None, source_roots=roots) as daemon:
        warnings = [line for line in daemon.process.output().splitlines() if "settings.source_roots" in line]
    assert len(warnings) == 2
    assert f"it is a link to {tmp_path}" in warnings[0]
    assert "it does not exist" in warnings[1]


def test_directories_above_the_socket_let_others_pass(tmp_path: Path) -> None:
    """Directories made for the socket can be entered by all users, whatever the umask."""
    socket = tmp_path / "a" / "b" / "s"
    argv = [str(COMMANDS / "amistreamd"), "--socket", str(socket), "--state-dir", str(tmp_path / "state")]
    with commands.Popen[bytes](argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"daemon.ready" not in process.stderr.readline():
            pass
        assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o755] * 2
        process.terminate()
