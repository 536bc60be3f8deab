"""A tree that was copied into an xfs, as a volume: the used blocks of a file that has no name any more."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from amistream.ports.volume import Kind
from amistream.source.disk_reader import reader_of
from amistream.source.disks.disk_map import map_disk
from amistream.source.disks.xfs.used import used_blocks
from amistream.source.extents import join_extents
from amistream.source.file import FileVolume
from amistream.source.tree.profiles import XFS
from amistream.source.tree.report import Report
from amistream.source.tree.tree import Tree
from amistream.values import Extent


class CopiedVolume:
    """A volume over the file of `image`, which it owns. The tree is not read any more."""

    def __init__(self, path: Path, image: int, *, tree: Tree, report: Report) -> None:
        """Raises `DoubtError` unless the file system in the file is whole and was unmounted."""
        self._file = FileVolume(path, image)
        self.path = path
        self.kind = Kind.TREE
        self.size = self._file.size
        self.mtime = self._file.mtime
        self.identity = self._file.identity
        self.report = report
        self.digest = f"xfs {uuid4().hex}"
        """Another one each time: no later run makes the same bytes, since the kernel chooses places and numbers."""
        self.newest = max(tree.ctime)
        self.inodes = len(tree)
        self.profile = XFS.name
        self._tree = tree
        read = reader_of(self._file)
        used_blocks(read, self.size, frozen=False)
        self._extents = join_extents(map_disk(read, self.size).used(self._file.extents()), self.size)

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        return self._file.read_into(offset, buffer)

    def will_need(self, offset: int, length: int) -> None:
        self._file.will_need(offset, length)

    def extents(self) -> tuple[Extent, ...]:
        return self._extents

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def newer_than(self, time: int) -> Iterator[bytes]:
        """The paths of all but directories that changed after a time, which is that of another walk's `newest`."""
        tree = self._tree
        for row, changed in enumerate(tree.ctime):
            if changed > time and not stat.S_ISDIR(tree.mode[row]):
                yield tree.path(row)

    def interrupt(self) -> None:
        """Do nothing: a read of a file ends by itself."""

    def rewind(self) -> None:
        """Do nothing: the file can be read again at any time."""

    def close(self) -> None:
        self._file.close()
