"""The used blocks of ext2, ext3 and ext4: all that the block bitmaps say, but for what was never written.

Never written are the ends of inode tables that no inode was ever in, and the blocks that files were given in advance
(`fallocate`): they read as zeros, and on disk they still hold what was deleted. The latter are left out only where
checksums prove that the extent says so; without them, a single bit that flipped would make data look like this.

Before that, every block that any inode refers to is claimed for that one owner, and must be used in the bitmaps. So a
bitmap that lost a block is found even where it has no checksum. The journal is kept whole: it is used, old contents
and all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from amistream.source.disks.ext4.bitmaps import block_bitmap, inode_bitmap
from amistream.source.disks.ext4.block_set import BlockSet, runs_of_bits
from amistream.source.disks.ext4.groups import Group, fixed_runs, inode_table_blocks, read_groups
from amistream.source.disks.ext4.inodes import REGULAR, RESIZE, Inode, inode_offset, parse_inode
from amistream.source.disks.ext4.journal import check_journal
from amistream.source.disks.ext4.runs import Run, runs_of
from amistream.source.disks.ext4.superblock import Superblock, check_settled, read_superblock
from amistream.source.disks.facts import MOST_EXTENTS, TOO_MANY, UsedBlocks
from amistream.source.disks.reading import DoubtError, Reader, window
from amistream.values import Extent

_READ_INODES: Final = 1024
"""Inodes of one read, at most."""
_JOINED_INODES: Final = 64
"""Unused inodes that are read along with the used ones around them, rather than in two reads."""


def used_blocks(read: Reader, size: int) -> UsedBlocks:
    """Find the used blocks of the file system that begins at 0 and has at most `size` bytes. Raises `DoubtError`."""
    fs = read_superblock(read)
    check_settled(fs)
    if fs.size > size:
        raise DoubtError(f"it has {fs.size} bytes, and only {size} are there")
    return _Map(window(read, 0, fs.size), fs).result()


class _Map:
    """The map of one file system while it is made."""

    def __init__(self, read: Reader, fs: Superblock) -> None:
        self._read = read
        self._fs = fs
        self._groups = read_groups(read, fs)
        self._owned = BlockSet(fs)
        """Blocks that have an owner."""
        self._unwritten = BlockSet(fs)
        self._unused_tables = BlockSet(fs)
        self._attribute_blocks: set[int] = set()
        """Blocks of extended attributes: many inodes may share one."""
        self._keeps_preallocated = fs.cluster_ratio > 1
        """With clusters always: the rest of a small file's cluster is in no extent, and is not left out."""

    def result(self) -> UsedBlocks:
        check_journal(self._read, self._fs)
        for group in self._groups:
            self._claim_fixed(group)
        if self._fs.mmp_block:
            self._owned.claim(self._fs.mmp_block, 1)
        used = [block_bitmap(self._read, self._fs, each, self._owned.of_group(each.number)) for each in self._groups]
        self._check_totals()
        for group in self._groups:
            for inode in self._inodes(group):
                self._claim_inode(inode)
        for group in self._groups:
            if self._owned.of_group(group.number) & ~used[group.number]:
                raise DoubtError(f"the block bitmap of group {group.number} calls blocks free that are used")
        return self._without_unwritten(used)

    def _check_totals(self) -> None:
        if sum(group.free_clusters for group in self._groups) * self._fs.cluster_ratio != self._fs.free_blocks:
            raise DoubtError("its groups have another number of free blocks than its superblock")
        if sum(group.free_inodes for group in self._groups) != self._fs.free_inodes:
            raise DoubtError("its groups have another number of free inodes than its superblock")

    def _claim_fixed(self, group: Group) -> None:
        for start, count in fixed_runs(self._fs, group):
            if start + count > self._fs.blocks:
                raise DoubtError(f"group {group.number} has no room for its own tables")
            self._owned.claim(start, count)
        begun = -(-group.used_inodes * self._fs.inode_size // self._fs.block_size)
        self._unused_tables.add(group.inode_table + begun, inode_table_blocks(self._fs) - begun)

    def _inodes(self, group: Group) -> Iterator[Inode]:
        """Read the inodes in use of a group."""
        size, base = self._fs.inode_size, group.number * self._fs.inodes_per_group + 1
        bits = inode_bitmap(self._read, self._fs, group)
        for begin, behind in runs_of_bits(bits, joined_gap=_JOINED_INODES):
            for first in range(begin, behind, _READ_INODES):
                count = min(_READ_INODES, behind - first)
                raw = self._read(inode_offset(self._fs, group, first), count * size)
                for index in range(count):
                    if bits >> first + index & 1:
                        yield parse_inode(self._fs, base + first + index, raw[index * size : (index + 1) * size])

    def _claim_inode(self, inode: Inode) -> None:
        if inode.number >= self._fs.first_inode and not inode.kind:
            raise DoubtError(f"inode {inode.number} is used and of no kind")
        if inode.attribute_block:
            self._claim_attributes(inode)
        for run in runs_of(self._read, self._fs, inode):
            self._owned.claim(run.start, run.blocks)
            if run.unwritten:
                self._leave_out(inode, run)
            if inode.number == RESIZE and "resize_inode" in self._fs.features:
                # Its one block lists the reserved descriptors: fixed blocks, claimed already.
                return

    def _claim_attributes(self, inode: Inode) -> None:
        block = inode.attribute_block
        if block in self._attribute_blocks:
            return
        if not self._fs.first_block <= block < self._fs.blocks:
            raise DoubtError(f"inode {inode.number} refers to blocks beyond the end of the file system")
        self._owned.claim(block, 1)
        self._attribute_blocks.add(block)

    def _leave_out(self, inode: Inode, run: Run) -> None:
        """Leave out blocks that were never written, if it is sure that they were not."""
        if not self._fs.has_checksums or inode.kind != REGULAR or inode.number < self._fs.first_inode:
            self._keeps_preallocated = True
            return
        # A cluster is left out as a whole: the rest of it may hold a part of the file that was written.
        ratio = self._fs.cluster_ratio
        start, behind = -(-run.start // ratio) * ratio, (run.start + run.blocks) // ratio * ratio
        self._unwritten.add(start, max(behind - start, 0))

    def _without_unwritten(self, used: list[int]) -> UsedBlocks:
        fs = self._fs
        unwritten, unused = self._unwritten.by_group(), self._unused_tables.by_group()
        kept = [bits & ~(unwritten[group] | unused[group]) for group, bits in enumerate(used)]
        total = sum(bits.bit_count() for bits in used)
        return UsedBlocks(
            extents=tuple(self._extents(kept)),
            size=fs.size,
            free=(fs.blocks - fs.first_block - total) * fs.block_size,
            preallocated=sum(bits.bit_count() for bits in unwritten) * fs.block_size,
            unused_inodes=sum(bits.bit_count() for bits in unused) * fs.block_size,
            keeps_preallocated=self._keeps_preallocated,
        )

    def _extents(self, kept: list[int]) -> Iterator[Extent]:
        """Join the groups' runs of blocks. The boot sector before the first block is used, and in no bitmap."""
        size = self._fs.block_size
        start, end = 0, self._fs.first_block
        extents = 0
        for group, bits in enumerate(kept):
            base = self._fs.group_start(group)
            for first, behind in runs_of_bits(bits):
                if base + first == end:
                    end = base + behind
                    continue
                if end > start:
                    yield Extent(offset=start * size, length=(end - start) * size)
                    extents += 1
                start, end = base + first, base + behind
                if extents > MOST_EXTENTS:
                    raise DoubtError(TOO_MANY)
        if end > start:
            yield Extent(offset=start * size, length=(end - start) * size)
