"""The checksum of version 5: CRC-32C over a block, with the four bytes of the checksum itself as zeros."""

from __future__ import annotations

from crc32c import crc32c


def has_checksum(block: bytes, at: int) -> bool:
    """Compare the little-endian checksum at `at` with the block's own."""
    return checksum(block, at) == int.from_bytes(block[at : at + 4], "little")


def checksum(block: bytes, at: int) -> int:
    return crc32c(block[at + 4 :], crc32c(bytes(4), crc32c(block[:at])))
