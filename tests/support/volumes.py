"""Volumes to bundle: real file systems, sparse images and noise.

The same arguments give the same bytes, but for the times inside file systems.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIB = 1 << 20
FIXED_UUID = "0a1b2c3d-0000-4000-8000-00000000a315"


def random_image(path: Path, size: int, seed: int = 0) -> Path:
    """Write `size` incompressible bytes that depend on `seed` only."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for offset in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - offset)))
    return path


def sparse_image(path: Path, size: int, extents: Iterable[tuple[int, int]], seed: int = 0) -> Path:
    """Write noise at each (offset, length) of an image that is holes elsewhere."""
    source = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in extents:
            assert offset + length <= size, "an extent passes the end of the image"
            file.seek(offset)
            for done in range(0, length, MIB):
                file.write(source.randbytes(min(MIB, length - done)))
    return path


def files_tree(directory: Path, size: int, seed: int = 0) -> Path:
    """Fill `directory` with about `size` bytes: programs, text, noise, zeros, links and empty files."""
    source = random.Random(seed)
    directory.mkdir(parents=True)
    (directory / "empty").touch()
    (directory / "link").symlink_to("text/0")
    for name, share in (("noise", 0.3), ("zeros", 0.2), ("text", 0.2)):
        (directory / name).mkdir()
        for number in range(4):
            length = int(size * share / 4)
            (directory / name / str(number)).write_bytes(_content(name, length, source))
    # Compiled code is what a root volume is full of; the interpreter is on every machine that runs tests.
    left = int(size * 0.3)
    program = Path(os.path.realpath(shutil.which("bash") or "/bin/sh")).read_bytes()
    (directory / "program").write_bytes((program * (left // len(program) + 1))[:left])
    return directory


def _content(kind: str, length: int, source: random.Random) -> bytes:
    if kind == "noise":
        return source.randbytes(length)
    if kind == "zeros":
        return bytes(length)
    line = b"".join(b"%08x service[%d]: accepted\n" % (source.getrandbits(32), n) for n in range(512))
    return (line * (length // len(line) + 1))[:length]


def ext4_image(path: Path, size: int, files_from: Path | None = None) -> Path:
    """Make an ext4 file system of `size` bytes that holds `files_from`, or is half full of `files_tree`."""
    with _tree(path, size // 2, files_from) as tree:
        # lazy initialisation would leave work to the first mount, and change the image then.
        options = f"hash_seed={FIXED_UUID},lazy_itable_init=0,lazy_journal_init=0"
        _sparse_file(path, size)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-U", FIXED_UUID, "-E", options, "-d", str(tree), str(path))
    return path


def xfs_image(path: Path, size: int, files_from: Path | None = None, *options: str) -> Path:
    """Make an XFS file system (300 MiB at least) in the way of `ext4_image`; skip without mkfs.xfs."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed (Debian package xfsprogs)")
    with _tree(path, size // 2, files_from) as tree:
        prototype = path.with_name(path.name + ".prototype")
        prototype.write_text("\n".join(["/none", "0 0", "d--755 0 0", *_prototype(tree), "$", ""]))
        _sparse_file(path, size)
        _run("mkfs.xfs", "-q", "-f", "-m", f"uuid={FIXED_UUID}", *options, "-p", str(prototype), str(path))
        prototype.unlink()
    return path


@contextmanager
def loop_device(image: Path, *, read_only: bool = True, sectors: int = 512) -> Iterator[Path]:
    """Give a block device that shows `image`; skip with the reason where the machine does not let it."""
    argv = [
        "losetup",
        "--find",
        "--show",
        f"--sector-size={sectors}",
        *(["--read-only"] if read_only else []),
        str(image),
    ]
    if shutil.which(argv[0]) is None:
        pytest.skip("losetup is not installed")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    # The kernel keeps the partitions of a device that was given back with one in use, for its next user to find.
    for left_over in Path("/sys/block", device.name).glob("*/partition"):
        subprocess.run(["delpart", str(device), left_over.read_text().strip()], check=False)
    try:
        yield device
    finally:
        _run("losetup", "--detach", str(device))


@contextmanager
def _tree(path: Path, size: int, files_from: Path | None) -> Iterator[Path]:
    """Give the tree to copy: the given one, or a temporary one."""
    if files_from is not None:
        yield files_from
        return
    tree = path.with_name(path.name + ".files")
    try:
        yield files_tree(tree, size)
    finally:
        shutil.rmtree(tree)


def _prototype(directory: Path) -> Iterator[str]:
    """Describe a tree to mkfs.xfs, which cannot copy one otherwise."""
    for each in sorted(directory.iterdir()):
        mode = f"{each.lstat().st_mode & 0o777:03o}"
        if each.is_symlink():
            yield f"{each.name} l--777 0 0 {each.readlink()}"
        elif each.is_dir():
            yield f"{each.name} d--{mode} 0 0"
            yield from _prototype(each)
            yield "$"
        elif each.is_file():
            yield f"{each.name} ---{mode} 0 0 {each}"


def _sparse_file(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
