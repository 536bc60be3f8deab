"""File systems to freeze, and processes that wait to write to them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.volumes import MIB, ext4_image, loop_device

if TYPE_CHECKING:
    from collections.abc import Iterator

GENEROUS_S = 60.0


@contextmanager
def freezable(folder: Path, name: str = "data") -> Iterator[tuple[Path, Path]]:
    """Mount an ext4 of its own: its device and its mount point. It is thawed at the end, whatever happened."""
    if os.geteuid() != 0:
        pytest.skip("only root freezes file systems")
    image = ext4_image(folder / f"{name}.img", 16 * MIB)
    place = folder / name
    place.mkdir()
    with loop_device(image, read_only=False) as device:
        subprocess.run(["mount", device, place], check=True)
        try:
            yield device, place
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", place], capture_output=True, check=False)
            # Lazily: guards of a process that was killed may not have ended yet.
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def waiting_writer(place: Path) -> subprocess.Popen[bytes]:
    """Start a process that writes a file, and wait until the freeze holds it up."""
    writer = subprocess.Popen(["touch", place / "written"])
    while state_of(writer.pid) != "D" or "rwsem" not in Path(f"/proc/{writer.pid}/wchan").read_text():
        assert writer.poll() is None, "the writer did not have to wait"
        os.sched_yield()
    return writer


def state_of(pid: int) -> str:
    """The letter of `ps`: R, S, D, T, Z."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def has_written(writer: subprocess.Popen[bytes]) -> bool:
    """Wait until a writer gets through."""
    return writer.wait(GENEROUS_S) == 0
