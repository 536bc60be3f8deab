"""The daemon's listening socket: claimed once at start, never open to others, given back at the end.

All of this runs before the event loop and after it, so calls may block. Who may talk once connected is `access`'s to
judge; the file's mode is the first fence.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amistream.daemon.notify import take_passed_socket
from amistream.errors import ConflictError, UsageError

BACKLOG = 128
PROBE_TIMEOUT_S = 2.0
SOCKET_MODE = 0o660
DIRECTORY_MODE = 0o755
LOCK_MODE = 0o600


def find_group(name: str) -> int | None:
    """Give the id of the group that may connect; None when no group is set. Raises `UsageError` for an unknown one."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            "settings.unknown_group",
            f"cannot open the socket to the group {name!r}: there is no such group",
            hint=f"create it (groupadd --system {name}), or change socket_group",
            field="socket_group",
        ) from None


@contextmanager
def listening(path: Path, group: int | None) -> Iterator[socket.socket]:
    """Give the socket that systemd passed, or listen on `path` for as long as the block runs.

    Raises `ConflictError` when a daemon answers there already, `UsageError` when the path cannot be used.
    """
    passed = take_passed_socket()
    if passed is not None:  # the file is systemd's: it made it, it sets its mode, it removes it
        with passed:
            yield passed
        return
    path = path.absolute()
    try:
        listener = _claim(path, group)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            "daemon.socket",
            f"cannot listen on {path}: {reason}",
            hint="choose another path with --socket, or run as a user who may write there",
            field="socket",
        ) from error
    ours = path.stat().st_ino
    with listener:
        try:
            yield listener
        finally:
            # Before it is closed, so that nobody finds a file that refuses; and only if it is still this one.
            with suppress(FileNotFoundError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _claim(path: Path, group: int | None) -> socket.socket:
    missing = [above for above in path.parents if not above.exists()]
    for above in reversed(missing):
        # Open to pass through, whatever the umask: the socket in it is what is guarded.
        above.mkdir()
        above.chmod(DIRECTORY_MODE)
    # Two daemons that start together: between bind and listen a socket looks stale to the other one.
    with _locked(path):
        _remove_stale(path)
        return _bind(path, group)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep every other daemon from claiming `path`. Raises `ConflictError` when one is doing so.

    The lock is a file that nobody else can open: on one that others can read, they could hold the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, LOCK_MODE)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise OSError(errno.EPERM, f"{lock} is not a file of this user's alone; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "daemon.starting",
                f"cannot listen on {path}: another daemon is starting there",
                hint="see whether it has come up (systemctl status amistream), or choose another path with --socket",
                field="socket",
            ) from None
        yield
    finally:
        # The file stays: to remove it would take it from under one who waits to open it.
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Make room at `path`: a socket on which nothing answers goes, anything else stays and is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is not a socket is there")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (TimeoutError, BlockingIOError):
            pass  # its backlog is full: somebody listens, if slowly
    raise ConflictError(
        "daemon.running",
        f"cannot listen on {path}: a daemon is already running on {path}",
        hint="stop it first (systemctl stop amistream), or choose another path with --socket",
        field="socket",
    )


def _bind(path: Path, group: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Born for the owner alone, then given to the group, then opened: at no moment can anyone else connect.
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
