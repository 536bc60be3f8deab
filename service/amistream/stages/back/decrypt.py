"""Decrypt: AES-128-CBC; checks and removes the PKCS#7 padding at the end.

Format: NIST SP 800-38A (CBC), RFC 5652 section 6.3 (padding); no salt header. The reverse of `stages.encrypt`.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from amistream.stages.back.flaw import FlawError
from amistream.values import MIB, Buffer

BLOCK = 16
SLICE = MIB


class Decrypt:
    """Transform: ciphertext in, plain data out, in pieces of at most `SLICE` bytes and a block."""

    def __init__(self, *, key: bytes, iv: bytes) -> None:
        """`key` and `iv` are 16 bytes each. Raises ValueError on other lengths."""
        if len(key) != BLOCK:
            raise ValueError("an AES-128 key has 16 bytes")
        self._cipher = Cipher(AES(key), CBC(iv)).decryptor()
        self._held = b""
        """The last 16 plain bytes, which are padding if no data follows."""
        self._size = 0

    def feed(self, data: Buffer) -> Iterator[memoryview]:
        view = memoryview(data)
        self._size += len(view)
        for start in range(0, len(view), SLICE):
            piece = view[start : start + SLICE]
            # update_into needs a buffer one block longer than its input.
            room = memoryview(bytearray(len(self._held) + len(piece) + BLOCK))
            room[: len(self._held)] = self._held
            made = len(self._held) + self._cipher.update_into(piece, room[len(self._held) :])
            if made:
                self._held = bytes(room[made - BLOCK : made])
            if made > BLOCK:
                yield room[: made - BLOCK]

    def finish(self) -> Iterator[memoryview]:
        if self._size == 0 or self._size % BLOCK:
            raise FlawError("cipher.size", f"the ciphertext has {self._size} bytes, not a multiple of {BLOCK}")
        self._cipher.finalize()
        padding = self._held[-1]
        if not 1 <= padding <= BLOCK or not self._held.endswith(bytes([padding]) * padding):
            raise FlawError("cipher.padding", "the padding at the end of the ciphertext is invalid")
        if padding < BLOCK:
            yield memoryview(self._held)[:-padding]

    def result(self) -> int:
        """Size of the ciphertext."""
        return self._size
