"""The checksums and the hash of names that ext2, ext3 and ext4 keep on the disk. Pure."""

from __future__ import annotations

from crc32c import crc32c as _crc32c

from amistream.values import Buffer

_ALL_ONES = 0xFFFFFFFF


def crc32c(seed: int, data: Buffer) -> int:
    """CRC-32C as ext4 takes it: going on from `seed`, without the inversion at either end."""
    return _crc32c(data, seed ^ _ALL_ONES) ^ _ALL_ONES


def _crc16_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)  # noqa: PLW2901 - shifted out bit by bit
        table.append(value)
    return tuple(table)


_CRC16 = _crc16_table()


def crc16(data: Buffer, start: int = 0xFFFF) -> int:
    """CRC-16 (polynomial A001): the checksum of a group descriptor before metadata_csum."""
    for byte in memoryview(data):
        start = start >> 8 ^ _CRC16[(start ^ byte) & 0xFF]
    return start


_CHUNK = 32
"""Bytes of a name that one turn of the hash takes."""
_ROUND_1 = tuple(zip((0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19) * 2, strict=True))
_ROUND_2 = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
_ROUND_3 = tuple(zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True))
"""Which word of the input each step of a round takes, and by how many bits it turns (MD4 on half of its input)."""
_SQUARE_ROOT_2, _SQUARE_ROOT_3 = 0x5A827999, 0x6ED9EBA1
_END_OF_DIRECTORY = 0xFFFFFFFE
"""The kernel uses this hash as a mark, so that no name may have it."""


def half_md4(name: bytes, seed: tuple[int, int, int, int]) -> tuple[int, int]:
    """Hash of a name in an indexed directory, major and minor, with the name's bytes taken as unsigned."""
    state = seed
    for start in range(0, len(name), _CHUNK):
        state = _turn(state, _words(name[start : start + _CHUNK], len(name) - start))
    major = state[1] & ~1
    return (major - 2 if major == _END_OF_DIRECTORY else major), state[2]


def _words(chunk: bytes, left: int) -> tuple[int, ...]:
    """Eight words of a chunk, padded with the length that was left before it."""
    fill = left & 0xFF
    padding = fill << 24 | fill << 16 | fill << 8 | fill
    words = [int.from_bytes(chunk[at : at + 4]) for at in range(0, len(chunk) - 3, 4)]
    if rest := len(chunk) % 4:
        bits = 8 * rest
        words.append((padding << bits | int.from_bytes(chunk[-rest:])) & _ALL_ONES)
    return (*words, *(padding,) * (8 - len(words)))


def _turn(state: tuple[int, int, int, int], words: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for word, bits in _ROUND_1:
        a = a + (d ^ b & (c ^ d)) + words[word] & _ALL_ONES
        a, b, c, d = d, (a << bits | a >> 32 - bits) & _ALL_ONES, b, c
    for word, bits in _ROUND_2:
        a = a + (b & c) + ((b ^ c) & d) + words[word] + _SQUARE_ROOT_2 & _ALL_ONES
        a, b, c, d = d, (a << bits | a >> 32 - bits) & _ALL_ONES, b, c
    for word, bits in _ROUND_3:
        a = a + (b ^ c ^ d) + words[word] + _SQUARE_ROOT_3 & _ALL_ONES
        a, b, c, d = d, (a << bits | a >> 32 - bits) & _ALL_ONES, b, c
    return (
        state[0] + a & _ALL_ONES,
        state[1] + b & _ALL_ONES,
        state[2] + c & _ALL_ONES,
        state[3] + d & _ALL_ONES,
    )
