"""Disk images made by qemu-img, and stand-ins for its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from amistream.errors import RefusedError
from amistream.source.opening import open_source
from amistream.source.qemu.converted import ConvertedVolume

MIB = 1 << 20
SIZE = 24 * MIB
DATA = [(0, 3 * MIB), (7 * MIB + 12345, 200_000), (20 * MIB, MIB + 17)]

needs_qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-utils is not installed")

MAP = '[{"start": 0, "length": 4096, "zero": false, "data": true}]'
"""The output of qemu-img for a disk of 4096 bytes with data that only qemu-nbd can read."""
FACTS = '{"virtual-size": 4096, "filename": "x"}'


def convert(disk: Path, path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", *options, str(disk), str(path)], check=True)
    return path


def run_line(line: str, folder: Path) -> None:
    """Run a line of a hint, as a user would paste it."""
    subprocess.run(["/bin/sh", "-c", line], cwd=folder, check=True)


def content(path: Path) -> bytes:
    """The disk in the file at `path`."""
    with closing(open_source(str(path))) as volume:
        found = bytearray(volume.size)
        volume.read_into(0, memoryview(found))
    return bytes(found)


def servers() -> list[int]:
    """The ids of the qemu-nbd processes that this process has started."""
    argv = ["pgrep", "-P", str(os.getpid()), "qemu-nbd"]
    return [int(pid) for pid in subprocess.run(argv, capture_output=True, check=False).stdout.split()]


def opened(path: Path) -> ConvertedVolume:
    volume = open_source(str(path))
    assert isinstance(volume, ConvertedVolume)
    return volume


def refused(path: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        open_source(str(path)).close()
    assert caught.value.field == "source"
    assert caught.value.hint
    return caught.value


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
