"""The yardstick of the way back: the cost of the primitive calls that unpack a bundle, with nothing around them.

One pass over an encrypted stream on one thread: read, SHA-1 as of a part, AES, inflate with its CRC-32, SHA-1 of what
comes out, and where asked for the writing of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from isal import igzip_lib, isal_zlib

from amistream.values import KIB, MIB
from benchmarks.primitives import BLOCK, Yardstick
from benchmarks.timing import Cost

STEPS = ("read", "part_sha1", "aes", "inflate", "crc", "sha1", "write")
RANGE = 4 * MIB
PIECE = MIB
SLICE = 256 * KIB
_RAW = -15
_KEY = Cipher(AES(bytes(16)), CBC(bytes(16)))


def make_stream(volume: Path, path: Path) -> None:
    """Deflate a volume block by block at level 1 into one raw stream, and encrypt it, as in a bundle's parts."""
    encryptor = _KEY.encryptor()
    left = b""
    with volume.open("rb") as source, path.open("wb") as file:

        def encrypt(data: bytes) -> bytes:
            whole = len(data) // 16 * 16
            file.write(encryptor.update(data[:whole]))
            return data[whole:]

        while block := source.read(BLOCK):
            compress = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _RAW)
            left = encrypt(left + compress.compress(block) + compress.flush(isal_zlib.Z_SYNC_FLUSH))
        left = encrypt(left + isal_zlib.compressobj(1, isal_zlib.DEFLATED, _RAW).flush())
        encrypt(left + bytes(-len(left) % 16))
        file.flush()
        os.fsync(file.fileno())


def measure_back(stream: Path, image: Path | None = None) -> Yardstick:
    """One pass of every primitive over the stream of `make_stream`; `image` is written past the page cache."""
    steps = {name: Cost() for name in STEPS}
    if image is None:
        return _measured(steps, stream, None)
    descriptor = os.open(image, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    try:
        measured = _measured(steps, stream, descriptor)
        with steps["write"].timed():
            os.fsync(descriptor)
        return measured
    finally:
        os.close(descriptor)
        image.unlink()


def _measured(steps: dict[str, Cost], stream: Path, image: int | None) -> Yardstick:
    part_sha1, tar_sha1 = (hashlib.sha1(usedforsecurity=False) for _ in range(2))
    decryptor, inflate = _KEY.decryptor(), igzip_lib.IgzipDecompressor()
    buffer, plain = memoryview(bytearray(RANGE)), memoryview(bytearray(SLICE + 16))
    # Aligned, as direct writes want it.
    block = memoryview(mmap.mmap(-1, PIECE))
    size_in = size_out = filled = 0
    descriptor = os.open(stream, os.O_RDONLY | os.O_CLOEXEC)

    def take(piece: bytes) -> None:
        nonlocal size_out, filled
        size_out += len(piece)
        with steps["crc"].timed():
            isal_zlib.crc32(piece)
        with steps["sha1"].timed():
            tar_sha1.update(piece)
        while image is not None and piece:
            count = min(len(piece), PIECE - filled)
            block[filled : filled + count] = piece[:count]
            piece, filled = piece[count:], filled + count
            if filled == PIECE:
                filled = 0
                with steps["write"].timed():
                    os.pwrite(image, block, (size_out - len(piece)) // PIECE * PIECE - PIECE)

    def inflated(data: Any, most: int) -> bytes:
        with steps["inflate"].timed():
            return inflate.decompress(data, most)

    try:
        while True:
            with steps["read"].timed():
                count = os.preadv(descriptor, [buffer], size_in)
            if not count:
                return Yardstick(steps, size_out, size_in)
            with steps["part_sha1"].timed():
                part_sha1.update(buffer[:count])
            for start in range(0, count, SLICE):
                with steps["aes"].timed():
                    length = decryptor.update_into(buffer[start : min(start + SLICE, count)], plain)
                piece = inflated(plain[:length], PIECE)
                while piece:
                    take(piece)
                    piece = b"" if inflate.needs_input or inflate.eof else inflated(b"", PIECE)
            size_in += count
    finally:
        os.close(descriptor)
