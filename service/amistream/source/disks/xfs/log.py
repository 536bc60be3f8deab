"""The log of xfs: the trees of free blocks can be trusted only if it is clean.

A change is written to the log first, and to its own place later. A file system that was not unmounted has changes in
its log alone: its free blocks, as they stand on the disk, are those of an earlier moment.

The log is a ring of 512-byte blocks. Each begins with the number of the round in which it was written. At the head,
where the next record will be written, that number changes. A clean log ends with the record of an unmount.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from crc32c import crc32c

from amistream.source.disks.reading import DoubtError
from amistream.source.disks.xfs.checksum import checksum

if TYPE_CHECKING:
    from amistream.source.disks.reading import Reader
    from amistream.source.disks.xfs.superblock import Superblock

_BLOCK = 512
_FEWEST_BLOCKS = 512
_MOST_IN_FLIGHT = 8 * 256 * 1024 // _BLOCK
"""Blocks of the records that the kernel may write at one time, so in any order."""
_MARK = 0xFEEDBABE
"""The first word of a record; its second one is the round."""
_ONE_HEADER = 32 * 1024
"""A header has the words that rounds replaced in so many bytes; a record of more has further headers."""
_MOST_RECORD_BLOCKS = (256 * 1024 + 8 * _BLOCK) // _BLOCK
_CHECKSUM_AT, _UUID_AT, _SIZE_AT = 32, 304, 320
_HEADER_SIZES = 328, 324
"""Bytes of a header that its checksum covers: as 64-bit and as 32-bit kernels lay it out."""
_FURTHER_HEADER_SIZE = 260
_OPERATION = struct.Struct("8x BB")
_OF_THE_LOG, _UNMOUNT = 0xAA, 0x20


class _Header(NamedTuple):
    mark: int
    round: int
    version: int
    length: int
    place: int
    checksum: bytes
    operations: int


_HEADER = struct.Struct(">IIII Q 8x 4s 4x I")


class _Ring:
    def __init__(self, read: Reader, offset: int, size: int) -> None:
        self._read = read
        self._offset = offset
        self.count = size // _BLOCK

    def blocks(self, first: int, count: int) -> bytes:
        """Read from any block on, also one before the first, around the end of the ring."""
        first %= self.count
        before_end = min(count, self.count - first)
        found = self._read(self._offset + first * _BLOCK, before_end * _BLOCK)
        return found + self._read(self._offset, (count - before_end) * _BLOCK) if before_end < count else found

    def rounds(self, first: int, count: int) -> list[int]:
        words = struct.iter_unpack(f">II {_BLOCK - 8}x", self.blocks(first, count))
        return [second if word == _MARK else word for word, second in words]


def check_clean(read: Reader, superblock: Superblock) -> int:
    """Raise `DoubtError` unless the log ends with an unmount; return its head, which is later than any change.

    The head is the round, and the block in the lower 32 bits, as blocks of metadata record their last change.
    """
    if superblock.log_offset is None:
        raise DoubtError("its log is on another device")
    ring = _Ring(read, superblock.log_offset, superblock.log_size)
    if ring.count < _FEWEST_BLOCKS:
        raise DoubtError(f"its log has only {superblock.log_size} bytes")
    newest, head = _find_head(ring)
    _check_last_record(ring, newest, head, superblock.uuid)
    return newest << 32 | head


def _find_head(ring: _Ring) -> tuple[int, int]:
    """Find the newest round and the block behind its last one; the count of blocks where that is the ring's last."""
    newest = ring.rounds(0, 1)[0]
    low, high = 0, ring.count
    while high - low > 1:
        middle = (low + high) // 2
        if ring.rounds(middle, 1)[0] == newest:
            low = middle
        else:
            high = middle
    window = min(_MOST_IN_FLIGHT, ring.count // 2)
    around = ring.rounds(high - window, 2 * window)
    is_newest = [number % ring.count < high for number in range(high - window, high + window)]
    if newest == 0 or [each == newest for each in around] != is_newest:
        raise DoubtError("its log has no clear end: it was not unmounted, or is damaged")
    return newest, high


def _check_last_record(ring: _Ring, newest: int, head: int, uuid: bytes) -> None:
    count = min(_MOST_RECORD_BLOCKS, ring.count)
    before = ring.blocks(head - count, count)
    starts = [start for start in range(0, len(before), _BLOCK) if before.startswith(_MARK.to_bytes(4), start)]
    if not starts:
        raise DoubtError("its log has no last record")
    record = before[starts[-1] :]
    header = _Header(*_HEADER.unpack_from(record))
    first = head - len(record) // _BLOCK
    # A record that goes around the end of the ring began in the round before.
    began = newest if first >= 0 else newest - 1
    headers = _headers_of(record, header.version)
    if (
        (header.round, header.place) != (began, began << 32 | first % ring.count)
        or len(record) != (headers + -(-header.length // _BLOCK)) * _BLOCK
        or record[_UUID_AT:][:16] != uuid
        or not _has_checksum(record, header, headers)
    ):
        raise DoubtError("the last record of its log is damaged")
    client, kind = _OPERATION.unpack_from(record, headers * _BLOCK)
    if header.operations != 1 or (client, kind) != (_OF_THE_LOG, _UNMOUNT):
        raise DoubtError("it was not unmounted: its log holds changes that have not reached their place")


def _headers_of(record: bytes, version: int) -> int:
    largest = int.from_bytes(record[_SIZE_AT : _SIZE_AT + 4])
    return max(1, -(-largest // _ONE_HEADER)) if version == 2 else 1  # noqa: PLR2004 - the version's own number


def _has_checksum(record: bytes, header: _Header, headers: int) -> bool:
    """Check the record's sum. mkfs.xfs and xfs_repair write none, and the kernel accepts that too."""
    if not any(header.checksum):
        return True
    further = range(1, -(-header.length // _ONE_HEADER))
    rest = b"".join(record[number * _BLOCK :][:_FURTHER_HEADER_SIZE] for number in further)
    rest += record[headers * _BLOCK :][: header.length]
    sums = {crc32c(rest, checksum(record[:size], _CHECKSUM_AT)) for size in _HEADER_SIZES}
    return int.from_bytes(header.checksum, "little") in sums
