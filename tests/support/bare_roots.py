"""Directories that a process sees as the root of the file system, with nothing of this machine's but the kernel.

`BareRoot` mounts /dev, /proc and an empty /tmp that starts no programs, in a mount namespace of its own: the mounts end
with the process that holds them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUITE = "bookworm"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_MOUNTS = """
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount -t tmpfs -o noexec,nosuid,mode=1777 tmp "$1/tmp"
echo mounted
read -r _
"""
_OPENED = re.compile(r'(?:open|openat|openat2)\((?:[^,"]+, )?"([^"]+)".* = \d+')
_PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C"}


class BareRoot:
    """A mounted root. `path` is the directory, as this machine sees it."""

    def __init__(self, path: Path, holder: int) -> None:
        self.path = path
        self._enter = ["nsenter", f"--mount=/proc/{holder}/ns/mnt", "chroot", str(path)]

    def command(self, *words: str) -> list[str]:
        """The words that start a program in the root."""
        return [*self._enter, *words]

    def run(
        self, *words: str, environ: Mapping[str, str] | None = None, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the root to its end, with plain variables and those given."""
        done = subprocess.run(
            self.command(*words),
            env={**_PLAIN, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert status is None or done.returncode == status, f"{' '.join(words)}: {done.stdout}\n{done.stderr}"
        return done

    def start(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program in the root; the caller waits for its end."""
        return subprocess.Popen(
            self.command(*words),
            env={**_PLAIN, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def opened(self, trace: Path, *words: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """Run a program under strace, and return the files that it and its children opened."""
        follow = ["strace", "-ff", "-qq", "-e", "trace=open,openat,openat2,chroot", "-o", str(trace)]
        done = subprocess.run(
            [*follow, *self.command(*words)],
            env={**_PLAIN, **(environ or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        texts = [each.read_text() for each in trace.parent.glob(f"{trace.name}.*")]
        # nsenter and chroot are programs of this machine: their files do not count.
        return [path for text in texts for path in _OPENED.findall(text.partition("\nchroot(")[2] or text)]

    def in_tmp(self) -> list[str]:
        """The names in /tmp of the root."""
        script = 'cd "$1/tmp" && ls -A'
        done = subprocess.run(
            [*self._enter[:2], "sh", "-c", script, "sh", str(self.path)], capture_output=True, text=True, check=True
        )
        return done.stdout.split()


@contextmanager
def bare_root(path: Path, hosts: Mapping[str, str]) -> Iterator[BareRoot]:
    """Mount the root of a directory, with names of hosts and their addresses."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a root of the file system")
    for name in ("dev", "proc", "tmp", "etc"):
        (path / name).mkdir(exist_ok=True)
    (path / "etc" / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "bash", "-e", "-c", _MOUNTS, "bash", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "mounted\n"
        try:
            yield BareRoot(path, holder.pid)
        finally:
            holder.stdin.close()


def debian_root(path: Path) -> None:
    """Install the smallest Debian into a directory; skip with the reason where this machine cannot."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("only root can install a Debian, with mmdebstrap")
    sources = next((each for each in SOURCES if each.exists() and SUITE in each.read_text()), None)
    if sources is None:
        pytest.skip(f"the package sources of this machine do not have {SUITE}")
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    words = ("--quiet", "--mode=root", "--variant=minbase", "--format=directory", *options, SUITE, str(path))
    subprocess.run(["mmdebstrap", *words, str(sources)], check=True, timeout=280)
