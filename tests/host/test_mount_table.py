"""Reads the kernel's tables of mounts and of swap space, in which users may have put any name."""

from __future__ import annotations

from pathlib import Path

import pytest

from amistream.host.mount_table import mounts
from amistream.host.swaps import swap_places


def test_odd_names(tmp_path: Path) -> None:
    """Spaces and line ends are unescaped; a carriage return ends no line, and other bytes stay as they are."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        b"36 21 0:42 / /home/a/x\\040y\\012z\\134 rw,nosuid - fuse.sshfs a\\040b rw,user_id=1000\n"
        b"37 21 0:43 / /home/a/x\r38\xa021\xff rw,nosuid - fuse  ro\n"
    )
    assert [(each.number, each.point, each.source, each.writable) for each in mounts(table)] == [
        (21, b"/", b"/dev/sda1", True),
        (36, b"/home/a/x y\nz\\", b"a b", True),
        (37, b"/home/a/x\r38\xa021\xff", b"", False),
    ]


def test_swap_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap files are found by their whole names."""
    table = tmp_path / "swaps"
    monkeypatch.setattr("amistream.host.swaps.SWAPS", table)
    assert swap_places() == []
    table.write_bytes(
        b"Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        b"/dev/vdb                                partition\t2097148\t\t0\t\t-2\n"
        b"/swap\\040\r1\t\tfile\t\t2097148\t\t0\t\t-3\n"
    )
    assert swap_places() == [Path("/dev/vdb"), Path("/swap \r1")]
