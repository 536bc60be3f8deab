"""Claiming the socket's path, and removing it."""

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
    """The file is made with its directory, accepts connections, and is removed at the end."""
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
    """The file is removed after a failure, too."""
    path = tmp_path / "a.sock"
    with pytest.raises(ZeroDivisionError), listening(path, None):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to any group")
def test_socket_belongs_to_the_group(tmp_path: Path) -> None:
    """The file belongs to the configured group."""
    path = tmp_path / "a.sock"
    with listening(path, 54321):
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (54321, 0o660)


def test_second_daemon_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    """A path on which a daemon answers is left alone."""
    path = tmp_path / "a.sock"
    with listening(path, None):
        with pytest.raises(ConflictError, match=f"a daemon is already running on {path}"), listening(path, None):
            pass
        assert answers(path)


def test_full_backlog_counts_as_an_answer(tmp_path: Path) -> None:
    """A daemon that is slow to accept counts as running."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConflictError), listening(path, None):
            pass


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """The file of a killed daemon is replaced."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not answers(path)
    with listening(path, None):
        assert answers(path)


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    """Of several daemons that find the same stale socket together, exactly one claims it."""
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
        # The losers print nothing and end; the winner prints a line and waits for the end of its input.
        said = list(pool.map(first_line, started))
    for process in started:
        process.communicate()
    assert sorted(said) == [b"", b"", b"", b"mine\n"]


def test_a_lock_on_the_directory_holds_nobody(tmp_path: Path) -> None:
    """A lock on the directory, which any user may take, does not stop the daemon."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with listening(tmp_path / "a.sock", None):
            assert answers(tmp_path / "a.sock")
    finally:
        os.close(directory)


def test_a_daemon_that_is_starting_keeps_the_path(tmp_path: Path) -> None:
    """While another daemon claims the path, this one ends at once with the reason; only the owner can open the lock."""
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
    """A lock file that is not the daemon's own is not used; the error names it."""
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
    """A file that is not a socket is never removed."""
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"), listening(path, None):
        pass
    assert path.read_text() == "precious"


def test_path_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    """A path that is too long is refused with the limit."""
    path = tmp_path / ("x" * 120)
    with pytest.raises(UsageError, match="at most 107 bytes"), listening(path, None):
        pass


def test_socket_of_another_is_not_removed_at_the_end(tmp_path: Path) -> None:
    """If another process has taken the path over, its file stays."""
    path = tmp_path / "a.sock"
    with listening(path, None):
        path.rename(tmp_path / "moved.sock")
        path.write_text("somebody else's")
    assert path.exists()


def test_group_is_found_by_name() -> None:
    """A known group's id is found, no name means no group, an unknown name is an error."""
    known = grp.getgrgid(0)
    assert find_group(known.gr_name) == 0
    assert find_group("") is None
    with pytest.raises(UsageError, match="the group does not exist"):
        find_group("no-such-group-here")


def run_with_passed_socket(passed: socket.socket, path: Path, count: str) -> str:
    """Run a process with `passed` as descriptor 3, as systemd does."""
    return subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" 3<&{passed.fileno()}', sys.executable, "-c", PASS_SOCKET, str(path), count],
        pass_fds=[passed.fileno()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_socket_from_systemd_is_taken(tmp_path: Path) -> None:
    """A passed socket is used unchanged, is not inherited by children, and stays at the end."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        assert run_with_passed_socket(passed, path, "1") == "3 False True False"
    assert path.exists()


def test_several_sockets_from_systemd_are_refused(tmp_path: Path) -> None:
    """More than one passed socket is an error."""
    with socket.socket(socket.AF_UNIX) as passed:
        assert run_with_passed_socket(passed, tmp_path, "2") == "daemon.passed_sockets"


def test_tcp_socket_from_systemd_is_refused(tmp_path: Path) -> None:
    """A passed TCP socket, which would open the daemon to the network, is refused."""
    with socket.socket(socket.AF_INET) as passed:
        assert run_with_passed_socket(passed, tmp_path, "1") == "daemon.passed_sockets"


def test_socket_passed_to_another_process_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables meant for a parent process are ignored."""
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    path = tmp_path / "a.sock"
    with listening(path, None):
        assert answers(path)
    assert "LISTEN_FDS" not in os.environ
