"""Words that the tests of the installations share."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import pytest

from config.dist import packages
from config.dist.project import ARCHITECTURES, OUTPUT, run, version

TREE = f"/srv/amistream-{version()}"
NEXT = f"{version()}.post1"
"""The version of `next_version`."""
LIBRARY = re.compile(r"\.so(\.[\d.]+)?$")


def cpu_seconds(*words: str) -> float:
    """CPU time of a program from its start to its end, its children included."""
    process = os.posix_spawn(
        words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(process, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime


def made(suffix: str, architecture: str = "x86_64") -> Path:
    """A file of `make dist`."""
    path = OUTPUT / f"amistream-{version()}-linux-{architecture}{suffix}"
    if not path.exists():
        pytest.fail(f"{path.name} is not in dist/: make dist")
    return path


def unpacked(directory: Path, architecture: str = "x86_64") -> Path:
    """Unpack the archive into a directory, and return the tree."""
    with tarfile.open(made(".tar.xz", architecture)) as archive:
        archive.extractall(directory, filter="tar")
    return directory / f"amistream-{version()}"


def next_version(directory: Path) -> Path:
    """A package of the same tree with a later version."""
    tree = unpacked(directory)
    library = tree / "lib" / "python3.11"
    module = library / "amistream" / "__init__.py"
    module.write_text(module.read_text().replace(f'"{version()}"', f'"{NEXT}"'))
    compiling = ("-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", module)
    run(tree / "libexec" / "python3", *compiling)
    description = packages.describe("deb", tree, ARCHITECTURES["x86_64"])
    description |= {"version": NEXT, "deb": {"compression": "none"}}
    packages.pack("deb", description, directory / "next.deb")
    return directory / "next.deb"
