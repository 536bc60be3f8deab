"""The kinds of file systems that a tree can become, by name, and the constants that all share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BLOCK = 4096
INODES_RESERVED = 10
ROOT_INODE, RESIZE_INODE, JOURNAL_INODE = 2, 7, 8
GROUP = 32768
"""Blocks of a group: as many as one block of bitmap has bits."""
DESCRIPTOR = 32
"""Bytes of a group's descriptor."""
FLEX = 16
"""Groups whose bitmaps and inode tables stand together."""
MOST_RESERVED_BLOCKS = 1024

_EXT_ATTR, _RESIZE_INODE, _DIR_INDEX, _HAS_JOURNAL = 0x8, 0x10, 0x20, 0x4
_FILETYPE, _EXTENTS, _FLEX_BG = 0x2, 0x40, 0x200
_SPARSE_SUPER, _LARGE_FILE, _HUGE_FILE, _GDT_CSUM = 0x1, 0x2, 0x8, 0x10
_DIR_NLINK, _EXTRA_ISIZE, _METADATA_CSUM = 0x20, 0x40, 0x400

_MOST_LINKS_OF_XFS = (1 << 31) - 1


class Checksums(Enum):
    """The checksums of a file system's own blocks."""

    NONE = "none"
    GROUPS = "group descriptors only"
    ALL = "metadata_csum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of file system: what old kernels and boot loaders know decides between them."""

    name: str
    inode_size: int = 0
    is_ext: bool = True
    """One of those whose image is made here, block by block."""
    journal: bool = True
    ext4: bool = False
    """Extents, and metadata of several groups together."""
    checksums: Checksums = Checksums.NONE

    @property
    def inodes_per_block(self) -> int:
        return BLOCK // self.inode_size

    @property
    def room(self) -> int:
        """Bytes of a directory's block for its entries."""
        return BLOCK - 12 if self.sealed else BLOCK

    @property
    def sealed(self) -> bool:
        return self.checksums is Checksums.ALL

    @property
    def most_links(self) -> int:
        """Links of one inode. A directory has one from each of its subdirectories; in ext4 it may have more."""
        if not self.is_ext:
            return _MOST_LINKS_OF_XFS
        return 65_000 if self.ext4 else 32_000

    def features(self, *, resizable: bool) -> tuple[int, int, int]:
        """The words of compatible, incompatible, and read-only compatible features."""
        compatible = _EXT_ATTR | _DIR_INDEX
        if resizable:
            compatible |= _RESIZE_INODE
        if self.journal:
            compatible |= _HAS_JOURNAL
        incompatible = _FILETYPE
        read_only = _SPARSE_SUPER | _LARGE_FILE
        if self.ext4:
            incompatible |= _EXTENTS | _FLEX_BG
            read_only |= _HUGE_FILE | _DIR_NLINK | _EXTRA_ISIZE
            read_only |= _METADATA_CSUM if self.sealed else _GDT_CSUM
        return compatible, incompatible, read_only


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="ext4", inode_size=256, ext4=True, checksums=Checksums.GROUPS),
        Profile(name="ext4-csum", inode_size=256, ext4=True, checksums=Checksums.ALL),
        Profile(name="ext3", inode_size=256),
        Profile(name="ext3-128", inode_size=128),
        Profile(name="ext2", inode_size=256, journal=False),
    )
}

XFS = Profile(name="xfs", is_ext=False)
"""Made by mkfs.xfs and the kernel (`source.xfs_tree`), so only for root."""
