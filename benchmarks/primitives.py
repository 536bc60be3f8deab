"""The yardstick: the cost of the primitive calls of the data path, with nothing around them.

One pass over a volume on one thread, block by block while the block is in the processor's cache. The sum of the CPU
seconds is what no program that makes such a bundle with these libraries can go below; divided by the cores it is the
shortest wall time.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from isal import isal_zlib
from zlib_ng import zlib_ng

from amistream.values import KIB, MIB
from benchmarks.timing import Cost

BLOCK = 2 * MIB
CIPHER_SLICE = 256 * KIB
STEPS = ("read", "sha1", "deflate", "aes", "part_sha1")

_RAW = -15


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The steps' costs over a whole volume, and the sizes before and after deflating in bytes."""

    steps: dict[str, Cost]
    size_in: int
    size_out: int

    @property
    def cpu_s(self) -> float:
        return sum(cost.cpu_s for cost in self.steps.values())

    @property
    def wall_s(self) -> float:
        return sum(cost.wall_s for cost in self.steps.values())


def deflater(level: int) -> Callable[[], Any]:
    """A maker of raw-deflate compressors of the library that is quickest at `level`."""
    if level <= 3:
        return lambda: isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW)
    if level <= 6:
        return lambda: zlib_ng.compressobj(level, zlib_ng.DEFLATED, _RAW)
    return lambda: zlib.compressobj(level, zlib.DEFLATED, _RAW)


def deflate(make: Callable[[], Any], block: memoryview | bytes) -> list[bytes]:
    """Raw deflate of one block, ended by a sync flush, and its CRC-32 taken and thrown away."""
    compress = make()
    pieces = [compress.compress(block), compress.flush(zlib.Z_SYNC_FLUSH)]
    isal_zlib.crc32(block)
    return pieces


class Aes:
    """AES-128-CBC into one small buffer that is used again and again."""

    def __init__(self) -> None:
        self._encryptor = Cipher(AES(bytes(16)), CBC(bytes(16))).encryptor()
        self._out = memoryview(bytearray(CIPHER_SLICE + 16))

    def encrypt(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), CIPHER_SLICE):
            self._encryptor.update_into(view[start : start + CIPHER_SLICE], self._out)


def measure(volume: Path) -> Yardstick:
    """One pass of every primitive over the volume, deflating at level 1."""
    steps = {name: Cost() for name in STEPS}
    tar_sha1, part_sha1 = (hashlib.sha1(usedforsecurity=False) for _ in range(2))
    make, aes = deflater(1), Aes()
    buffer = memoryview(bytearray(BLOCK))
    offset = size_out = 0
    descriptor = os.open(volume, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            with steps["read"].timed():
                count = os.preadv(descriptor, [buffer], offset)
            if not count:
                return Yardstick(steps, offset, size_out)
            block = buffer[:count]
            with steps["sha1"].timed():
                tar_sha1.update(block)
            with steps["deflate"].timed():
                pieces = deflate(make, block)
            with steps["aes"].timed():
                for piece in pieces:
                    aes.encrypt(piece)
            with steps["part_sha1"].timed():
                for piece in pieces:
                    part_sha1.update(piece)
            offset += count
            size_out += sum(map(len, pieces))
    finally:
        os.close(descriptor)


def measure_digest(volume: Path) -> Yardstick:
    """One pass of the primitives of a conversion over the volume: reading, and SHA-256 of blocks that are not zeros."""
    steps = {"read": Cost(), "sha256": Cost()}
    zeros = bytes(512 * KIB)
    buffer = memoryview(bytearray(BLOCK))
    offset = 0
    descriptor = os.open(volume, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            with steps["read"].timed():
                count = os.preadv(descriptor, [buffer], offset)
            if not count:
                return Yardstick(steps, offset, offset)
            with steps["sha256"].timed():
                for start in range(0, count, len(zeros)):
                    block = buffer[start : min(start + len(zeros), count)]
                    if not zeros.startswith(block):
                        hashlib.sha256(block).digest()
            offset += count
    finally:
        os.close(descriptor)
