"""The disk as the boot checks see it: its table, and its file systems with their ids and, where read, their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from amistream.source.disks.facts import FileSystem, Partition, PartitionTable, TableKind
from amistream.source.disks.partition_types import BIOS_BOOT, EFI_SYSTEM
from amistream.source.disks.partitions import read_table
from amistream.source.disks.reading import DoubtError, Reader, window
from amistream.source.disks.signatures import identify

if TYPE_CHECKING:
    from amistream.source.disks.files import Node, Tree

OPAQUE = {"LVM2_member", "crypto_LUKS", "linux_raid_member", "zfs_member", "bcache", "BitLocker"}
"""Content that is seen only by the running system."""
MOST_PARTITIONS = 128
"""As in a GPT of common size."""
_NO_FILE_SYSTEM = {BIOS_BOOT, "PReP boot"}


@dataclass(frozen=True)
class Volume:
    """A partition, or the whole disk where it has none."""

    disk: Reader
    partition: Partition | None
    offset: int
    size: int

    @property
    def number(self) -> int:
        """Of the partition; 0 for the whole disk."""
        return self.partition.number if self.partition else 0

    @property
    def words(self) -> str:
        return f"partition {self.number}" if self.partition else "the file system"

    @property
    def read(self) -> Reader:
        return window(self.disk, self.offset, self.size)

    @cached_property
    def content(self) -> FileSystem | None:
        """Its mark; None if that is not known."""
        try:
            return identify(self.read, self.size)
        except DoubtError:
            return None

    @property
    def kind(self) -> str:
        return self.content.kind if self.content else ""

    @property
    def is_ext(self) -> bool:
        return self.kind in {"ext2", "ext3", "ext4"}

    @property
    def is_opaque(self) -> bool:
        """It may hold file systems, or ids, that are not seen from outside."""
        if self.partition and self.partition.type_name in _NO_FILE_SYSTEM:
            return False
        return self.content is None or self.kind in OPAQUE

    @cached_property
    def tree(self) -> Tree:
        """Its files. Where they cannot be read, each call of the tree raises `DoubtError`."""
        try:
            if self.is_ext:
                from amistream.source.disks.ext4.files import Ext4Tree  # noqa: PLC0415 - for nothing on most volumes

                return Ext4Tree(self.read, self.size)
            if self.kind == "xfs":
                from amistream.source.disks.xfs.files import XfsTree  # noqa: PLC0415 - as above

                return XfsTree(self.read, self.size)
        except DoubtError as doubt:
            return _Unread(str(doubt))
        return _Unread(f"the files of {self.kind or 'an unknown file system'} are not read")


@dataclass(frozen=True)
class _Unread:
    """A file system whose files cannot be read, so that a doubt about /home is none about /."""

    doubt: str
    root = 0

    def node(self, _number: int) -> Node:
        raise DoubtError(self.doubt)

    def entries(self, _directory: Node) -> Iterator[tuple[str, int]]:
        raise DoubtError(self.doubt)

    def content(self, _file: Node, _offset: int, _length: int) -> bytes:
        raise DoubtError(self.doubt)


class Disk:
    """A disk of `size` bytes. Its calls raise `DoubtError` only where `read` does."""

    def __init__(self, read: Reader, size: int) -> None:
        self.read = read
        self.size = size

    @cached_property
    def table(self) -> PartitionTable:
        return read_table(self.read, self.size)

    @cached_property
    def volumes(self) -> tuple[Volume, ...]:
        """The partitions that lie within the disk, or the disk itself if it has no table. Raises `DoubtError`."""
        if self.table.kind is TableKind.NONE:
            return (Volume(self.read, None, 0, self.size),)
        if len(self.table.partitions) > MOST_PARTITIONS:
            raise DoubtError(f"it has more than {MOST_PARTITIONS} partitions")
        return tuple(
            Volume(self.read, each, each.offset, each.size)
            for each in self.table.partitions
            if each.size and each.end <= self.size and not each.extended
        )

    @property
    def is_bare(self) -> bool:
        """It is a file system from its first byte on, without a table."""
        return self.table.kind is TableKind.NONE and self.volumes[0].content is not None

    @property
    def has_efi_system(self) -> bool:
        return any(each.type_name == EFI_SYSTEM for each in self.table.partitions)

    def volume(self, number: int) -> Volume | None:
        return next((each for each in self.volumes if each.number == number), None)

    def opaque(self) -> Iterator[Volume]:
        return (each for each in self.volumes if each.is_opaque)
