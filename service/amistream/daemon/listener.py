"""The daemon's listening socket: claimed at start, never open to other users, removed at the end.

Runs before and after the event loop, so calls may block. The file's mode is the first protection; `access` checks each
peer.
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
LONGEST_PATH = 107
"""Bytes of the path of a Unix socket. Limit of Linux."""


def find_group(name: str) -> int | None:
    """Find the id of the group that may connect; None if no group is set. Raises `UsageError` for an unknown group."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            "settings.unknown_group",
            f"cannot open the socket to the group {name!r}: the group does not exist",
            hint=f"create it (groupadd --system {name}), or change socket_group",
            field="socket_group",
        ) from None


@contextmanager
def listening(path: Path, group: int | None) -> Iterator[socket.socket]:
    """Use the socket that systemd passed, or listen on `path` while the block runs.

    Raises `ConflictError` if a daemon already answers there, `UsageError` if the path cannot be used.
    """
    passed = take_passed_socket()
    if passed is not None:  # systemd creates, chmods and removes this socket's file
        with passed:
            yield passed
        return
    path = path.absolute()
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UsageError(
            "daemon.socket",
            f"cannot listen on {path}: the path of a socket has at most {LONGEST_PATH} bytes",
            hint="choose a shorter path with --socket",
            field="socket",
        )
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
            # Before the socket is closed, so that no client finds a file that refuses. Never another daemon's file.
            with suppress(FileNotFoundError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _claim(path: Path, group: int | None) -> socket.socket:
    missing = [above for above in path.parents if not above.exists()]
    for above in reversed(missing):
        # Others may pass through, whatever the umask: the mode of the socket protects it.
        above.mkdir()
        above.chmod(DIRECTORY_MODE)
    # If two daemons start together, a socket between bind and listen looks stale to the other one.
    with _locked(path):
        _remove_stale(path)
        return _bind(path, group)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other daemons from claiming `path`. Raises `ConflictError` if another one is doing so.

    No other user can open the lock file: a user who can read it could hold the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, LOCK_MODE)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise OSError(errno.EPERM, f"{lock} is not a private file of this user; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "daemon.starting",
                f"cannot listen on {path}: another daemon is starting there",
                hint="see if it has started (systemctl status amistream), or choose another path with --socket",
                field="socket",
            ) from None
        yield
    finally:
        # The file stays: removing it would let two daemons lock two different files.
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Remove a socket at `path` that nothing answers on; anything else there is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "another file, not a socket, has this name")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except (TimeoutError, BlockingIOError):
            pass  # its backlog is full: a busy daemon listens there
    raise ConflictError(
        "daemon.running",
        f"cannot listen on {path}: a daemon is already running on {path}",
        hint="stop it first (systemctl stop amistream), or choose another path with --socket",
        field="socket",
    )


def _bind(path: Path, group: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Created for the owner only, then given to the group, then opened: no other user can connect at any moment.
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
