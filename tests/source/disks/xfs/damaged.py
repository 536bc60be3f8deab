"""Images of xfs with bytes changed, in memory only, and with checksums that fit where the test is about more."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from crc32c import crc32c

from amistream.source.disks.xfs.used import used_blocks
from source.disks.xfs.filled import reader

if TYPE_CHECKING:
    from pathlib import Path

    from amistream.source.disks.facts import UsedBlocks

SUM_OF_SUPERBLOCK, SUM_OF_GROUP, SUM_OF_NODE = 224, 216, 52


class Image:
    """An image whose bytes may be replaced; the file stays as it is."""

    def __init__(self, path: Path) -> None:
        self._read = reader(path)
        self._changed: list[tuple[int, bytes]] = []
        self.size = path.stat().st_size
        head = self.read(0, 512)
        self.block, self.group_blocks = self.number(head, 4), self.number(head, 84)
        self.sector = int.from_bytes(head[102:104])
        self.has_sums = head[101] & 0xF == 5
        start, bits = int.from_bytes(head[48:56]), head[124]
        self.log = ((start >> bits) * self.group_blocks + start % (1 << bits)) * self.block
        self.log_size = self.number(head, 96) * self.block

    @staticmethod
    def number(data: bytes, at: int) -> int:
        return int(struct.unpack_from(">I", data, at)[0])

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(self._read(offset, length))
        for start, changed in self._changed:
            first, end = max(start, offset), min(start + len(changed), offset + length)
            if first < end:
                data[first - offset : end - offset] = changed[first - start : end - start]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        self._changed.append((offset, data))

    def flip(self, offset: int, bit: int) -> None:
        self.write(offset, bytes([self.read(offset, 1)[0] ^ 1 << bit]))

    def set(self, start: int, at: int, data: bytes, *, length: int, sum_at: int) -> None:
        """Change a block of metadata, with the checksum that fits, where there is one."""
        self.write(start + at, data)
        if self.has_sums:
            block = bytearray(self.read(start, length))
            block[sum_at : sum_at + 4] = bytes(4)
            self.write(start + sum_at, crc32c(bytes(block)).to_bytes(4, "little"))

    def set_superblock(self, at: int, data: bytes) -> None:
        self.set(0, at, data, length=self.sector, sum_at=SUM_OF_SUPERBLOCK)

    def set_group(self, at: int, data: bytes) -> None:
        """Change the header of the first group."""
        self.set(self.sector, at, data, length=self.sector, sum_at=SUM_OF_GROUP)

    def set_root(self, at: int, data: bytes) -> None:
        """Change the root of the first group's tree by block."""
        self.set(self.root * self.block, at, data, length=self.block, sum_at=SUM_OF_NODE)

    @property
    def root(self) -> int:
        return self.number(self.read(self.sector, 512), 16)

    @property
    def header(self) -> int:
        """Bytes of a node before its entries."""
        return 56 if self.has_sums else 16

    def pointer(self, index: int) -> int:
        """The place, in a node above the lowest ones, of the pointer to a child."""
        return self.header + (self.block - self.header) // 12 * 8 + index * 4

    def used(self, *, size: int | None = None) -> UsedBlocks:
        return used_blocks(self.read, self.size if size is None else size, frozen=False)
