"""The two checksums of ext4: CRC-32C (`metadata_csum`), and the older CRC-16 of group descriptors (`uninit_bg`)."""

from __future__ import annotations

from typing import Final

from crc32c import crc32c

START: Final = 0xFFFFFFFF
_ALL: Final = 0xFFFFFFFF
_CRC16_START: Final = 0xFFFF
_CRC16_POLYNOMIAL: Final = 0xA001


def checksum(data: bytes, start: int) -> int:
    """CRC-32C of `data` that goes on from `start`. ext4 does not invert the result, other users of CRC-32C do."""
    return crc32c(data, start ^ _ALL) ^ _ALL


def _crc16_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_CRC16_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC16_TABLE: Final = _crc16_table()


def crc16(data: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, low bit first, as a group descriptor of `uninit_bg` holds it."""
    value = _CRC16_START
    for byte in data:
        value = value >> 8 ^ _CRC16_TABLE[(value ^ byte) & 0xFF]
    return value
