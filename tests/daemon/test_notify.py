"""Messages to the service manager."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from amistream.daemon.notify import notify


@pytest.mark.parametrize("abstract", [False, True], ids=["file", "abstract"])
def test_message_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    """The assignments arrive as one datagram, at a path or in the abstract namespace."""
    name = secrets.token_hex(8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else str(tmp_path / name))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else str(tmp_path / name))
        notify("READY=1", "STATUS=up")
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside systemd no message is sent."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_manager_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that does not listen does not stop the daemon."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
