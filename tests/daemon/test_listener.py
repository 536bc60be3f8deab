"""Claiming the socket's path, and giving it back."""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amistream.daemon.listener import find_group, listening
from amistream.errors import ConflictError, UsageError

PASS_SOCKET = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = sys.argv[2]
from pathlib import Path
from amistream.daemon.listener import listening
from amistream.errors import UsageError
try:
    with listening(Path("/nowhere/a.sock"), None) as listener:
        named = listener.getsockname() == sys.argv[1]
        print(listener.fileno(), os.get_inheritable(3), named, "LISTEN_PID" in os.environ)
except UsageError as error:
    print(error.code)
"""


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_socket_is_there_while_it_is_used(tmp_path: Path) -> None:
    """The file is made with its directory, takes connections, and is gone afterwards."""
    path = tmp_path / "run" / "a.sock"
    before = os.umask(0)
    try:
        with listening(path, None):
            mode = path.stat().st_mode
            assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
            assert answers(path)
        assert not path.exists()
    finally:
        assert os.umask(before) == 0


def test_failure_while_it_is_used_removes_it_too(tmp_path: Path) -> None:
    """The file goes, whatever ends the block."""
    path = tmp_path / "a.sock"
    with pytest.raises(ZeroDivisionError), listening(path, None):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
def test_socket_belongs_to_the_group(tmp_path: Path) -> None:
    """The configured group owns the file."""
    path = tmp_path / "a.sock"
    with listening(path, 54321):
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (54321, 0o660)


def test_second_daemon_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    """A path on which somebody answers is left alone."""
    path = tmp_path / "a.sock"
    with listening(path, None):
        with pytest.raises(ConflictError, match=f"a daemon is already running on {path}"), listening(path, None):
            pass
        assert answers(path)


def test_full_backlog_counts_as_an_answer(tmp_path: Path) -> None:
    """A daemon that is slow to accept is a daemon that runs."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConflictError), listening(path, None):
            pass


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A file that a killed daemon left is no hindrance."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not answers(path)
    with listening(path, None):
        assert answers(path)


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    """Daemons that find the same stale socket together do not take it from one another."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    begin = "import sys; from pathlib import Path; from amistream.daemon.listener import listening as l\n"
    script = begin + "with l(Path(sys.argv[1]), None):\n  print('mine', flush=True); sys.stdin.read()"

    def start(_: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def first_line(process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout
        return process.stdout.readline()

    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(start, range(4)))
        # The losers print nothing and end; the winner says so and waits for its input to end.
        said = list(pool.map(first_line, started))
    for process in started:
        process.communicate()
    assert sorted(said) == [b"", b"", b"", b"mine\n"]


def test_a_lock_on_the_directory_holds_nobody(tmp_path: Path) -> None:
    """Any user of the machine may lock a directory that he can read; the daemon starts all the same."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with listening(tmp_path / "a.sock", None):
            assert answers(tmp_path / "a.sock")
    finally:
        os.close(directory)


def test_one_that_is_starting_is_told(tmp_path: Path) -> None:
    """While another daemon claims the path, this one ends at once and says why; the lock is nobody else's to open."""
    path, lock = tmp_path / "a.sock", tmp_path / ".a.sock.lock"
    before = os.umask(0)
    try:
        with listening(path, None):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another daemon is starting there") as caught, listening(path, None):
            pass
    assert (caught.value.code, caught.value.field) == ("daemon.starting", "socket")
    with listening(path, None):
        assert answers(path)


@pytest.mark.parametrize("kind", ["link", "pipe", "others can open it", "another's"])
def test_a_lock_that_somebody_put_there(tmp_path: Path, kind: str) -> None:
    """What is not a file of the daemon's own is not locked, and is named."""
    path, lock, target = tmp_path / "a.sock", tmp_path / ".a.sock.lock", tmp_path / "target"
    target.write_bytes(b"")
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(lock, 0o600)
    else:
        lock.touch(0o600)
        lock.chmod(0o644 if kind == "others can open it" else 0o600)
    if kind == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(lock, 54321, -1)
    says = "symbolic links" if kind == "link" else f"{lock} is not a private file"
    with pytest.raises(UsageError, match=says), listening(path, None):
        pass
    assert not path.exists()


def test_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    """Nothing but a socket is ever removed."""
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"), listening(path, None):
        pass
    assert path.read_text() == "precious"


def test_path_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    """The kernel's reason stands in the message."""
    path = tmp_path / ("x" * 120)
    with pytest.raises(UsageError, match="AF_UNIX path too long"), listening(path, None):
        pass


def test_socket_of_another_is_not_removed_at_the_end(tmp_path: Path) -> None:
    """When somebody else has taken the path over, it is theirs."""
    path = tmp_path / "a.sock"
    with listening(path, None):
        path.rename(tmp_path / "moved.sock")
        path.write_text("somebody else's")
    assert path.exists()


def test_group_is_found_by_name() -> None:
    """A known group's id is found, no name means no group, an unknown one is an error."""
    known = grp.getgrgid(0)
    assert find_group(known.gr_name) == 0
    assert find_group("") is None
    with pytest.raises(UsageError, match="there is no such group"):
        find_group("no-such-group-here")


def run_with_passed_socket(passed: socket.socket, path: Path, count: str) -> str:
    """Run a process that finds `passed` as descriptor 3, as systemd leaves it."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" 3<&{passed.fileno()}', sys.executable, "-c", PASS_SOCKET, str(path), count],
        pass_fds=[passed.fileno()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_socket_from_systemd_is_taken(tmp_path: Path) -> None:
    """A passed socket is used as it is, kept from children, and left where it was."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        assert run_with_passed_socket(passed, path, "1") == "3 False True False"
    assert path.exists()


def test_several_sockets_from_systemd_are_refused(tmp_path: Path) -> None:
    """One socket is what the daemon serves."""
    with socket.socket(socket.AF_UNIX) as passed:
        assert run_with_passed_socket(passed, tmp_path, "2") == "daemon.passed_sockets"


def test_tcp_socket_from_systemd_is_refused(tmp_path: Path) -> None:
    """A passed socket that would open the daemon to the network is not served."""
    with socket.socket(socket.AF_INET) as passed:
        assert run_with_passed_socket(passed, tmp_path, "1") == "daemon.passed_sockets"


def test_socket_passed_to_another_process_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that were meant for a parent do not count."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    path = tmp_path / "a.sock"
    with listening(path, None):
        assert answers(path)
    assert "LISTEN_FDS" not in os.environ
