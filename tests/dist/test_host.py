"""The tree on a usual host: its children use the host's libraries, and every module of it loads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dist.running import LIBRARY, unpacked

if TYPE_CHECKING:
    from support.keys import KeyRing

MIB = 1 << 20
CALL = re.compile(r'^(execve|openat)\((?:AT_FDCWD, )?"([^"]+)".* = \d+$', re.MULTILINE)
LOADS_ALL = """
import importlib, pkgutil, sys
failed = []
for name in ("aiobotocore", "aiohttp", "amistream", "botocore", "cryptography", "pydantic", "rich", "typer"):
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        if "__main__" in found.name:
            continue
        try:
            importlib.import_module(found.name)
        except (ImportError, AssertionError) as error:
            failed.append(f"{found.name}: {error}")
print(*failed, sep="\\n")
"""
NOT_LOADED = re.compile(
    r"aiohttp\.(pytest_plugin|worker)|botocore\.(crt\.auth|docs\.translator)|"
    r"pydantic\.(v1\.)?(mypy|_hypothesis_plugin)|(rich|typer)\._?\w*(win32_console|windows_renderer|winconsole)|"
    r"typer\._click\._winconsole"
)
"""Modules that need a package amistream does not use, in a virtual environment as well."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked tree."""
    return unpacked(tmp_path_factory.mktemp("tree"))


def test_children_use_the_libraries_of_the_host(tree: Path, key_ring: KeyRing, tmp_path: Path) -> None:
    """qemu-nbd, which reads an image, and openssl run with the host's libraries, amistream with its own."""
    image = tmp_path / "disk.qcow2"
    (tmp_path / "raw").write_bytes(b"amistream" * 200_000)
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", str(tmp_path / "raw"), str(image)], check=True)
    words = ("bundle", str(image), "--to", str(tmp_path / "out"), "--in-process", "--no-register")
    owner = (
        *("--cert", str(key_ring.user.certificate), "--private-key", str(key_ring.user.key)),
        *("--ec2-cert", str(key_ring.ec2.certificate), "--account", "123456789012"),
    )
    libraries = _libraries(tmp_path / "trace", str(tree / "bin/amistream"), *words, *owner)
    assert {"qemu-img", "qemu-nbd"} <= set(libraries)
    for program, opened in libraries.items():
        ours = [path for path in opened if Path(path).is_relative_to(tree)]
        assert ours == (opened if program == "amistream" else []), program
    code = "import subprocess; subprocess.run(['openssl', 'version'], check=True)"
    libraries = _libraries(tmp_path / "trace2", str(tree / "libexec/python3"), "-c", code)
    assert len(libraries["openssl"]) > 2
    assert not any(Path(path).is_relative_to(tree) for path in libraries["openssl"])


def test_all_modules_load(tree: Path) -> None:
    """No module misses what was pruned: each loads, but those that need packages amistream does not use."""
    done = subprocess.run([tree / "libexec/python3", "-c", LOADS_ALL], capture_output=True, text=True, check=True)
    failed = [line for line in done.stdout.splitlines() if line and not NOT_LOADED.match(line)]
    assert failed == []


def _libraries(trace: Path, *words: str) -> dict[str, list[str]]:
    """Run a program, and return the libraries that it and each of its children opened, by their programs."""
    # A file for each process, so that no line is cut by another's.
    strace = ["strace", "-ff", "-qq", "-s", "512", "-e", "trace=execve,openat", "-o", str(trace)]
    done = subprocess.run([*strace, *words], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for process in trace.parent.glob(f"{trace.name}.*"):
        program = "amistream"
        for call, path in CALL.findall(process.read_text()):
            if call == "execve":
                program = Path(path).name
            elif LIBRARY.search(path):
                found.setdefault(program, []).append(path)
    return found
