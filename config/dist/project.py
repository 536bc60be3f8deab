"""Names and places of the project that all steps of the build need."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LOCK = HERE / "lock"
CACHE = ROOT / "build" / "dist"
"""Downloaded packages, by their digests. A later build takes them from here."""
TOOLS = ROOT / ".venv-dist" / "bin"
OUTPUT = ROOT / "dist"
PREFIX = "/opt/amistream"
"""The tree's place when a package of the distribution installs it."""
PYTHON = "3.11"


class BuildError(Exception):
    """The build cannot go on; the message says why, and what to do."""


@dataclass(frozen=True)
class Architecture:
    """One processor, by the names that each kind of package gives it."""

    name: str
    debian: str
    rpm: str
    triplet: str
    loader: str
    """The file name of glibc's loader."""

    @property
    def compiler(self) -> str:
        """The C compiler that makes programs for it here; `strip` and `readelf` have the same prefix."""
        return f"{self.tools}gcc"

    @property
    def tools(self) -> str:
        return "" if os.uname().machine == self.name else f"{self.triplet}-"


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("x86_64", "amd64", "x86_64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
        Architecture("aarch64", "arm64", "aarch64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
    )
}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def version() -> str:
    """The version of amistream, as `--version` reports it."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "service/amistream/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError("cannot read the version: service/amistream/__init__.py has no line __version__ = ...")
    return found[1]


def epoch() -> int:
    """The time stamp of all files: SOURCE_DATE_EPOCH, else the time of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("cannot read the time of the last commit: this is no clone; set SOURCE_DATE_EPOCH")
    return int(done.stdout)


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program, and return its output. Raises `BuildError` with the last lines that it printed."""
    words = [str(each) for each in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            cwd=cwd,
        )
    except FileNotFoundError:
        raise BuildError(f"cannot run {words[0]}: it is not installed; `make dist` as root installs it") from None
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise BuildError(f"cannot run {' '.join(words[:4])} ...: exit status {done.returncode}\n{last}")
    return done.stdout
