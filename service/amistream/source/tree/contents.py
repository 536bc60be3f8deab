"""Reads the contents of a tree's files, and notices each one that is not what it was when the tree was walked.

A file that grew is cut at its earlier size, one that shrank or is gone is filled with zeros: whatever happens, the file
system around it stays right. A file that cannot be read is an error, unless the job allows that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from amistream.errors import SourceError
from amistream.host.mount_table import MountWatch
from amistream.source.tree.handles import Handles, OpenDirectory, is_gone, open_regular
from amistream.source.tree.layers import Layer
from amistream.source.tree.records import packed_time
from amistream.source.tree.report import MOVED, Fate, Report, shown
from amistream.source.tree.tree import NOBODY, Tree

_NONE = -1


class Contents:
    """The files of one tree. For one thread at a time."""

    def __init__(
        self,
        layers: Sequence[Layer],
        tree: Tree,
        report: Report,
        *,
        allow_unreadable: bool,
        watch: MountWatch | None = None,
    ) -> None:
        """`layers` are those that were walked, `watch` began before that. They stay the caller's."""
        self._tree = tree
        self._report = report
        self._allow_unreadable = allow_unreadable
        self._handles = [
            Handles(layer.root, tree, number, member=layer.member, watch=watch) for number, layer in enumerate(layers)
        ]
        self._row = self._descriptor = _NONE
        report.keep(*MOVED)  # a file that vanished during the walk is missing in each pass

    def read_into(self, row: int, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from a file; what is not there any more is zeros. Raises `SourceError`.

        A change during the read is noticed by `compare_all`, which looks at the same times later.
        """
        tree = self._tree
        if row in tree.given:
            piece = tree.given[row][offset : offset + len(buffer)]
            buffer[:] = piece.ljust(len(buffer), b"\0")
            return
        length, left = len(buffer), tree.size[row] - offset
        wanted = min(length, left)
        done = 0
        if (row == self._row and self._descriptor != _NONE) or self._open(row):
            try:
                while done < wanted:
                    count = os.preadv(self._descriptor, [buffer[done:wanted]], offset + done)
                    if not count:
                        self._report.add(Fate.SHRUNK, tree.path(row))
                        break
                    done += count
            except OSError as error:
                self._unreadable(row, error)
        if done < length:
            buffer[done:] = bytes(length - done)
        if left <= length:
            self._leave()

    def compare_all(self) -> None:
        """Look at every inode again: a file that was read early may have changed later."""
        tree = self._tree
        columns = (tree.mode, tree.inode, tree.entry, tree.parent, tree.layer)
        for row, (mode, inode, entry, parent, layer) in enumerate(zip(*columns, strict=True)):
            if inode == NOBODY or stat.S_ISDIR(mode):
                continue
            try:
                above = self._handles[layer].directory(parent)
                about = os.stat(tree.name_of(entry), dir_fd=above.descriptor, follow_symlinks=False)
            except OSError as error:
                fate = Fate.GONE if is_gone(error) else Fate.CHANGED
                self._report.add(fate, tree.path(row))
            else:
                if change := self._fate_of(row, about):
                    self._report.add(change, tree.path(row))

    def forget(self) -> None:
        """Prepare for another reading of everything."""
        self._leave()
        self._report.forget(*MOVED)

    def close(self) -> None:
        self._leave()
        for handles in self._handles:
            handles.close()

    def _above(self, row: int) -> OpenDirectory:
        """The open directory that has the first name of an inode."""
        return self._handles[self._tree.layer[row]].directory(self._tree.parent[row])

    def _open(self, row: int) -> bool:
        if row == self._row:
            return self._descriptor != _NONE
        if self._row != _NONE:
            self._leave()
        tree = self._tree
        self._row = row
        try:
            name = tree.name_of(tree.entry[row])
            self._descriptor = open_regular(name, self._above(row), *tree.identity(row, tree.layer[row]))
        except OSError as error:
            if is_gone(error):
                self._report.add(Fate.GONE, tree.path(row))
            else:
                self._unreadable(row, error)
            return False
        return True

    def _leave(self) -> None:
        if self._descriptor != _NONE:
            os.close(self._descriptor)
        self._row = self._descriptor = _NONE

    def _unreadable(self, row: int, error: OSError) -> None:
        path = self._tree.path(row)
        if not self._allow_unreadable:
            raise SourceError(
                "source.read_error",
                f"cannot read {shown(path)} of the tree: {error.strerror}",
                hint="leave it out with --exclude, or give --allow-unreadable: then it reads as zeros",
                field="source",
            ) from error
        self._report.add(Fate.UNREADABLE, path, error.strerror or "")

    def _fate_of(self, row: int, about: os.stat_result) -> Fate | None:
        """The change of an inode since the walk, if there is one."""
        tree = self._tree
        kind, size = stat.S_IFMT(tree.mode[row]), tree.size[row]
        if (
            about.st_ino != tree.inode[row]
            or about.st_dev != tree.devices[tree.device[row]]
            or stat.S_IFMT(about.st_mode) != kind  # something else has got the number
        ):
            return Fate.GONE
        if about.st_size != size and kind == stat.S_IFREG:
            return Fate.CUT if about.st_size > size else Fate.SHRUNK
        if packed_time(about.st_mtime_ns) != tree.mtime[row] or packed_time(about.st_ctime_ns) != tree.ctime[row]:
            return Fate.CHANGED
        return None
