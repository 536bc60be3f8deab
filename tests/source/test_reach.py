"""How far a disk reaches by its own tables, as sfdisk and mkfs write them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from amistream.source.foreign import HEAD
from amistream.source.reach import bytes_reached

MIB = 1 << 20
SIZE = 24 * MIB


def reached(path: Path, *command: str, script: str = "") -> int:
    """The reach of a disk of `SIZE` bytes after the command has written to it."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([*command, str(path)], input=script.encode(), capture_output=True, check=True)
    with path.open("rb") as file:
        return bytes_reached(file.read(HEAD))


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (("mkfs.ext4", "-q", "-F"), SIZE),
        (("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^64bit"), SIZE),
        (("mkfs.ext2", "-q", "-F", "-b", "1024"), SIZE),
        (("mkswap",), 0),
    ],
)
def test_a_bare_file_system(command: tuple[str, ...], size: int, tmp_path: Path) -> None:
    """A bare ext2/3/4 reaches to its last block; other content says nothing."""
    assert reached(tmp_path / "disk", *command) == size


@pytest.mark.parametrize(
    ("script", "size"),
    [
        ("label: dos\n2048,4096,83\n8192,1000,5\n", (8192 + 1000) * 512),
        ("label: dos\n2048,,83,*\n", SIZE),
        ("label: gpt\n2048,4096,L\n", SIZE),
    ],
)
def test_partitions(script: str, size: int, tmp_path: Path) -> None:
    """An MBR reaches to the end of its last partition, a GPT to its copy at the disk's end."""
    assert reached(tmp_path / "disk", "sfdisk", "-q", script=script) == size


def test_xfs(tmp_path: Path) -> None:
    """An xfs reaches to its last block."""
    head = b"XFSB" + (4096).to_bytes(4, "big") + (6144).to_bytes(8, "big")
    assert bytes_reached(head + bytes(500)) == SIZE


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"XFSB",
        bytes(1023),
        bytes(510) + b"\x55\xaa",
        bytes(440) + b"Remove disks or other media.\xff\r\nPress any key".ljust(70, b"\0") + b"\x55\xaa",
        bytes(446) + b"\0\0\1\0\xee\xff\xff\xff\1\0\0\0\xff\xff\xff\xff".ljust(64, b"\0") + b"\x55\xaa",
    ],
)
def test_no_tables(head: bytes) -> None:
    """A short file, a file system's boot sector, and the entry that stands for a GPT say nothing."""
    assert not bytes_reached(head)
