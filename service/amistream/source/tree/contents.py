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
from amistream.source.tree.handles import Handles, is_gone, open_regular
from amistream.source.tree.layers import Layer
from amistream.source.tree.profiles import BLOCK
from amistream.source.tree.records import TIME_SHIFT, packed_time
from amistream.source.tree.report import MOVED, Fate, Report, shown
from amistream.source.tree.tree import KIND_BITS, NOBODY, Tree

_NONE = -1
_ZEROS = memoryview(bytes(BLOCK))


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
        wanted = min(left, length)
        done = 0
        opened = self._descriptor if row == self._row else self._open(row)
        if opened != _NONE:
            try:
                # Of a file that grew more may come than is wanted.
                done = os.preadv(opened, [buffer], offset)
                while done < wanted:
                    count = os.preadv(opened, [buffer[done:wanted]], offset + done)
                    if not count:
                        self._report.add(Fate.SHRUNK, tree.path(row))
                        break
                    done += count
            except OSError as error:
                self._unreadable(row, error)
        if wanted < length or done < wanted:
            done = max(0, min(done, wanted))  # the last block may be read from behind the last byte on
            buffer[done:] = _ZEROS[: length - done] if length - done <= BLOCK else bytes(length - done)
        if left <= length:
            self._leave()

    def compare_all(self) -> None:
        """Look at every inode again, once all is read: a file that was read early may have changed later.

        A look at each file behind its last read would find no more. Every change moves the ctime, which no call sets,
        so that it still is another one than the walk saw. So is that of a new file with an old inode's number, and of
        a file that was moved away and back. FAT alone keeps no ctime: there a time that is set back hides a change.
        """
        tree, devices = self._tree, self._tree.devices
        witness = (tree.inode, tree.device, tree.mode, tree.size, tree.mtime, tree.ctime)
        place = (tree.layer, tree.parent, tree.entry)
        latest, above = (_NONE, _NONE), _NONE
        for row, columns in enumerate(zip(*witness, *place, strict=True)):
            inode, device, mode, size, mtime, ctime, layer, parent, entry = columns
            if inode == NOBODY or mode & KIND_BITS == stat.S_IFDIR:
                continue
            try:
                if latest != (layer, parent):
                    above = self._handles[layer].directory(parent).descriptor
                    latest = layer, parent
                about = os.stat(tree.name_of(entry), dir_fd=above, follow_symlinks=False)
            except OSError as error:
                fate = Fate.GONE if is_gone(error) else Fate.CHANGED
                self._report.add(fate, tree.path(row))
                continue
            # Nearly all are the same to the bit; the others may still be, in the form of the tree.
            if (
                about.st_ino != inode
                or about.st_ctime_ns + TIME_SHIFT != ctime
                or about.st_mtime_ns + TIME_SHIFT != mtime
                or about.st_size != size
                or about.st_mode != mode
                or about.st_dev != devices[device]
            ) and (change := self._fate_of(row, about)):
                self._report.add(change, tree.path(row))

    def forget(self) -> None:
        """Prepare for another reading of everything."""
        self._leave()
        self._report.forget(*MOVED)

    def close(self) -> None:
        self._leave()
        for handles in self._handles:
            handles.close()

    def _open(self, row: int) -> int:
        """Open a file; returns its descriptor, or `_NONE`."""
        if self._row != _NONE:
            self._leave()
        tree = self._tree
        self._row = row
        try:
            above = self._handles[tree.layer[row]].directory(tree.parent[row])
            device, name = tree.devices[tree.device[row]], tree.name_of(tree.entry[row])
            self._descriptor = open_regular(name, above, device, tree.inode[row])
        except OSError as error:
            if is_gone(error):
                self._report.add(Fate.GONE, tree.path(row))
            else:
                self._unreadable(row, error)
        return self._descriptor

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
