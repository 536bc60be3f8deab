"""The free blocks of an allocation group of xfs, as its two trees of free extents list them.

One tree is in the order of the blocks, the other one in the order of the sizes. Both are read and compared, because
version 4 has no checksums. The blocks that a group reserves for its own trees are in neither: they count as used.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from amistream.source.disks.reading import DoubtError
from amistream.source.disks.xfs.checksum import has_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amistream.source.disks.reading import Reader
    from amistream.source.disks.xfs.superblock import Superblock

MOST_EXTENTS = 1 << 20
"""Free extents of a file system; a map of more would take too much memory, so nothing is left out then."""

_NONE = 0xFFFFFFFF
"""No sibling."""
_LOWER = 0xFFFFFFFF
_UNIT = 512
"""Of addresses within version 5, whatever the sectors are."""
_MOST_LEVELS = 9
_MAGICS_BY_BLOCK = b"ABTB", b"AB3B"
_MAGICS_BY_SIZE = b"ABTC", b"AB3C"
"""Of version 4, and of version 5."""
_RECORD, _POINTER = 8, 4
_HEADER_SECTORS = 4
"""Superblock and headers, at the start of each group."""


class _Group(NamedTuple):
    """The header of a group (AGF)."""

    magic: bytes
    version: int
    number: int
    length: int
    root_by_block: int
    root_by_size: int
    levels_by_block: int
    levels_by_size: int
    reserved: int
    free: int
    tree_blocks: int
    uuid: bytes
    changed: int


_GROUP = struct.Struct(">4s 5I 4x II 12x II 4x I 16s 128x Q")
_GROUP_CHECKSUM_AT = 216
_NODE = struct.Struct(">4s HH II")
_NODE_OF_5 = struct.Struct(">QQ 16s I")
_NODE_CHECKSUM_AT = 52


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeBlocks:
    """The free blocks of one group."""

    extents: array[int]
    """Ascending; each as on disk: its first block in the upper 32 bits, its count of blocks in the lower ones."""
    reserved: int
    """Blocks that are used by these trees or reserved for them, and that the superblock counts as free."""

    @property
    def count(self) -> int:
        return sum(extent & _LOWER for extent in self.extents)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give the first block of each extent, and the one behind its last."""
        for extent in self.extents:
            first = extent >> 32
            yield first, first + (extent & _LOWER)


def read_free_blocks(read: Reader, superblock: Superblock, number: int, newest: int | None) -> FreeBlocks:
    """Read the free blocks of a group from the reader of this group, whose metadata is not newer than `newest`."""
    return _GroupReader(read, superblock, number, newest).free_blocks()


class _GroupReader:
    def __init__(self, read: Reader, superblock: Superblock, number: int, newest: int | None) -> None:
        self._read = read
        self._superblock = superblock
        self._number = number
        self._newest = newest
        self._length = superblock.blocks_of(number)

    def free_blocks(self) -> FreeBlocks:
        header = self._header()
        by_block = self._extents(_MAGICS_BY_BLOCK, header.root_by_block, header.levels_by_block)
        by_size = self._extents(_MAGICS_BY_SIZE, header.root_by_size, header.levels_by_size)
        self._require(sorted(by_size) == by_block.tolist(), "has two trees of free blocks that differ")
        found = FreeBlocks(extents=by_block, reserved=header.reserved + header.tree_blocks)
        end = -(-_HEADER_SECTORS * self._superblock.sector_size // self._superblock.block_size)
        for first, behind in found:
            self._require(end <= first < behind <= self._length, f"has free blocks {first} to {behind} out of place")
            end = behind
        self._require(found.count == header.free, f"has {found.count} free blocks and counts {header.free}")
        return found

    def _header(self) -> _Group:
        sector = self._superblock.sector_size
        raw = self._read(sector, sector)
        header = _Group(*_GROUP.unpack_from(raw))
        self._require(
            (header.magic, header.version, header.number, header.length) == (b"XAGF", 1, self._number, self._length),
            "has no header that fits",
        )
        if self._superblock.has_checksums:
            self._require(has_checksum(raw, _GROUP_CHECKSUM_AT), "has a header with a wrong checksum")
            self._require_own(header.uuid, header.changed, "header")
        return header

    def _extents(self, magics: tuple[bytes, bytes], root: int, levels: int) -> array[int]:
        """Read a tree level by level. Siblings must name each other, so no node is read twice in its level."""
        self._require(1 <= levels <= _MOST_LEVELS, f"has a tree of {levels} levels")
        nodes = array("I", [root])
        for level in range(levels - 1, 0, -1):
            nodes = self._level(nodes, level, magics)
        return self._level(nodes, 0, magics)

    def _level(self, nodes: array[int], level: int, magics: tuple[bytes, bytes]) -> array[int]:
        """Read the nodes of a level: the nodes of the next level, or the extents of the lowest one."""
        version_5 = self._superblock.has_checksums
        start = _NODE.size + (_NODE_OF_5.size + 4 if version_5 else 0)
        entry = _RECORD + (_POINTER if level else 0)
        most = (self._superblock.block_size - start) // entry
        found = array("I" if level else "Q")
        for place, node in enumerate(nodes):
            raw = self._node(node)
            magic, node_level, count, left, right = _NODE.unpack_from(raw)
            siblings = nodes[place - 1] if place else _NONE, nodes[place + 1] if place + 1 < len(nodes) else _NONE
            is_full_group = not level and len(nodes) == 1
            self._require(
                (magic, node_level, left, right) == (magics[version_5], level, *siblings)
                and (count > 0 or is_full_group)
                and count <= most,
                f"has a tree of free blocks with a damaged block ({node})",
            )
            if level:
                found.extend(struct.unpack_from(f">{count}I", raw, start + most * _RECORD))
            else:
                found.extend(struct.unpack_from(f">{count}Q", raw, start))
            self._require(len(found) <= MOST_EXTENTS, f"has more than {MOST_EXTENTS} free extents")
        return found

    def _node(self, node: int) -> bytes:
        size = self._superblock.block_size
        self._require(0 < node < self._length, f"has a tree of free blocks with a block out of it ({node})")
        raw = self._read(node * size, size)
        if self._superblock.has_checksums:
            self._require(has_checksum(raw, _NODE_CHECKSUM_AT), f"has a tree block with a wrong checksum ({node})")
            place, changed, uuid, owner = _NODE_OF_5.unpack_from(raw, _NODE.size)
            sector = (self._number * self._superblock.group_blocks + node) * size // _UNIT
            self._require((place, owner) == (sector, self._number), f"has a tree block of another place ({node})")
            self._require_own(uuid, changed, "tree of free blocks")
        return raw

    def _require_own(self, uuid: bytes, changed: int, what: str) -> None:
        self._require(uuid == self._superblock.metadata_uuid, f"has a {what} of another file system")
        is_known = self._newest is None or changed <= self._newest
        self._require(is_known, f"has a {what} that is newer than the log")

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise DoubtError(f"its allocation group {self._number} {otherwise}")
