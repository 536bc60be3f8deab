"""Estimates what a tree takes as xfs, before anything is written. Pure."""

from __future__ import annotations

import stat

from amistream.source.tree.profiles import BLOCK
from amistream.source.tree.tree import Tree
from amistream.source.xfs_tree.features import Format
from amistream.values import MIB

SMALLEST = 300 * MIB
"""mkfs.xfs makes nothing smaller, since version 5.19."""
LONGEST_LINK = 1023
"""Bytes of a symbolic link's target."""

_SMALL_LOG, _LOG_SHARE = 64 * MIB, 2048
"""The log: so much, or such a part of the file system."""
_RESERVE, _SHARE = 16 * MIB, 50
"""For all that is not counted, besides a part of what is. Guess."""
_IN_INODE = 256
"""Bytes of a directory, of attributes or of a link that need no block."""


def least_size(tree: Tree, like: Format) -> int:
    """Bytes that the tree takes at the very least: data, inodes, directories and large attributes."""
    total = len(tree) * like.inode
    for row, mode in enumerate(tree.mode):
        if stat.S_ISREG(mode):
            total += tree.data_blocks(row) * BLOCK
        elif stat.S_ISDIR(mode):
            size = tree.entry_sizes(row)
            total += 0 if size <= _IN_INODE else -(-size // like.folder) * like.folder
    total += sum(BLOCK for target in tree.target.values() if len(target) > like.inode)
    large = {number for number, each in enumerate(tree.xattr_sets) if sum(a.size for a in each) > like.inode}
    return total + sum(BLOCK for number in tree.xattrs if number in large)


def space_needed(tree: Tree, like: Format, size: int) -> int:
    """Bytes that the file with a file system of `size` bytes takes on disk, rather too many than too few."""
    least = least_size(tree, like)
    return least + least // _SHARE + max(_SMALL_LOG, size // _LOG_SHARE) + _RESERVE
