"""The commands of the manual, typed in the order of its pages at a real daemon and a real endpoint."""

from __future__ import annotations

import json
import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.values import MIB
from support.commands import COMMANDS, run
from support.daemons import PATIENCE_S, Daemon, running_daemon
from support.volumes import ext4_image, files_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

DOCS = Path(__file__).parents[2] / "docs"
BEFORE = {
    "bundles": (
        "amistream bundle disk.img --to s3://my-bucket/web-1",
        "amistream bundle disk.img --to ./bundle --prefix root --account 123456789012 --region eu-west-1",
    ),
}
"""Commands of the pages before, which a page goes on from."""
ELSEWHERE = re.compile(
    r"\b\d{8}-\d{6}-\w{6}\b|qcow2|\bsnap-|5f3a\b|^amistream (convert|tune|init|web|fleet)\b|--deregister"
)
"""Commands with ids of their own, or that need QEMU, EBS, AWS, or an EC2 that reports the bundles of AMIs."""
STATUSES = {'cancel "$id"': 2, "doctor /dev/xvdf": 3, "--to s3://my-bucket/web-1 --dry-run": 3}
"""The statuses that are not 0, by parts of the line: the job is done, and a bare file system boots no AMI."""


class Shell:
    """Runs lines as a shell would: variables, $(...) and the words before a pipe or a redirection."""

    def __init__(self, daemon: Daemon, names: Mapping[str, str]) -> None:
        self._daemon = daemon
        self._names = names
        self._variables: dict[str, str] = {}

    def run(self, line: str) -> tuple[int, str, str]:
        for name, command in re.findall(r"^(\w+)=\$\((.*?)\)", line):
            status, out, err = self.run(command)
            self._variables[name] = out.strip()
            return status, out, err
        line = re.sub(r"\$\((.*?)\)", lambda found: self.run(found[1])[1].strip(), line)
        line = re.sub(r"\$(\w+)", lambda found: self._variables[found[1]], line)
        words = takewhile(lambda word: word not in {">", "2>", "|"}, shlex.split(line, comments=True)[1:])
        environ = {**self._daemon.environ, "AMISTREAM_SOCKET": str(self._daemon.socket)}
        argv = [COMMANDS / "amistream", *(self._local(word) for word in words)]
        done = run(argv, forked=self._daemon.forked, env=environ, timeout=PATIENCE_S)
        return done.returncode, done.stdout, done.stderr

    def _local(self, word: str) -> str:
        """The word with the names of the manual replaced by those of the test."""
        for name, local in self._names.items():
            if re.match(rf"{re.escape(name)}(/|$)", word):
                return f"{local}{word.removeprefix(name)}"
        return word


@pytest.fixture
def shell(tmp_path: Path, ministack: Endpoint, make_bucket: MakeBucket, key_ring: KeyRing) -> Iterator[Shell]:
    names = {
        "/dev/xvdf": str(ext4_image(tmp_path / "xvdf.img", 8 * MIB)),
        "disk.img": str(ext4_image(tmp_path / "disk.img", 8 * MIB)),
        "restored.img": str(tmp_path / "restored.img"),
        "cert.pem": str(key_ring.user.certificate),
        "pk.pem": str(key_ring.user.key),
        "/": str(files_tree(tmp_path / "root", 2 * MIB)),
        "./bundle": str(tmp_path / "bundle"),
        "./bundle2": str(tmp_path / "bundle2"),
        "s3://my-bucket": f"s3://{make_bucket(ministack)}",
        "s3://my-us-bucket": f"s3://{make_bucket(ministack)}",
    }
    with running_daemon(
        tmp_path,
        ministack,
        certificate=key_ring.user.certificate,
        ec2_certificates=json.dumps({"default": str(key_ring.ec2.certificate)}),
        endpoint_url=ministack.url,
        private_key=key_ring.user.key,
        register_poll_s=0.05,
    ) as daemon:
        yield Shell(daemon, names)


def shown_commands(page: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4}(?:\$ )?((?:id=\$\()?amistream .*)$", text, re.MULTILINE)
    return [line for line in lines if not ELSEWHERE.search(line)]


@pytest.mark.parametrize("page", ["quickstart", "jobs", "bundles", "retention", "checks"])
def test_a_page_can_be_typed(page: str, shell: Shell) -> None:
    """Each command ends with its status; a bundle's result begins with `done` and its address."""
    for line in (*BEFORE.get(page, ()), *shown_commands(page)):
        status, out, err = shell.run(line)
        assert status == next((each for part, each in STATUSES.items() if part in line), 0), (line, out, err)
        if line.startswith("amistream bundle") and not re.search("--(detach|json|dry-run)", line):
            assert re.match(r"done  \S+\.manifest\.xml", out), (line, out)
