"""`amistream web` as a process: its address, its end, and what of its token is to be seen."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from amistream.cli.main import run
from support import commands
from support.commands import COMMANDS


def test_the_page_is_served_until_ctrl_c(tmp_path: Path) -> None:
    """The command prints one address, which works; Ctrl-C ends it with status 0, and no line repeats the token."""
    line = [str(COMMANDS / "amistream"), "web", "--port", "0", "--socket", str(tmp_path / "none.sock")]
    with commands.Popen[str](line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().strip()
        token = address.partition("?token=")[2]
        assert address.startswith("http://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", int(address.split(":")[2].partition("/")[0]))) as broken:
            broken.sendall(f"GET /?token={token} HTTP/9.9\r\n\r\n".encode())
            answer = broken.makefile("rb").read()
        assert b" 400 " in answer
        assert token.encode() not in answer
        with urllib.request.urlopen(address) as response:  # noqa: S310 - the line above
            assert b"<title>amistream</title>" in response.read()
        assert token not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.send_signal(signal.SIGINT)
        left = process.stdout.read() + process.stderr.read()
    assert process.returncode == 0
    assert "ssh -L" in left
    assert len(token) >= 32
    assert token not in left


def test_a_port_that_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A port of another program is refused with a message that names the option."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["web", "--port", str(port), "--socket", str(tmp_path / "none.sock")]) == 2
    assert "--port" in capfd.readouterr().err
