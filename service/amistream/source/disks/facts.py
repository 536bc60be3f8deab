"""The values that the parsers here return. Sizes and offsets in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from amistream.values import Extent

MOST_EXTENTS = 250_000
"""Ranges of used blocks that are remembered, in 30 MB. A disk of 10 GiB that was used for years has some thousands."""
TOO_MANY = f"the used blocks are in more than {MOST_EXTENTS} pieces"
"""The doubt about a file system with more."""


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
    """Blocks that files were given and never wrote could not be left out safely: `extents` has them, and the deleted
    data in them."""


class TableKind(StrEnum):
    NONE = "none"
    """The disk is a file system, or something unknown, from its first byte on."""
    MBR = "mbr"
    GPT = "gpt"
    HYBRID = "hybrid"
    """A GPT, with partitions in the boot record too."""
    PROTECTIVE = "protective"
    """A boot record that stands for a GPT, of which no copy is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One entry of a partition table. Ids are in the form that `blkid` prints."""

    number: int
    """As in the device's name; logical ones of an MBR begin with 5."""
    offset: int
    size: int
    type_id: str
    """0x83, or a GUID."""
    type_name: str = ""
    """Its words, such as Linux, BIOS boot, EFI system; '' for a type that is not known here."""
    name: str = ""
    """As a GPT records it."""
    uuid: str = ""
    """The PARTUUID."""
    bootable: bool = False
    extended: bool = False
    """It holds the logical partitions of an MBR, which are entries of their own, and no data besides."""
    doubt: str = ""
    """The sentence that says why the entry is not trusted: all bytes that it names are kept then."""

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def trusted(self) -> bool:
        """The partition lies within the disk, and overlaps neither another one nor a table."""
        return not self.doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTable:
    """A disk's partition table. Bytes may be left out within its trusted partitions only, each by its content."""

    kind: TableKind
    sector_size: int = 512
    disk_id: str = ""
    """The PTUUID: eight hexadecimal digits of an MBR, or the GUID of a GPT."""
    partitions: tuple[Partition, ...] = ()
    """By number; those that are not trusted are among them."""
    doubts: tuple[str, ...] = ()
    """Sentences about the table, those of its entries included."""
    reach: int = 0
    """The byte at which the disk ends by its table, which is more than it has where it was cut short."""
