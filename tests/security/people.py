"""The real daemon as root runs it, and the users of the machine who meet it: a member of its group and a stranger."""

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

from end_to_end.machine import PATIENCE_S, Daemon, running_daemon

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
    told = json.loads(text)
    if status == 202:
        ask("GET", f"/v1/jobs/{told['id']}/events")  # ends with the job
        _, text = ask("GET", f"/v1/jobs/{told['id']}")
        told = json.loads(text)
    print(json.dumps({"status": status, "told": told}), flush=True)
"""


def some_group() -> grp.struct_group:
    """A group of this machine that is nobody's in the tests."""
    return next(each for each in grp.getgrall() if each.gr_gid not in {0, STRANGER_ID, MEMBER_ID})


def member() -> Sequence[str]:
    """The options of setpriv that make a process a member's."""
    return (f"--reuid={MEMBER_ID}", f"--regid={some_group().gr_gid}", "--clear-groups")


ROOT = ("--reuid=0", "--regid=0", "--clear-groups")
STRANGER = (f"--reuid={STRANGER_ID}", f"--regid={STRANGER_ID}", "--clear-groups")


def run_as(user: Sequence[str], program: str, *arguments: object, given: str = "") -> str:
    """Run a Python program as another user and return what it prints."""
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


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A daemon with a group and one root, and the folders around it."""

    daemon: Daemon
    root: Path
    """Where members may bundle from and to. It is the member's own."""
    outside: Path
    """Where they may not, though nothing of the system's keeps them from reading it."""
    keys: KeyRing

    def request(self, **changes: object) -> dict[str, object]:
        """A request that would succeed when all it names lies in the root; None takes a field out."""
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
        """Submit as the member, or as `user`, one after another, each when the one before has ended."""
        given = "".join(json.dumps(each) + "\n" for each in requests)
        lines = run_as(user or member(), SUBMIT, self.daemon.socket, given=given).splitlines()
        answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
        assert len(answers) == len(requests)
        return answers

    def submit_one(self, **changes: object) -> dict[str, Any]:
        """The job of the member's request, when it has ended, or the error that he was answered."""
        (answer,) = self.submit([self.request(**changes)])
        told: dict[str, Any] = answer["told"]
        return told


@contextmanager
def machine(keys: KeyRing, **settings: object) -> Iterator[Machine]:
    """Run the daemon where every user can walk to."""
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
    chosen = {"socket_group": some_group().gr_name, "source_roots": root, **settings}
    try:
        with running_daemon(folder, None, **chosen) as daemon:
            yield Machine(daemon=daemon, root=root, outside=outside, keys=keys)
    finally:
        shutil.rmtree(folder)
