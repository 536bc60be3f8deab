"""Access to the socket."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from amistream.daemon.access import Access, AccessPolicy, Peer, identify
from amistream.errors import AccessDeniedError
from daemon.rig import StartDaemon

STRANGER = 65534
GROUP = 54321

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


async def ask_as(path: Path, *identity: str) -> tuple[int, str]:
    """Request the list of jobs as another user, through a socket file open to all; return the HTTP status."""
    path.chmod(0o666)
    curl = ["curl", "-s", "-w", "%{stderr}%{http_code}", "--unix-socket", str(path), "http://localhost/v1/jobs"]
    process = await asyncio.create_subprocess_exec(
        "setpriv", *identity, "--", *curl, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    body, status = await process.communicate()
    return int(status), body.decode()


@needs_root
async def test_stranger_is_refused(start_daemon: StartDaemon, open_path: Path) -> None:
    """A user who is neither root nor the daemon's user nor in its group gets 403 from the daemon itself."""
    async with start_daemon(path=open_path, policy=AccessPolicy(group=GROUP)) as daemon:
        status, body = await ask_as(daemon.path, f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
        assert (status, '"access.denied"' in body) == (403, True)


@needs_root
async def test_without_a_group_only_the_owner_and_root_get_in(start_daemon: StartDaemon, open_path: Path) -> None:
    """With no group configured, membership in groups gives no access."""
    async with start_daemon(path=open_path) as daemon:
        status, _ = await ask_as(daemon.path, f"--reuid={STRANGER}", f"--regid={GROUP}", f"--groups={GROUP},0")
        assert status == 403


@needs_root
@pytest.mark.parametrize(
    "groups",
    [(f"--regid={GROUP}", "--clear-groups"), (f"--regid={STRANGER}", f"--groups=7,{GROUP}")],
    ids=["primary", "supplementary"],
)
async def test_member_of_the_group_gets_in(start_daemon: StartDaemon, open_path: Path, groups: tuple[str, ...]) -> None:
    """The group may be the peer's primary group or a supplementary one."""
    async with start_daemon(path=open_path, policy=AccessPolicy(group=GROUP)) as daemon:
        status, body = await ask_as(daemon.path, f"--reuid={STRANGER}", *groups)
        assert (status, body) == (200, '{"jobs":[]}')


@needs_root
async def test_stranger_learns_nothing_of_paths(start_daemon: StartDaemon, open_path: Path) -> None:
    """A stranger gets 403 for a path that does not exist, too."""
    async with start_daemon(path=open_path, policy=AccessPolicy(group=GROUP)) as daemon:
        daemon.path.chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            *("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", "--"),
            *("curl", "-s", "--unix-socket", str(daemon.path), "http://localhost/nowhere"),
            stdout=asyncio.subprocess.PIPE,
        )
        body, _ = await process.communicate()
        assert b'"access.denied"' in body


def test_own_user_and_root_may_do_everything() -> None:
    """Root and the daemon's own user need no group."""
    for uid in (0, os.geteuid()):
        for access in Access:
            AccessPolicy().check(Peer(pid=1, uid=uid, groups=frozenset()), access)


def test_refusal_names_the_access_and_the_user() -> None:
    """The error states the kind of access and the user."""
    with pytest.raises(AccessDeniedError, match=f"cannot grant write access to user {STRANGER}"):
        AccessPolicy(group=GROUP).check(Peer(pid=1, uid=STRANGER, groups=frozenset({1})), Access.WRITE)


def test_peer_of_a_unix_socket_is_known() -> None:
    """The kernel reports process, user and groups of the peer."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        peer = identify(ours)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.groups == {os.getegid(), *os.getgroups()}


def test_peer_with_too_many_groups_counts_with_its_primary_one() -> None:
    """If the kernel's list of groups is too long, only the primary group counts."""

    class Crowded(socket.socket):
        def getsockopt(self, level: int, option: int, length: int) -> bytes:  # type: ignore[override]  # the form used
            if option == socket.SO_PEERCRED:
                return super().getsockopt(level, option, length)
            raise OSError(34, "Numerical result out of range")

    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with theirs, Crowded(fileno=ours.detach()) as crowded:
        assert identify(crowded).groups == {os.getegid()}


def test_peer_of_another_kind_of_socket_is_refused() -> None:
    """A connection that did not come through a Unix socket has no known peer."""
    with socket.socket(socket.AF_INET) as connection, pytest.raises(AccessDeniedError):
        identify(connection)
