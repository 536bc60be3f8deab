"""Identify the process that connected, and decide which endpoints it may use, and how much of what is bounded.

The kernel reports the user (SO_PEERCRED) and the groups that the peer had when it connected (SO_PEERGROUPS). No name is
looked up, so nothing blocks, and membership means the same as for the mode of the socket's file.

Of every bounded resource a share is kept for privileged peers. The share of connections is in `connections`, the limits
of a single job in `jobs.confinement`.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from amistream.errors import AccessDeniedError, BusyError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.jobs.queue import JobQueue

SO_PEERGROUPS = 59
"""Linux 4.13; the socket module has no name for it."""
CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""
GROUPS_BYTES = 1024
"""256 groups: the largest result that `socket.getsockopt` returns."""
MAX_SUBSCRIBERS = 64
"""Guess: each takes a connection and a little memory, and does not slow the jobs down."""
SHARE = 0.75
"""Part of a bounded resource that all unprivileged peers together can take. Guess."""


class Access(StrEnum):
    """The permission that an endpoint requires."""

    READ = "read"
    WRITE = "write"


class PeerSocket(Protocol):
    """The part of a socket that transports of both asyncio and uvloop expose."""

    @property
    def family(self) -> int: ...
    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, with its credentials of that moment."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def privileged(self) -> bool:
        """Root or the daemon's own user. The jobs of everybody else are confined."""
        return self.uid in {0, os.geteuid()}

    def share(self, most: int) -> int:
        return most if self.privileged else max(1, int(most * SHARE))


def identify(connection: PeerSocket) -> Peer:
    """Ask the kernel for the peer. Raises `AccessDeniedError` unless the connection is a Unix socket."""
    if connection.family != socket.AF_UNIX:
        raise AccessDeniedError(
            "access.unknown_peer", "cannot serve this connection: it did not come through the Unix socket"
        )
    pid, uid, gid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    try:
        supplementary = array("I", connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES))
    except OSError:  # over 256 groups: only the primary one counts, which is the safe side
        supplementary = array("I")
    return Peer(pid=pid, uid=uid, groups=frozenset({gid, *supplementary}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """Root and the daemon's own user may use every endpoint; other users none.

    Members of `group` may read everything, submit confined jobs, and cancel or resume those. Jobs of a queue of many
    hosts are not theirs, though they are confined, too: who gave them may not even know this host.
    """

    group: int | None = None

    def check(self, peer: Peer, access: Access) -> None:
        """Raise `AccessDeniedError` unless `peer` has `access`."""
        if peer.privileged or self.group in peer.groups:
            return
        raise AccessDeniedError(
            "access.denied",
            f"cannot grant {access.value} access to user {peer.uid}: not root, the daemon's user or in its group",
            hint="ask the administrator to add you to the group in socket_group, then log in again",
        )


def check_queue_share(queue: JobQueue, max_queued: int, peer: Peer, *, except_job: Job | None = None) -> None:
    """Raise `BusyError` if the group has its share of waiting jobs, or of unfinished jobs that are kept."""
    most = peer.share(max_queued)
    waiting = sum(job.is_members for job in queue.jobs(State.QUEUED))
    if waiting >= most:
        raise BusyError(
            "daemon.full", f"cannot take the job: {waiting} jobs of the group wait already", hint="try again later"
        )
    kept = sum(job.is_members and job.resumable and job is not except_job for job in queue.jobs())
    if kept >= most:
        raise BusyError(
            "daemon.full",
            f"cannot take the job: the group has {kept} unfinished jobs whose parts are kept",
            hint="finish them with `amistream resume ID`, or remove their parts with `amistream clean`",
        )
