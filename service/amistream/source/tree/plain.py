"""Adds plain files to a tree: regular ones with one name and without holes, nearly all that a system has.

Each is asked the same as any other entry (`admission`, `rows`), in fewer steps. All for which a rule may have an answer
are left to the general way, and so is every error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from amistream.source.tree.entries import may_have_holes
from amistream.source.tree.handles import open_regular
from amistream.source.tree.layers import Layer
from amistream.source.tree.merged import Place, Seen, path_for_kernel
from amistream.source.tree.rows import RowMaker
from amistream.source.tree.secrets import LARGEST, SMALLEST, private_key_in
from amistream.source.tree.select import Selection
from amistream.source.tree.surroundings import StoppedError, Surroundings
from amistream.source.tree.tree import KIND_BITS, Tree
from amistream.source.tree.xattrs import Attribute

_AT_ONCE = 256
"""Files that are added to the tree together. An lstat takes several times the memory of a row."""


class PlainFiles:
    """The plain files of one walk, a directory at a time."""

    # Of the directory that was entered last.
    _row: int
    _prefix: bytes
    _place: Place
    _suspects: frozenset[bytes]
    _looks: bool

    def __init__(
        self, layers: Sequence[Layer], selection: Selection, around: Surroundings, tree: Tree, rows: RowMaker
    ) -> None:
        self._layers = layers
        self._selection = selection
        self._around = around
        self._tree = tree
        self._rows = rows
        self._own_inodes = frozenset(inode for _, inode in around.own)
        self._mounted_in = frozenset(point.rpartition(b"/")[0] for point in around.mounts)
        self._files: list[os.stat_result] = []
        self._names: list[bytes] = []
        self._attributes: list[tuple[Attribute, ...]] = []

    def enter(self, row: int, folder: bytes, place: Place) -> bool:
        """Prepare for the names of a directory that is in one layer alone. Returns False if none can be added here."""
        layer = self._layers[place[0]]
        if layer.member is not None or folder in self._mounted_in:
            return False
        prefix = folder + b"/" if folder else b""
        suspects = self._selection.suspects(b"/" + prefix) if layer.follows_rules else frozenset()
        if suspects is None:
            return False
        self._row, self._prefix, self._place, self._suspects = row, prefix, place, suspects
        self._looks = layer.follows_rules and self._selection.looks_at_content
        return True

    def add(self, names: Iterator[bytes], stopped: Callable[[], bool]) -> Seen | None:
        """Add files up to the first entry that is none of these; returns that, with its lstat if there is one.

        Raises `StoppedError` once it is `stopped`.
        """
        place, suspects, own_inodes = self._place, self._suspects, self._own_inodes
        descriptor, own_names = place[1].descriptor, self._around.own_names
        looks, asks_all = self._looks, not self._around.privileged
        files, added, attributes = self._files, self._names, self._attributes
        other = None
        for name in names:
            if stopped():
                raise StoppedError
            try:
                about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                other = Seen(name, place)
                break
            size = about.st_size
            if (
                about.st_mode & KIND_BITS != stat.S_IFREG
                or about.st_nlink > 1
                or name in suspects
                or about.st_ino in own_inodes
                or may_have_holes(about)
                or (own_names is not None and own_names.fullmatch(self._prefix + name))
            ):
                other = Seen(name, place, about)
                break
            if looks and SMALLEST <= size <= LARGEST:
                found = self._look_inside(name, about, size)
            elif asks_all and size:
                found = self._look_inside(name, about, 0)
            else:
                found = self._rows.attributes(path_for_kernel(place[1], name), self._prefix + name, place[0])
            if found is None:
                other = Seen(name, place, about)
                break
            files.append(about)
            added.append(name)
            attributes.append(found)
            if len(files) == _AT_ONCE:
                self._add_rows()
        if files:
            self._add_rows()
        return other

    def _add_rows(self) -> None:
        self._tree.add_files(self._files, self._names, self._attributes, layer=self._place[0], parent=self._row)
        self._files.clear()
        self._names.clear()
        self._attributes.clear()

    def _look_inside(self, name: bytes, about: os.stat_result, size: int) -> tuple[Attribute, ...] | None:
        """Open a file; returns its attributes, or None for one that holds a private key or cannot be read."""
        layer, above = self._place
        try:
            opened = open_regular(name, above, about.st_dev, about.st_ino, just_seen=True)
        except OSError:
            return None
        try:
            if size and private_key_in(os.read(opened, size)):
                return None
            return self._rows.attributes(opened, self._prefix + name, layer)
        except OSError:
            return None
        finally:
            os.close(opened)
