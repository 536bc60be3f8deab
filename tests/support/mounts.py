"""Mounts, partitions and small disks for tests; each skips with the reason where the machine does not let it."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECTOR = 512


@contextmanager
def mounted(what: Path | str, where: Path, *options: str) -> Iterator[Path]:
    """Mount `what`, a device, a folder or (with `-t tmpfs`) a name, on a folder, or a file on a file."""
    if not where.is_file():
        where.mkdir(exist_ok=True)
    _run_or_skip("mount", *options, str(what), str(where))
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@contextmanager
def small_disk(where: Path, size: str, *options: str) -> Iterator[Path]:
    """A disk in memory that has room for `size`, as 512k."""
    with mounted("tmpfs", where, "-t", "tmpfs", "-o", ",".join([f"size={size}", *options])):
        yield where


@contextmanager
def dead_mount(where: Path) -> Iterator[Path]:
    """Mount a file system whose program has ended: whoever looks at its root gets an error."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no /dev/fuse here: {error.strerror}")
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
        _run_or_skip("mount", "-i", "-t", "fuse", "-o", options, "dead", str(where), pass_fds=[server])
    finally:
        os.close(server)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@contextmanager
def partition(disk: Path, start: int, size: int, number: int = 1) -> Iterator[Path]:
    """Tell the kernel of one partition of a disk, in bytes; no table is written."""
    _run_or_skip("addpart", str(disk), str(number), str(start // SECTOR), str(size // SECTOR))
    try:
        yield Path(f"{disk}p{number}")
    finally:
        # Fails while a process that has a copy of all mounts, such as one of another test, still has this one:
        # `loop_device` removes what is left over then.
        subprocess.run(["delpart", str(disk), str(number)], capture_output=True, check=False)


def _run_or_skip(*argv: str, pass_fds: Sequence[int] = ()) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, pass_fds=pass_fds)
    if done.returncode != 0:
        pytest.skip(f"no {argv[0]} here: {done.stderr.strip()}")
