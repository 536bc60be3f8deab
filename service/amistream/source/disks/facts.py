"""The values that the parsers of this room return. Sizes and offsets in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from amistream.values import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """The content of a partition or of a whole disk, as its first blocks describe it."""

    kind: str
    """As `blkid` names it: ext4, xfs, vfat, swap, LVM2_member, crypto_LUKS ..."""
    size: int | None = None
    """Its own record of its size; None where it has none. Never trusted beyond the partition's end."""
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedBlocks:
    """The blocks of a file system that hold something, and what is left out."""

    extents: tuple[Extent, ...]
    """From the start of the file system on; ascending, within its size, and not touching each other."""
    size: int
    """Bytes of the file system; those behind them are none of its business."""
    free: int
    """Bytes of free blocks."""
    preallocated: int = 0
    """Bytes of blocks that were given to files and never written: they hold deleted data."""
    unused_inodes: int = 0
    """Bytes of inode tables that were never used."""
    keeps_preallocated: bool = False
    """Preallocated blocks were not looked for: `extents` has them, with the deleted data that they may hold."""
