"""Makes the blocks of the file system itself when they are asked for: all but the contents of files. Pure.

Nothing is stored: each block follows from the tree's columns and the layout. The last directory and the last map are
remembered, because their blocks are asked for one after the other.
"""

from __future__ import annotations

import stat
import struct

from amistream.source.tree import records
from amistream.source.tree.checksums import crc32c
from amistream.source.tree.directories import linear, lost_and_found
from amistream.source.tree.groups import GroupBlocks, Identity
from amistream.source.tree.layout import JOURNAL_ROW, LONGEST_FAST_LINK, Kind, Layout
from amistream.source.tree.maps import ExtentMap, IndirectMap, extent_root
from amistream.source.tree.profiles import (
    BLOCK,
    INODES_RESERVED,
    JOURNAL_INODE,
    RESIZE_INODE,
    ROOT_INODE,
)
from amistream.source.tree.records import Inode
from amistream.source.tree.tree import LOST_AND_FOUND, ROOT, number_of, used_inodes

_POINTERS = BLOCK // 4
_RESIZE_SIZE = (_POINTERS**2 + _POINTERS + 12) * BLOCK
"""The size of the resize inode that e2fsprogs expects."""
_RESIZE_MAP = 13
"""The pointer of an inode to its double indirect block."""


class Image:
    """The file system's own blocks, by segment and block."""

    def __init__(self, layout: Layout, identity: Identity) -> None:
        self.layout = layout
        self._tree = layout.tree
        self._geometry = layout.geometry
        self._profile = layout.profile
        self.identity = identity
        self._seed = crc32c(records.ALL_ONES, identity.uuid.bytes) if self._profile.sealed else 0
        self._directory: tuple[int, list[bytes]] = (-1, [])
        self._map: tuple[int, ExtentMap | IndirectMap | None] = (-1, None)
        journal = self._map_of(JOURNAL_ROW).root if self._profile.journal else b""
        self._groups = GroupBlocks(layout, identity, self._seed, journal)

    def block(self, segment: int, place: int) -> bytes:
        """Block `place` of a segment, counted from the segment's start, that is no part of a file."""
        segments = self.layout.segments
        kind, reference = segments.kind[segment], segments.reference[segment]
        place += segments.logical[segment]
        match kind:
            case Kind.TABLE:
                return self._table(reference, place)
            case Kind.DIRECTORY:
                return self._directory_block(reference, place)
            case Kind.MAP:
                return self._map_of(reference).block(place, self._inode_seed(reference))
            case Kind.LINK:
                return self._tree.target[reference].ljust(BLOCK, b"\0")
            case Kind.XATTRS:
                return self._xattrs(reference)
            case _:
                return self._groups.block(Kind(kind), reference, place)

    def _inode_seed(self, row: int) -> int | None:
        if not self._profile.sealed:
            return None
        return records.inode_seed(self._seed, JOURNAL_INODE if row == JOURNAL_ROW else number_of(row))

    def _table(self, group: int, place: int) -> bytes:
        """A block of inodes."""
        per_block = self._profile.inodes_per_block
        first = group * self._geometry.inodes_per_group + place * per_block + 1
        end = min(first + per_block, used_inodes(len(self._tree)) + 1)
        block = bytearray(BLOCK)
        for number in range(first, min(INODES_RESERVED + 1, end)):
            self._enter(block, number - first, number)
        if end > INODES_RESERVED + 1:
            self._enter_rows(block, first, max(first, INODES_RESERVED + 1), end)
        return bytes(block)

    def _enter_rows(self, block: bytearray, first: int, start: int, end: int) -> None:
        """Enter the inodes from `start` to `end` of rows into a block that begins with inode `first`."""
        tree, segments, profile = self._tree, self.layout.segments, self._profile
        whole = profile.ext4 and profile.inode_size == records.LARGE_INODE
        columns = (tree.mode, tree.links, tree.size, tree.uid, tree.gid, tree.mtime, tree.ctime, tree.xattrs)
        rows = slice(start - INODES_RESERVED, end - INODES_RESERVED)
        inodes = zip(*(each[rows] for each in (*columns, self.layout.first_segment)), strict=True)
        for number, inode in enumerate(inodes, start):
            mode, links, size, uid, gid, mtime, ctime, xattrs, segment = inode
            if (
                whole
                and size
                and not xattrs
                and number - INODES_RESERVED not in tree.runs  # one that is a hole may have no segment
                and segments.kind[segment] == Kind.FILE
                and (blocks := segments.length[segment]) * BLOCK >= size
            ):
                at = (number - first) * records.LARGE_INODE
                place = segments.start[segment]
                records.pack_file_into(block, at, mode, links, size, uid, gid, mtime, ctime, place, blocks)
                if profile.sealed:
                    records.seal_inode(block, at, records.LARGE_INODE, self._seed, number)
            else:
                self._enter(block, number - first, number)

    def _enter(self, block: bytearray, place: int, number: int) -> None:
        """Enter an inode of any kind at its place in a block."""
        if number > INODES_RESERVED:
            inode = self._inode_of_row(number - INODES_RESERVED)
        elif number == ROOT_INODE:
            inode = self._inode_of_row(ROOT)
        elif number == JOURNAL_INODE and self._profile.journal:
            inode = self._journal_inode()
        elif number == RESIZE_INODE and self._geometry.reserved_descriptors:
            inode = self._resize_inode()
        else:
            return
        size = self._profile.inode_size
        at = place * size
        block[at : at + size] = records.pack_inode(self._profile, inode)
        if self._profile.sealed:
            records.seal_inode(block, at, size, self._seed, number)

    def _inode_of_row(self, row: int) -> Inode:
        tree, layout = self._tree, self.layout
        mode, size = tree.mode[row], tree.size[row]
        attributes = layout.attribute_sets[tree.xattrs[row]]
        xattr_block = layout.xattr_block[row] if attributes.needs_block else 0
        blocks = 1 if xattr_block else 0
        links, flags = tree.links[row], 0
        kind = stat.S_IFMT(mode)
        target = tree.target.get(row, b"")
        if kind == stat.S_IFLNK and len(target) <= LONGEST_FAST_LINK:
            content = target
        elif kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            flags = records.EXTENTS_FLAG if self._profile.ext4 else 0
            if flags and (piece := layout.only_piece(row)):
                content = extent_root(piece)
                blocks += piece[2]
            else:
                pieces, places = layout.pieces(row) if size or kind != stat.S_IFREG else ([], [])
                content = self._root_of(pieces, places)
                blocks += len(places) + sum(count for _, _, count in pieces)
            if kind == stat.S_IFDIR:
                size = layout.directory_size(row) * BLOCK
                if row in layout.indexes:
                    flags |= records.INDEX_FLAG
                if links > self._profile.most_links:
                    links = 1  # as ext4 counts them from there on
        else:
            content = records.device_words(*tree.special[row]) if row in tree.special else b""
        return Inode(
            mode=mode,
            links=links,
            size=size,
            uid=tree.uid[row],
            gid=tree.gid[row],
            mtime=tree.mtime[row],
            ctime=tree.ctime[row],
            blocks=blocks,
            flags=flags,
            map=content,
            xattr_block=xattr_block,
            inline_xattrs=attributes.inline,
        )

    def _journal_inode(self) -> Inode:
        layout = self.layout
        return self._own_inode(
            mode=stat.S_IFREG | 0o600,
            size=layout.journal_blocks * BLOCK,
            blocks=layout.journal_blocks + len(layout.journal_places),
            flags=records.EXTENTS_FLAG if self._profile.ext4 else 0,
            content=self._map_of(JOURNAL_ROW).root,
        )

    def _resize_inode(self) -> Inode:
        geometry = self._geometry
        return self._own_inode(
            mode=stat.S_IFREG | 0o600,
            size=_RESIZE_SIZE,
            blocks=1 + geometry.reserved_descriptors * len(geometry.super_groups),
            flags=0,
            content=bytes(4 * _RESIZE_MAP) + struct.pack("<I", self.layout.resize_block),
        )

    def _own_inode(self, *, mode: int, size: int, blocks: int, flags: int, content: bytes) -> Inode:
        time = records.packed_time(self.identity.time * 1_000_000_000)
        return Inode(mode=mode, links=1, size=size, mtime=time, ctime=time, blocks=blocks, flags=flags, map=content)

    def _root_of(self, pieces: list[tuple[int, int, int]], places: list[int]) -> bytes:
        return (ExtentMap if self._profile.ext4 else IndirectMap)(pieces, places).root

    def _map_of(self, row: int) -> ExtentMap | IndirectMap:
        known, found = self._map
        if known != row or found is None:
            found = (ExtentMap if self._profile.ext4 else IndirectMap)(*self.layout.pieces(row))
            self._map = row, found
        return found

    def _directory_block(self, row: int, place: int) -> bytes:
        if self._directory[0] != row:
            self._directory = row, self._pack_directory(row)
        return self._directory[1][place]

    def _pack_directory(self, row: int) -> list[bytes]:
        tree, profile = self._tree, self._profile
        number, parent = number_of(row), number_of(tree.parent[row])
        blocks = self.layout.directory_size(row)
        entries = list(tree.names_in(row))
        if row == LOST_AND_FOUND:
            return list(lost_and_found(number, parent, profile, self._seed, blocks))
        if blocks == 1:
            return [linear(number, parent, entries, profile, self._seed)]
        return list(self.layout.indexes[row].pack(number, parent, entries, self._seed))

    def _xattrs(self, place: int) -> bytes:
        number, references, block = self.layout.xattr_blocks[place]
        seed = self._seed if self._profile.sealed else None
        return self.layout.attribute_sets[number].block(references, seed, block)
