"""Fixes the place of everything in the image: one ascending sweep over the blocks that the fixed parts leave. Pure.

The order: journal, resize inode's block, blocks of shared attributes, directories, long symbolic links, then the files
in the order of their inodes, each one's map blocks straight behind its data, when their number is known. Everything
free below the cursor is used, so the bitmaps follow from the cursor alone. Segments are columns: 17 bytes for each.
"""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import IntEnum

from amistream.source.tree.directories import LOST_AND_FOUND_BLOCKS, Indexed, fits_one_block
from amistream.source.tree.geometry import FileTooLargeError, Geometry, NoRoomError, Run, TooManyLinksError
from amistream.source.tree.maps import (
    DIRECT,
    LONGEST_EXTENT,
    MOST_INDIRECT,
    Piece,
    extent_blocks,
    indirect_blocks,
)
from amistream.source.tree.profiles import BLOCK, GROUP
from amistream.source.tree.tree import KIND_BITS, LOST_AND_FOUND, Tree, used_inodes
from amistream.source.tree.xattrs import MOST_SHARING, AttributeSet

LONGEST_FAST_LINK = 59
"""Bytes of a symbolic link's target that the inode itself takes."""
_LARGEST_FILE = (2**32 - 1) * BLOCK
JOURNAL_ROW = 0xFFFFFFFF
"""Stands for the journal's inode, which is no row of the tree."""
_JOURNALS = ((32_768, 1024), (262_144, 4096), (524_288, 8192), (4_194_304, 16_384))
"""Blocks of a file system, up to which its journal has so many (as mke2fs chooses)."""
_LARGE_JOURNAL = 32_768
_JOURNAL_SHARE = 4
"""A small file system gives at most this part of its blocks to the journal, but never fewer than 1,024."""


class Kind(IntEnum):
    """The content of a segment, and the meaning of its reference."""

    SUPER = 0  # group of the copy
    DESCRIPTORS = 1
    RESERVED = 2  # descriptors yet to come, in group 0
    BLOCK_BITMAP = 3  # group
    INODE_BITMAP = 4  # group
    TABLE = 5  # group
    JOURNAL = 6  # the first block alone; the others are holes
    RESIZE = 7
    XATTRS = 8  # place in `xattr_blocks`
    MAP = 9  # row
    DIRECTORY = 10  # row
    LINK = 11  # row
    FILE = 12  # row


FIXED = frozenset(Kind) - {Kind.MAP, Kind.DIRECTORY, Kind.LINK, Kind.FILE}


class Segments:
    """Runs of blocks with one content each, ascending. What lies between them is zeros."""

    def __init__(self) -> None:
        self.start, self.length = array("I"), array("I")
        self.kind = array("B")
        self.reference = array("I")
        self.logical = array("I")
        """Place of the first block within what is referred to."""

    def __len__(self) -> int:
        return len(self.start)

    def append(self, start: int, length: int, kind: Kind, reference: int, logical: int) -> None:
        self.start.append(start)
        self.length.append(length)
        self.kind.append(kind)
        self.reference.append(reference)
        self.logical.append(logical)

    def between(self, first: int, last: int) -> Iterator[tuple[int, int, int, int, int]]:
        """The segments from one to before another: first block, blocks, kind, reference, and place within that."""
        part = slice(first, last)
        columns = self.start[part], self.length[part], self.kind[part], self.reference[part], self.logical[part]
        return zip(*columns, strict=True)

    def at_or_before(self, block: int) -> int:
        """The last segment that starts at the block or before it, -1 if none does."""
        return bisect_right(self.start, block) - 1


class Layout:
    """The places of all that a tree and its file system consist of."""

    def __init__(self, tree: Tree, geometry: Geometry, hash_seed: tuple[int, int, int, int]) -> None:
        """Raises `NoRoomError` if the tree does not fit, `TooManyLinksError`, or `FileTooLargeError`."""
        self.tree = tree
        self.geometry = geometry
        self.profile = geometry.profile
        self.segments = Segments()
        self.first_segment = array("I", bytes(4 * len(tree)))
        """Of each row that has any data."""
        self.attribute_sets = [AttributeSet(each, self.profile) for each in tree.xattr_sets]
        self.xattr_blocks: list[tuple[int, int, int]] = []
        """Set, inodes that refer to it, and block."""
        self.xattr_block = array("I", bytes(4 * len(tree))) if self._need_blocks() else array("I")
        self.indexes: dict[int, Indexed] = {}
        """Of the directories with more than one block. Hashing their names takes a while, so they are kept."""
        self.journal_pieces: list[Piece] = []
        self.journal_places: list[int] = []
        self.journal_blocks = _journal_size(geometry.blocks) if self.profile.journal else 0
        self.resize_block = 0
        self._hash_seed = hash_seed
        self._fixed = iter(sorted(_fixed_segments(geometry, len(tree))))
        self._next_fixed = next(self._fixed, None)
        self._free = geometry.free
        self._run, self._at = 0, self._free[0][0]
        self._check_room()
        self._sweep()
        self._pass_fixed(geometry.blocks)
        start, count = self._free[self._run]
        rest = (self._at, start + count - self._at)
        self.unused: list[Run] = [each for each in (rest, *self._free[self._run + 1 :]) if each[1]]
        """The free runs that the sweep has not reached, ascending."""

    def pieces(self, row: int) -> tuple[list[Piece], list[int]]:
        """The runs of a row's data, and the places of its map blocks."""
        if row == JOURNAL_ROW:
            return self.journal_pieces, self.journal_places
        found: list[Piece] = []
        places: list[int] = []
        segments = self.segments
        for place in range(self.first_segment[row], len(segments)):
            kind = segments.kind[place]
            if kind in FIXED:
                continue  # a group's own blocks came between
            if segments.reference[place] != row:
                break
            start, length = segments.start[place], segments.length[place]
            if kind == Kind.MAP:
                places += range(start, start + length)
            else:
                found.append((segments.logical[place], start, length))
        return found, places

    def only_piece(self, row: int) -> Piece | None:
        """The single run that holds all data of a regular file, or None if there is none, or more."""
        size, place = self.tree.size[row], self.first_segment[row]
        segments = self.segments
        # A file that is a hole from end to end has no segment, and may be the last one.
        if not size or row in self.tree.runs:
            return None
        if segments.kind[place] != Kind.FILE or segments.length[place] * BLOCK < size:
            return None
        return 0, segments.start[place], segments.length[place]

    def directory_size(self, row: int) -> int:
        """Blocks of a directory."""
        if row == LOST_AND_FOUND:
            return LOST_AND_FOUND_BLOCKS
        return self.indexes[row].blocks if row in self.indexes else 1

    def _need_blocks(self) -> bool:
        return any(each.needs_block for each in self.attribute_sets)

    def _check_room(self) -> None:
        """Refuse at once what cannot fit, before a long sweep."""
        most = _LARGEST_FILE if self.profile.ext4 else MOST_INDIRECT * BLOCK
        if (largest := max(self.tree.size)) > most:
            raise FileTooLargeError(self.tree.size.index(largest), most)
        self._measure_directories()
        needed = self._needed()
        if needed > self.geometry.blocks * BLOCK:
            raise NoRoomError(needed)

    def _needed(self) -> int:
        """Bytes of the whole file system, without the map blocks of large files."""
        geometry, tree = self.geometry, self.tree
        blocks = geometry.blocks - sum(count for _, count in self._free) + self.journal_blocks
        if not self.profile.ext4:
            blocks += indirect_blocks(((0, self.journal_blocks),))
        blocks += 1 if geometry.reserved_descriptors else 0
        blocks += sum(1 for _ in self._xattr_counts())
        for row, (mode, size) in enumerate(zip(tree.mode, tree.size, strict=True)):
            kind = mode & KIND_BITS
            if kind == stat.S_IFREG:
                blocks += tree.data_blocks(row) if row in tree.runs else -(-size // BLOCK)
            elif kind == stat.S_IFDIR:
                blocks += self.directory_size(row)
        blocks += sum(1 for target in tree.target.values() if len(target) > LONGEST_FAST_LINK)
        return blocks * BLOCK

    def _map_blocks(self) -> int:
        """Map blocks of all files, about: the pieces are not known."""
        runs = (self.tree.data_runs(row) for row in range(len(self.tree)) if stat.S_ISREG(self.tree.mode[row]))
        if self.profile.ext4:
            return sum(extent_blocks(sum(-(-count // LONGEST_EXTENT) for _, count in each)) for each in runs)
        return sum(indirect_blocks(each) for each in runs)

    def _measure_directories(self) -> None:
        tree = self.tree
        for row, (first, count) in tree.entries.items():
            if tree.links[row] > self.profile.most_links and not self.profile.ext4:
                raise TooManyLinksError(row)
            sizes = tree.entry_sizes(row)
            if not fits_one_block(sizes, self.profile):
                names = [tree.name_of(entry) for entry in range(first, first + count)]
                self.indexes[row] = Indexed(names, self.profile, self._hash_seed)

    def _sweep(self) -> None:
        tree = self.tree
        if self.journal_blocks:
            self._place_journal()
        if self.geometry.reserved_descriptors:
            self.resize_block = self._take_one(Kind.RESIZE, 0)
        for number, references, rows in self._xattr_counts():
            block = self._take_one(Kind.XATTRS, len(self.xattr_blocks))
            self.xattr_blocks.append((number, references, block))
            for row in rows:
                self.xattr_block[row] = block
        for row, mode in enumerate(tree.mode):
            if stat.S_ISDIR(mode):
                self._place(row, ((0, self.directory_size(row)),), Kind.DIRECTORY)
        for row, target in tree.target.items():
            if len(target) > LONGEST_FAST_LINK:
                self._place(row, ((0, 1),), Kind.LINK)
        self._place_files()

    def _place_files(self) -> None:
        """Place the files. Most need no more than a look at the run that is free here, and no map block."""
        tree, runs, segments, first_segment = self.tree, self.tree.runs, self.segments, self.first_segment
        most = LONGEST_EXTENT if self.profile.ext4 else DIRECT
        start, end = self._free_here()
        for row, (mode, size) in enumerate(zip(tree.mode, tree.size, strict=True)):
            if not size or mode & KIND_BITS != stat.S_IFREG:
                continue
            count = (size + BLOCK - 1) // BLOCK
            # Where a run begins, fixed segments before it are still to be appended.
            if start < self._at <= end - count and count <= most and row not in runs:
                first_segment[row] = len(segments)
                segments.append(self._at, count, Kind.FILE, row, 0)
                self._at += count
            else:
                self._place(row, tree.data_runs(row), Kind.FILE)
                start, end = self._free_here()

    def _free_here(self) -> Run:
        """Start and end of the free run that the sweep is in."""
        start, count = self._free[self._run]
        return start, start + count

    def _xattr_counts(self) -> Iterator[tuple[int, int, Sequence[int]]]:
        """The blocks of attributes: set, number of inodes that share it, and their rows."""
        if not self.xattr_block:
            return
        waiting: dict[int, array[int]] = {}
        for row, number in enumerate(self.tree.xattrs):
            if number and self.attribute_sets[number].needs_block:
                rows = waiting.setdefault(number, array("I"))
                rows.append(row)
                if len(rows) == MOST_SHARING:
                    yield number, len(rows), rows
                    del waiting[number]
        for number, rows in waiting.items():
            yield number, len(rows), rows

    def _place(self, row: int, runs: Sequence[Run], kind: Kind) -> None:
        """Place a row's data, and its map blocks."""
        self.first_segment[row] = len(self.segments)
        if not runs:
            return
        extents = 0
        for first, length in runs:
            logical = first
            for place, count in self._take(length):
                self._emit(place, count, kind, row, logical)
                logical += count
                extents += 1
        logical = 0
        for place, count in self._take(self._maps_needed(runs, extents)):
            self._emit(place, count, Kind.MAP, row, logical)
            logical += count

    def _place_journal(self) -> None:
        logical = 0
        for place, count in self._take(self.journal_blocks):
            if logical == 0:
                self._emit(place, 1, Kind.JOURNAL, 0, 0)
            self.journal_pieces.append((logical, place, count))
            logical += count
        maps = self._maps_needed(((0, self.journal_blocks),), len(self.journal_pieces))
        for place, count in self._take(maps):
            self._emit(place, count, Kind.MAP, JOURNAL_ROW, len(self.journal_places))
            self.journal_places += range(place, place + count)

    def _maps_needed(self, runs: Sequence[Run], extents: int) -> int:
        if self.profile.ext4:
            return extent_blocks(extents)
        return indirect_blocks(runs)

    def _take_one(self, kind: Kind, reference: int) -> int:
        ((place, _),) = self._take(1)
        self._emit(place, 1, kind, reference, 0)
        return place

    def _take(self, blocks: int) -> Iterator[Run]:
        """Take the next free blocks, in runs that an extent can hold. Raises `NoRoomError` without them."""
        while blocks:
            start, length = self._free[self._run]
            left = start + length - self._at
            if not left:
                if self._run + 1 == len(self._free):
                    raise NoRoomError(self._needed() + self._map_blocks() * BLOCK)
                self._run += 1
                self._at = self._free[self._run][0]
                continue
            count = min(blocks, left, LONGEST_EXTENT)
            place = self._at
            self._at += count
            blocks -= count
            yield place, count

    def _emit(self, start: int, length: int, kind: Kind, reference: int, logical: int) -> None:
        if self._next_fixed is not None and self._next_fixed[0] < start:
            self._pass_fixed(start)
        self.segments.append(start, length, kind, reference, logical)

    def _pass_fixed(self, until: int) -> None:
        """Append the fixed segments before a block."""
        while self._next_fixed is not None and self._next_fixed[0] < until:
            self.segments.append(*self._next_fixed)
            self._next_fixed = next(self._fixed, None)


def _fixed_segments(geometry: Geometry, rows: int) -> Iterator[tuple[int, int, Kind, int, int]]:
    for group in geometry.super_groups:
        yield group * GROUP, 1, Kind.SUPER, group, 0
        yield group * GROUP + 1, geometry.descriptor_blocks, Kind.DESCRIPTORS, group, 0
    if geometry.reserved_descriptors:
        yield 1 + geometry.descriptor_blocks, geometry.reserved_descriptors, Kind.RESERVED, 0, 0
    used = used_inodes(rows)
    block_bitmaps, inode_bitmaps, tables = geometry.places
    for group in range(geometry.groups):
        yield block_bitmaps[group], 1, Kind.BLOCK_BITMAP, group, 0
        yield inode_bitmaps[group], 1, Kind.INODE_BITMAP, group, 0
        here = min(max(0, used - group * geometry.inodes_per_group), geometry.inodes_per_group)
        if here:
            yield tables[group], -(-here // geometry.profile.inodes_per_block), Kind.TABLE, group, 0


def _journal_size(blocks: int) -> int:
    wanted = next((size for most, size in _JOURNALS if blocks < most), _LARGE_JOURNAL)
    return max(1024, min(wanted, blocks // _JOURNAL_SHARE))
