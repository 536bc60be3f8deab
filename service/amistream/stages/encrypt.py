"""Encrypt: AES-128-CBC with PKCS#7 padding at the very end, as `openssl enc -aes-128-cbc -K key -iv iv` writes.

Format: NIST SP 800-38A (CBC), RFC 5652 section 6.3 (padding); no salt header.

Contract: `feed` yields memoryviews of ONE scratch buffer: each is valid until the next one is requested. That keeps
ciphertext in the processor's cache and avoids an allocation per block (a fresh buffer halves the speed).
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from amistream.values import KIB, Buffer

BLOCK = 16
SLICE = 256 * KIB


class Encrypt:
    """Transform: any bytes in, ciphertext out, 1 to 16 bytes longer than the input."""

    def __init__(self, *, key: bytes, iv: bytes, size_before: int = 0) -> None:
        """`key` and `iv` are 16 bytes each and must be used for one stream only. Raises ValueError on other lengths.

        To continue in the middle of a stream, `iv` is the cipher block before that place and `size_before` the bytes
        before it, a multiple of 16.
        """
        if size_before % BLOCK:
            raise ValueError("a stream continues after a whole cipher block")
        if len(key) != BLOCK:
            raise ValueError("an AES-128 key has 16 bytes")
        self._cipher = Cipher(AES(key), CBC(iv)).encryptor()
        # update_into requires space for one block more than its input.
        self._scratch = memoryview(bytearray(SLICE + BLOCK))
        self._size_in = size_before

    def feed(self, data: Buffer) -> Iterator[memoryview]:
        view = memoryview(data)
        self._size_in += len(view)
        for start in range(0, len(view), SLICE):
            made = self._cipher.update_into(view[start : start + SLICE], self._scratch)
            if made:
                yield self._scratch[:made]

    def finish(self) -> Iterator[memoryview]:
        padding = BLOCK - self._size_in % BLOCK
        made = self._cipher.update_into(bytes([padding]) * padding, self._scratch)
        self._cipher.finalize()
        yield self._scratch[:made]

    def result(self) -> int:
        """Size of the ciphertext with its padding, once finished."""
        return self._size_in + BLOCK - self._size_in % BLOCK
