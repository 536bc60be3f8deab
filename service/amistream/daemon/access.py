"""Who is at the other end of the socket, and what they may do.

The kernel tells both: SO_PEERCRED the user, SO_PEERGROUPS the groups the peer had when it connected. No name is looked
up, so nothing can block; and membership means the same here as for the socket file's own mode.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from amistream.errors import AccessDeniedError

SO_PEERGROUPS = 59
"""Linux 4.13; the socket module has no name for it."""
CREDENTIALS = struct.Struct("iII")
"""struct ucred: pid, uid, gid."""
GROUPS_BYTES = 1024
"""Room for 256 groups: the most that `socket.getsockopt` takes back."""


class Access(StrEnum):
    """What an endpoint asks of its caller."""

    READ = "read"
    WRITE = "write"


class PeerSocket(Protocol):
    """The part of a socket that asyncio and uvloop both show of a transport."""

    @property
    def family(self) -> int: ...
    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, as the kernel saw it then."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def privileged(self) -> bool:
        """Root or the daemon's own user. The jobs of everybody else are confined."""
        return self.uid in {0, os.geteuid()}


def identify(connection: PeerSocket) -> Peer:
    """Ask the kernel who connected. Raises `AccessDeniedError` for a connection that has no such answer."""
    if connection.family != socket.AF_UNIX:
        raise AccessDeniedError(
            "access.unknown_peer", "cannot serve this connection: it did not come through the Unix socket"
        )
    pid, uid, gid = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    try:
        supplementary = array("I", connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES))
    except OSError:  # more groups than there is room for: the primary one alone counts, which errs on the safe side
        supplementary = array("I")
    return Peer(pid=pid, uid=uid, groups=frozenset({gid, *supplementary}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """Root and the daemon's own user may do everything, others nothing.

    Members of `group` may see everything, submit confined jobs, and cancel or resume those.
    """

    group: int | None = None

    def check(self, peer: Peer, access: Access) -> None:
        """Raise `AccessDeniedError` unless `peer` may do what needs `access`."""
        if peer.privileged or self.group in peer.groups:
            return
        raise AccessDeniedError(
            "access.denied",
            f"cannot grant {access.value} access to user {peer.uid}: not root, the daemon's user or in its group",
            hint="have the administrator add you to the group that socket_group names, then log in again",
        )
