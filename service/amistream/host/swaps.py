"""Finds the files and devices that memory is swapped out to."""

from __future__ import annotations

import os
from pathlib import Path

from amistream.host.mount_table import unescaped

SWAPS = Path("/proc/swaps")


def swap_places() -> list[Path]:
    """The swap files and devices in use. Blocks; raises OSError."""
    try:
        table = SWAPS.read_bytes()
    except FileNotFoundError:
        return []  # a kernel without swap
    lines = table.removesuffix(b"\n").split(b"\n")[1:]
    return [Path(os.fsdecode(unescaped(line.replace(b"\t", b" ").split(b" ")[0]))) for line in lines]
