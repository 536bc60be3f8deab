"""Makes the blocks that describe the groups: superblocks, descriptors, bitmaps, resize inode, and the journal. Pure."""

from __future__ import annotations

import stat
import struct
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from amistream.source.tree import records
from amistream.source.tree.checksums import crc32c
from amistream.source.tree.layout import Kind, Layout
from amistream.source.tree.profiles import BLOCK, GROUP
from amistream.source.tree.tree import number_of, used_inodes

_POINTERS = BLOCK // 4
_MAP_SIZE = 60
"""Bytes of an inode's map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The names of a file system, and the time at which it says that it was made."""

    uuid: UUID
    label: bytes = b""
    time: int = 0


class GroupBlocks:
    """The blocks of all groups, by kind."""

    def __init__(self, layout: Layout, identity: Identity, seed: int, journal_map: bytes) -> None:
        """`seed` is that of metadata_csum; `journal_map` the map in the journal's inode, if there is a journal."""
        self._layout = layout
        self._tree = layout.tree
        self._geometry = layout.geometry
        self._profile = layout.profile
        self._identity = identity
        self._seed = seed
        self._journal_map = journal_map.ljust(_MAP_SIZE, b"\0")

    def block(self, kind: Kind, group: int, place: int) -> bytes:
        """Block `place` of such a segment."""
        match kind:
            case Kind.BLOCK_BITMAP:
                return self._block_bitmap(group)
            case Kind.INODE_BITMAP:
                return self._inode_bitmap(group)
            case Kind.DESCRIPTORS:
                return self._descriptors[place * BLOCK : (place + 1) * BLOCK].ljust(BLOCK, b"\0")
            case Kind.SUPER:
                return self._super(group)
            case Kind.RESERVED:
                return self._reserved(place)
            case Kind.RESIZE:
                return self._resize_map
            case _:
                return records.pack_journal(self._layout.journal_blocks)

    def _super(self, group: int) -> bytes:
        layout, geometry = self._layout, self._geometry
        values = records.Super(
            blocks=geometry.blocks,
            free_blocks=sum(count for _, count in layout.unused),
            inodes=geometry.inodes,
            free_inodes=geometry.inodes - self._used_inodes,
            inodes_per_group=geometry.inodes_per_group,
            reserved_descriptors=geometry.reserved_descriptors,
            time=self._identity.time,
            uuid=self._identity.uuid,
            label=self._identity.label,
            journal_map=self._journal_map,
            journal_size=layout.journal_blocks * BLOCK,
        )
        packed = records.pack_super(self._profile, values, group)
        # The first one stands behind the place of a boot sector.
        return (bytes(1024) + packed if group == 0 else packed).ljust(BLOCK, b"\0")

    @property
    def _used_inodes(self) -> int:
        return used_inodes(len(self._tree))

    @cached_property
    def _descriptors(self) -> bytes:
        geometry, profile = self._geometry, self._profile
        per_group = geometry.inodes_per_group
        block_bitmaps, inode_bitmaps, tables = geometry.places
        free = self._free_in_groups()
        directories = self._directories_in_groups()
        packed = bytearray()
        for group in range(geometry.groups):
            used = self._used_in(group)
            checksums = (0, 0)
            if profile.sealed:
                inodes = self._inode_bitmap(group)[: per_group // 8]
                # A group whose inodes were never used has no bitmap to speak of.
                checksums = (crc32c(self._seed, self._block_bitmap(group)), crc32c(self._seed, inodes) if used else 0)
            state = records.GroupState(
                block_bitmap=block_bitmaps[group],
                inode_bitmap=inode_bitmaps[group],
                table=tables[group],
                free_blocks=free[group],
                free_inodes=per_group - used,
                directories=directories[group],
                unused_inodes=per_group - used,
                bitmaps_checksum=checksums,
            )
            packed += records.pack_descriptor(profile, self._identity.uuid, group, state, per_group)
        return bytes(packed)

    def _used_in(self, group: int) -> int:
        per_group = self._geometry.inodes_per_group
        return min(max(0, self._used_inodes - group * per_group), per_group)

    def _free_in_groups(self) -> list[int]:
        free = [0] * self._geometry.groups
        for start, count in self._layout.unused:
            end = start + count
            for group in range(start // GROUP, -(-end // GROUP)):
                free[group] += min(end, (group + 1) * GROUP) - max(start, group * GROUP)
        return free

    def _directories_in_groups(self) -> list[int]:
        found = [0] * self._geometry.groups
        for row, mode in enumerate(self._tree.mode):
            if stat.S_ISDIR(mode):
                found[(number_of(row) - 1) // self._geometry.inodes_per_group] += 1
        return found

    def _block_bitmap(self, group: int) -> bytes:
        """All blocks are used, but for those that the sweep has not reached."""
        first = group * GROUP
        last = first + GROUP
        bits = (1 << GROUP) - 1
        unused = self._layout.unused
        place = max(0, bisect_left(unused, (first, 0)) - 1)
        while place < len(unused) and unused[place][0] < last:
            start, end = max(unused[place][0], first), min(sum(unused[place]), last)
            if start < end:
                bits &= ~((1 << end - start) - 1 << start - first)
            place += 1
        return bits.to_bytes(BLOCK, "little")

    def _inode_bitmap(self, group: int) -> bytes:
        used, per_group = self._used_in(group), self._geometry.inodes_per_group
        behind = (1 << 8 * BLOCK) - (1 << per_group)
        return (behind | (1 << used) - 1).to_bytes(BLOCK, "little")

    @cached_property
    def _resize_map(self) -> bytes:
        """The block that refers to the blocks for further descriptors in group 0. The resize inode owns them all."""
        pointers = [0] * _POINTERS
        first = 1 + self._geometry.descriptor_blocks
        for place in range(self._geometry.reserved_descriptors):
            pointers[(self._geometry.descriptor_blocks + place) % _POINTERS] = first + place
        return struct.pack(f"<{_POINTERS}I", *pointers)

    def _reserved(self, place: int) -> bytes:
        """One of the blocks for further descriptors: in group 0 it lists its copies in the other groups."""
        inside = 1 + self._geometry.descriptor_blocks + place
        copies = [group * GROUP + inside for group in self._geometry.super_groups[1:]]
        return struct.pack(f"<{len(copies)}I", *copies).ljust(BLOCK, b"\0")
