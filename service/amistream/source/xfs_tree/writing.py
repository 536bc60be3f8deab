"""Writes a walked tree into an empty directory, as root: what the image of an ext4 has by itself.

All goes by descriptors, one name at a time, so a path may be longer than the kernel takes. Contents come from the same
reader as those of other images, with the same witnesses.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable

from amistream.source.tree.contents import Contents
from amistream.source.tree.profiles import BLOCK
from amistream.source.tree.records import nanoseconds_of
from amistream.source.tree.surroundings import StoppedError
from amistream.source.tree.tree import LOST_AND_FOUND, NOBODY, ROOT, Tree
from amistream.source.tree.xattrs import of_kernel
from amistream.values import GIB, MIB

_AT_ONCE = MIB
FIRST_CALL = GIB
"""Bytes of a copy that takes some seconds, and is worth a word."""
_MOST_OPEN = 64
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """Writes one tree, once."""

    def __init__(self, tree: Tree, contents: Contents, root: int, stopped: Callable[[], bool]) -> None:
        """`root` is the open directory to fill; it stays the caller's."""
        self._tree = tree
        self._contents = contents
        self._root = root
        self._stopped = stopped
        self._open: OrderedDict[int, int] = OrderedDict()
        self._buffer = memoryview(bytearray(_AT_ONCE))
        self._copied = 0
        self._next_call = FIRST_CALL
        self._says: Callable[[int], None] = lambda _: None

    def run(self, copied: Callable[[int], None] = lambda _: None) -> None:
        """Write it all. Raises OSError, `SourceError` for a file that cannot be read, and `StoppedError`.

        `copied` hears how many bytes are written, whenever they have doubled.
        """
        tree, self._says = self._tree, copied
        try:
            for above, (first, count) in tree.entries.items():
                for entry in range(first, first + count):
                    self._enter(above, entry)
            # Last: a default ACL would go to all that is made in its directory, and each new name changes the times.
            for row in range(len(tree) - 1, -1, -1):
                if stat.S_ISDIR(tree.mode[row]) and not self._is_made_up(row):
                    self._dress(row, self._directory(row))
        finally:
            while self._open:
                os.close(self._open.popitem()[1])

    def _is_made_up(self, row: int) -> bool:
        """True for a lost+found that the tree has not: xfs needs none."""
        return row == LOST_AND_FOUND and self._tree.inode[row] == NOBODY

    def _enter(self, above: int, entry: int) -> None:
        if self._stopped():
            raise StoppedError
        tree = self._tree
        row, name = tree.entry_row[entry], tree.name_of(entry)
        if self._is_made_up(row):
            return
        here = os.dup(self._directory(above))
        try:
            if tree.entry[row] != entry:
                first = tree.name_of(tree.entry[row])
                source = self._directory(tree.parent[row])
                os.link(first, name, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
            else:
                self._make(row, name, here)
        finally:
            os.close(here)

    def _make(self, row: int, name: bytes, here: int) -> None:
        tree, kind = self._tree, stat.S_IFMT(self._tree.mode[row])
        match kind:
            case stat.S_IFDIR:
                os.mkdir(name, 0o700, dir_fd=here)
                return
            case stat.S_IFREG:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                opened = os.open(name, flags, 0o600, dir_fd=here)
                try:
                    self._fill(row, opened)
                    self._dress(row, opened)
                finally:
                    os.close(opened)
                return
            case stat.S_IFLNK:
                os.symlink(tree.target[row], name, dir_fd=here)
            case _:
                os.mknod(name, kind | 0o600, os.makedev(*tree.special.get(row, (0, 0))), dir_fd=here)
        self._dress_by_name(row, name, here)

    def _fill(self, row: int, opened: int) -> None:
        size = self._tree.size[row]
        os.ftruncate(opened, size)
        for start, count in self._tree.data_runs(row):
            end = min((start + count) * BLOCK, size)
            for offset in range(start * BLOCK, end, _AT_ONCE):
                if self._stopped():
                    raise StoppedError
                piece = self._buffer[: min(_AT_ONCE, end - offset)]
                self._contents.read_into(row, offset, piece)
                done = 0
                while done < len(piece):
                    done += os.pwrite(opened, piece[done:], offset + done)
                self._count(done)

    def _count(self, size: int) -> None:
        self._copied += size
        while self._copied > self._next_call:
            self._says(self._next_call)
            self._next_call *= 2

    def _dress(self, row: int, opened: int) -> None:
        """Give an open file or directory its owner, mode, attributes and times, in the only order that keeps all."""
        tree = self._tree
        os.fchown(opened, tree.uid[row], tree.gid[row])
        os.fchmod(opened, stat.S_IMODE(tree.mode[row]))
        for each in tree.xattr_sets[tree.xattrs[row]]:
            os.setxattr(opened, *of_kernel(each))
        time = nanoseconds_of(tree.mtime[row])
        os.utime(opened, ns=(time, time))

    def _dress_by_name(self, row: int, name: bytes, here: int) -> None:
        """The same for what cannot be opened: links, devices, pipes and sockets."""
        tree = self._tree
        os.chown(name, tree.uid[row], tree.gid[row], dir_fd=here, follow_symlinks=False)
        if not stat.S_ISLNK(tree.mode[row]):
            os.chmod(name, stat.S_IMODE(tree.mode[row]), dir_fd=here)
        place = b"/proc/self/fd/%d/%s" % (here, name)
        for each in tree.xattr_sets[tree.xattrs[row]]:
            os.setxattr(place, *of_kernel(each), follow_symlinks=False)
        time = nanoseconds_of(tree.mtime[row])
        os.utime(name, ns=(time, time), dir_fd=here, follow_symlinks=False)

    def _directory(self, row: int) -> int:
        """A descriptor of a directory that was made, valid until the next call."""
        way = []
        while row != ROOT and row not in self._open:
            way.append(row)
            row = self._tree.parent[row]
        if row != ROOT:
            self._open.move_to_end(row)
        here = self._root if row == ROOT else self._open[row]
        for below in reversed(way):
            tree = self._tree
            here = self._open[below] = os.open(tree.name_of(tree.entry[below]), _FOLDER, dir_fd=here)
            if len(self._open) > _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
        return here
