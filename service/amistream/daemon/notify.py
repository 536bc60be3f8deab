"""The two links to systemd: sd_notify messages, and the socket of a socket-activated start.

Without systemd (no NOTIFY_SOCKET, no LISTEN_PID) neither does anything. Protocols: sd_notify(3), sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from amistream.errors import UsageError

FIRST_PASSED_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


def notify(*assignments: str) -> None:
    """Send `READY=1` and the like to the service manager. A manager that does not listen never blocks the daemon."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # stands for the NUL byte of the abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outlet, suppress(OSError):
        outlet.setblocking(False)  # called on the event loop: a full queue only loses the message
        outlet.sendto("\n".join(assignments).encode(), address)


def take_passed_socket() -> socket.socket | None:
    """Take the listening socket that systemd opened for this process, if any, and clear the environment of it."""
    passed_to = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if passed_to != str(os.getpid()):
        return None
    if count != "1":
        raise UsageError(
            "daemon.passed_sockets",
            f"cannot take the sockets that systemd passes: there are {count or 'none'}, exactly one is expected",
            hint="keep one ListenStream= in amistream.socket",
        )
    passed = socket.socket(fileno=FIRST_PASSED_DESCRIPTOR)
    passed.set_inheritable(False)
    if passed.family != socket.AF_UNIX or passed.type != socket.SOCK_STREAM:
        passed.close()
        raise UsageError(
            "daemon.passed_sockets",
            "cannot take the socket that systemd passes: it is not a Unix stream socket",
            hint="ListenStream= in amistream.socket must be an absolute path",
        )
    return passed
