"""Checksums and hashes against known values and debugfs."""

from __future__ import annotations

import random
import struct
import subprocess
from uuid import UUID

from amistream.source.tree.checksums import crc16, crc32c, half_md4

CHECKED = b"123456789"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789._-"
SEED = UUID("01234567-89ab-cdef-0123-456789abcdef")


def test_crc() -> None:
    """The check values of both checksums: CRC-16/MODBUS, and CRC-32C without inversion."""
    assert crc16(CHECKED) == 0x4B37
    assert crc32c(0xFFFFFFFF, CHECKED) ^ 0xFFFFFFFF == 0xE3069283
    assert crc32c(crc32c(0xFFFFFFFF, CHECKED[:4]), CHECKED[4:]) == crc32c(0xFFFFFFFF, CHECKED)


def test_hash_of_names() -> None:
    """Names of every length have the hash that debugfs computes."""
    chance = random.Random(2)
    names = ["".join(chance.choices(LETTERS, k=length)) for length in range(1, 256, 3)]
    seed = struct.unpack("<4I", SEED.bytes)
    commands = "".join(f"dx_hash -h half_md4 -s {SEED} x{name}\n" for name in names)
    done = subprocess.run(["debugfs", "-f", "-"], input=commands, capture_output=True, text=True, check=True)
    said = [line.partition(" is ")[2] for line in done.stdout.splitlines() if line.startswith("Hash of")]
    found = [half_md4(b"x" + name.encode(), seed) for name in names]
    assert said == [f"{major:#x} (minor {minor:#x})" for major, minor in found]
