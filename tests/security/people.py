"""The real daemon as root runs it, with users of the machine: a member of its group and a stranger."""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.daemons import PATIENCE_S, Daemon, running_daemon

if TYPE_CHECKING:
    from support.keys import KeyRing

STRANGER_ID, MEMBER_ID = 65534, 65533
PYTHON = os.path.realpath(sys.executable)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

CONNECT = """
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""

SUBMIT = """
import http.client, json, socket, sys

class Door(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])

def ask(method, path, body=None):
    door = Door("d")
    door.request(method, path, body)
    answer = door.getresponse()
    return answer.status, answer.read()

for line in sys.stdin:
    status, text = ask("POST", "/v1/jobs", line)
    body = json.loads(text)
    if status == 202:
        ask("GET", f"/v1/jobs/{body['id']}/events")  # ends with the job
        _, text = ask("GET", f"/v1/jobs/{body['id']}")
        body = json.loads(text)
    print(json.dumps({"status": status, "body": body}), flush=True)
"""


def some_group() -> grp.struct_group:
    """Find a group of this machine that no user of the tests is in."""
    return next(each for each in grp.getgrall() if each.gr_gid not in {0, STRANGER_ID, MEMBER_ID})


def member() -> Sequence[str]:
    """The options of setpriv that run a process as a member."""
    return (f"--reuid={MEMBER_ID}", f"--regid={some_group().gr_gid}", "--clear-groups")


ROOT = ("--reuid=0", "--regid=0", "--clear-groups")
STRANGER = (f"--reuid={STRANGER_ID}", f"--regid={STRANGER_ID}", "--clear-groups")


def run_as(user: Sequence[str], program: str, *arguments: object, given: str = "") -> str:
    """Run a Python program as another user and return its output."""
    done = subprocess.run(
        ["setpriv", *user, "--", PYTHON, "-I", "-c", program, *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


AMISTREAM = """
import os, sys
# Before the rights are given up: a member may be unable to read this Python.
import aiohttp, netrc, shlex
from amistream.checks import doctor
from amistream.cli import foreground
from amistream.cli.main import run
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
sys.exit(run(sys.argv[3:]))
"""


def amistream_as(user: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a member of the group, or as a stranger."""
    group = user if user == STRANGER_ID else some_group().gr_gid
    argv = [sys.executable, "-c", AMISTREAM, str(user), str(group), *map(str, words)]
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A daemon with a group and one root, and the directories around it."""

    daemon: Daemon
    root: Path
    """The root, from and to which members may bundle. It belongs to the member."""
    outside: Path
    """A directory outside the roots, which file permissions let the member read."""
    keys: KeyRing

    def request(self, **changes: object) -> dict[str, object]:
        """Make a request that succeeds if all its paths lie in the root; None removes a field."""
        values: dict[str, object] = {
            "source": str(self.root / "allowed.img"),
            "destinations": [str(self.root / "out")],
            "account": "123456789012",
            "certificate": str(self.root / "cert.pem"),
            "private_key": str(self.root / "key.pem"),
            "ec2_certificate": str(self.root / "cert-ec2.pem"),
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}

    def submit(self, requests: Sequence[Mapping[str, object]], user: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Submit requests as the member, or as `user`, each once the one before has ended."""
        given = "".join(json.dumps(each) + "\n" for each in requests)
        lines = run_as(user or member(), SUBMIT, self.daemon.socket, given=given).splitlines()
        answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
        assert len(answers) == len(requests)
        return answers

    def submit_one(self, **changes: object) -> dict[str, Any]:
        """Give the job of the member's request once it has ended, or the error of the response."""
        (answer,) = self.submit([self.request(**changes)])
        body: dict[str, Any] = answer["body"]
        return body


@contextmanager
def machine(keys: KeyRing, **settings: object) -> Iterator[Machine]:
    """Run the daemon in a directory that every user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="amistream-test-"))
    folder.chmod(0o755)
    root, outside = folder / "images", folder / "outside"
    root.mkdir()
    outside.mkdir()
    outside.chmod(0o755)
    for pair, name in ((keys.user.certificate, "cert.pem"), (keys.user.key, "key.pem")):
        shutil.copy(pair, root / name)
        shutil.copy(pair, outside / name)
        (root / name).chmod(0o600)
        (outside / name).chmod(0o600)
    shutil.copy(keys.ec2.certificate, root / "cert-ec2.pem")
    shutil.copy(keys.ec2.certificate, outside / "cert-ec2.pem")
    for path in (root, *root.iterdir()):
        os.chown(path, MEMBER_ID, MEMBER_ID)
    chosen: dict[str, Any] = {"socket_group": some_group().gr_name, "source_roots": root, **settings}
    try:
        with running_daemon(folder, None, **chosen) as daemon:
            yield Machine(daemon=daemon, root=root, outside=outside, keys=keys)
    finally:
        shutil.rmtree(folder)
