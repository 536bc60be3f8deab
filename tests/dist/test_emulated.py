"""The trees under QEMU's emulation of a process: another processor, and kernels that call themselves old."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from config.dist.project import ARCHITECTURES, version
from dist.running import unpacked

if TYPE_CHECKING:
    from support.keys import KeyRing

MIB = 1 << 20


def emulated(tree: Path, architecture: str, *words: str, kernel: str = "") -> str:
    """Run a command of the tree under emulation, as its launcher starts it.

    The emulator starts one program, and not those that it starts. So the launcher runs first, its call of the loader is
    read from the trace, and the loader is then run with those arguments.
    """
    qemu = [f"qemu-{architecture}-static", *(("-r", kernel) if kernel else ())]
    launcher = str(tree / "bin/amistream")
    done = subprocess.run([*qemu, "-strace", launcher, "--version"], capture_output=True, text=True, check=False)
    call = re.search(r'execve\("([^"]+)",\{(.*?)"--version"', done.stderr)
    assert call is not None, done.stderr
    loader, arguments = call[1], re.findall(r'"([^"]*)"', call[2])
    assert loader == arguments[0] == str(tree / "lib/native/amistream")
    run = subprocess.run([*qemu, loader, *arguments[1:], *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("kernel", ["3.10.0", "4.14.0"])
def test_old_kernels(kernel: str, tmp_path: Path, key_ring: KeyRing) -> None:
    """On a kernel that calls itself that of CentOS 7 or Amazon Linux 1 the commands start, and make a bundle."""
    tree = unpacked(tmp_path)
    assert emulated(tree, "x86_64", "--version", kernel=kernel) == f"amistream {version()}\n"
    _bundle(tree, "x86_64", tmp_path, key_ring, kernel=kernel)


def test_the_other_processor(tmp_path: Path, key_ring: KeyRing) -> None:
    """The tree for aarch64, put together here, makes a bundle that the one for x86-64 decrypts without a fault."""
    (tmp_path / "arm").mkdir()
    arm, ours = unpacked(tmp_path / "arm", "aarch64"), unpacked(tmp_path)
    assert emulated(arm, "aarch64", "--version") == f"amistream {version()}\n"
    _bundle(arm, "aarch64", tmp_path, key_ring)
    keys = ("--cert", str(key_ring.user.certificate), "--private-key", str(key_ring.user.key))
    manifest = str(tmp_path / "out/image.manifest.xml")
    subprocess.run([ours / "bin/amistream", "verify", "--deep", manifest, *keys], check=True, capture_output=True)
    restored = tmp_path / "restored.img"
    subprocess.run([ours / "bin/amistream", "unbundle", manifest, restored, *keys], check=True, capture_output=True)
    assert restored.read_bytes() == (tmp_path / "volume.img").read_bytes()
    assert set(ARCHITECTURES) == {"x86_64", "aarch64"}


def _bundle(tree: Path, architecture: str, directory: Path, keys: KeyRing, kernel: str = "") -> None:
    (directory / "volume.img").write_bytes(random.Random(3).randbytes(MIB) + bytes(MIB))
    owner = (
        *("--cert", str(keys.user.certificate), "--private-key", str(keys.user.key)),
        *("--ec2-cert", str(keys.ec2.certificate), "--account", "123456789012", "--no-register", "--in-process"),
    )
    words = ("bundle", str(directory / "volume.img"), "--to", str(directory / "out"), *owner)
    emulated(tree, architecture, *words, kernel=kernel)
