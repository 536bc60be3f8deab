"""Pass one: reads the metadata of a live tree into columns, by the rules of a selection.

Directories are opened one below the other (`handles`). Further layers may lie over the tree (`layers`): each directory
is then read in all that have it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amistream.source.tree.admission import Admission
from amistream.source.tree.crossing import STAYS_EMPTY, Crossing
from amistream.source.tree.geometry import NoRoomError
from amistream.source.tree.handles import Handles, mount_of, open_directory
from amistream.source.tree.layers import Layer
from amistream.source.tree.merged import Chosen, Found, Place, Seen, entries_of, read_names
from amistream.source.tree.plain import PlainFiles
from amistream.source.tree.profiles import BLOCK, Profile
from amistream.source.tree.replaced import Replaced, add_replaced, take_replaced
from amistream.source.tree.report import Fate, Report
from amistream.source.tree.rows import RowMaker, device_rows, emptied, make_row
from amistream.source.tree.select import Selection
from amistream.source.tree.surroundings import StoppedError, Surroundings
from amistream.source.tree.tree import KIND_BITS, LOST_AND_FOUND, LOST_AND_FOUND_NAME, ROOT, Row, Tree

FIRST_CALL = 100_000
"""Files of a walk that takes some seconds, and is worth a word."""
WEIGHED_AT_ONCE = 1000
"""Files whose data is added up at once, to find a tree that is too large before all of it is walked. Guess."""
_DEV = b"dev"


LONGEST_PATH = 16_384
"""Bytes of a directory's path: four times as many as the kernel takes. All below costs as much time and memory."""


class TooDeepError(Exception):
    """A directory has a longer path than `LONGEST_PATH`."""

    def __init__(self, path: bytes) -> None:
        super().__init__()
        self.path = path


@dataclass(slots=True)
class _Directory:
    """A directory that is to be read."""

    row: int
    folder: bytes
    """Path of the directory above, which is one and the same for all that wait there."""
    name: bytes
    layers: tuple[int, ...]
    """The layers that have it, the uppermost first."""
    mount: int
    """In layer 0."""
    path: bytes = b""
    """From the tree's root on, as `etc/ssh`; empty for the root. Only while it is read: paths may be long."""


class Walk:
    """One walk. The result is in `tree` and `report`."""

    def __init__(
        self,
        layers: Sequence[Layer],
        profile: Profile,
        selection: Selection,
        around: Surroundings,
    ) -> None:
        """`layers`: the tree, and what lies over it. Their descriptors stay the caller's."""
        self.tree = Tree()
        self.report = Report()
        self._layers = layers
        self._profile = profile
        self._around = around
        self._empties = selection.empties_any
        self._admission = Admission(layers, selection, around, self.report)
        self._crossing = Crossing(around, self.report)
        self._rows = RowMaker(layers, profile, self.report)
        self._plain = PlainFiles(layers, selection, around, self.tree, self._rows)
        self._handles = [
            Handles(layer.root, self.tree, number, member=layer.member) for number, layer in enumerate(layers)
        ]
        self._linked: dict[tuple[int, int], int] = {}
        """Rows of the inodes with several names."""
        self._waiting: list[_Directory] = []
        self._stopped: Callable[[], bool] = lambda: False

    def run(
        self,
        stopped: Callable[[], bool] = lambda: False,
        walked: Callable[[int], None] = lambda _: None,
        *,
        most: int | None = None,
    ) -> None:
        """Walk the whole tree. Raises OSError for its root, `TooDeepError`, and `StoppedError` once it is `stopped`.

        `walked` hears how many files there are so far, whenever they have doubled. Raises `NoRoomError` once the files
        have more data than `most` bytes.
        """
        self._stopped = stopped
        next_call = FIRST_CALL
        weighed = data = 0
        try:
            self._add_root()
            while self._waiting:
                self._read(self._waiting.pop())
                if most is not None and len(self.tree) >= weighed + WEIGHED_AT_ONCE:
                    data += self._data_blocks(weighed) * BLOCK
                    weighed = len(self.tree)
                    if data > most:
                        raise NoRoomError(data)
                while len(self.tree) > next_call:
                    walked(next_call)
                    next_call *= 2
        finally:
            for handles in self._handles:
                handles.close()

    def has_taken(self, path: bytes, place: bytes) -> bool:
        """True if the entry with this path in the tree is the very file or directory that is at a place now."""
        tree, row = self.tree, ROOT
        for step in path.split(b"/"):
            first, count = tree.entries.get(row, (0, 0))
            inside = (entry for entry in range(first, first + count) if tree.name_of(entry) == step)
            if (entry := next(inside, None)) is None:
                return False
            row = tree.entry_row[entry]
        try:
            about = os.lstat(place)
        except OSError:
            return False
        return tree.layer[row] == 0 and (about.st_dev, about.st_ino) == tree.identity(row, 0)

    def _data_blocks(self, first: int) -> int:
        """Blocks of the files from this row on."""
        tree = self.tree
        rows = range(first, len(tree))
        return sum(tree.data_blocks(row) for row in rows if tree.mode[row] & KIND_BITS == stat.S_IFREG)

    def _add_root(self) -> None:
        """Add the root: that of the tree, or as a script left it. Others are only places for what lies over it."""
        numbers = range(len(self._layers))
        own = max(number for number in numbers if not number or self._layers[number].is_overlayfs)
        for number in numbers:
            about = os.fstat(self._layers[number].root)
            self.tree.below[ROOT, number] = about.st_dev, about.st_ino
        self.tree.add(self._rows.root(own), ROOT)
        self._waiting.append(_Directory(ROOT, b"", b"", tuple(reversed(numbers)), mount_of(self._layers[0].root)))

    def _read(self, directory: _Directory) -> None:
        """Read one directory: its rows and names, in the order of the names."""
        tree, row = self.tree, directory.row
        directory.path = b"/".join(filter(None, (directory.folder, directory.name)))
        if len(directory.path) > LONGEST_PATH:
            raise TooDeepError(directory.path)
        found = self._names_in(directory)
        if row == ROOT:
            self._add_lost_and_found(entries_of(LOST_AND_FOUND_NAME, found.pop(LOST_AND_FOUND_NAME, ())))
        changes = take_replaced(self._around, directory.path, found, self.report) if directory.layers else []
        first = len(tree.entry_row)
        prefix = directory.path + b"/" if directory.path else b""
        below = self._add_names(directory, prefix, found)
        for file in changes:
            self._replace(directory, prefix + file.name, file)
        if row == ROOT:
            tree.name(LOST_AND_FOUND, LOST_AND_FOUND_NAME)
            tree.entry[LOST_AND_FOUND] = len(tree.entry_row) - 1
        if directory.path == _DEV and len(tree.entry_row) == first:
            for name, device in device_rows(tree.mtime[ROOT], tree.ctime[ROOT]):
                tree.name(tree.add(device, row), name)
        tree.entries[row] = first, len(tree.entry_row) - first
        self._waiting += reversed(below)

    def _add_names(self, directory: _Directory, prefix: bytes, found: Found) -> list[_Directory]:
        """Add all names in a directory; returns the directories that are to be read."""
        below = []
        names = iter(sorted(found))
        alone: tuple[Place, ...] = next(iter(found.values()), ()) if len(directory.layers) == 1 else ()
        if alone and self._plain.enter(directory.row, directory.path, alone[0]):
            while (seen := self._plain.add(names, self._stopped)) is not None:
                if inside := self._add(directory, seen.name, prefix + seen.name, [seen]):
                    below.append(inside)
        for name in names:
            if self._stopped():
                raise StoppedError
            if inside := self._add(directory, name, prefix + name, entries_of(name, found[name])):
                below.append(inside)
        return below

    def _names_in(self, directory: _Directory) -> Found:
        """The names of a directory in all layers that have it."""
        found: Found = {}
        for layer in directory.layers:
            try:
                read_names(found, layer, self._handles[layer].directory(directory.row))
            except OSError as error:
                if directory.row == ROOT:
                    raise
                self._admission.miss(directory.path, error, Fate.NOT_LISTED)
        return found

    def _add(self, above: _Directory, name: bytes, path: bytes, found: Sequence[Seen]) -> _Directory | None:
        """Add one name; returns it if it is a directory that is to be read."""
        if path in self._around.remote:
            found = [seen for seen in found if seen.layer or not seen.listed_as_directory]
            if not found:
                self._add_remote(above, name, path)
                return None
        try:
            return self._add_chosen(above, name, path, self._admission.choose(path, found))
        except OSError as error:
            self._admission.miss(path, error)
            return None
        finally:
            for seen in found:
                seen.close()

    def _add_chosen(self, above: _Directory, name: bytes, path: bytes, kept: Chosen) -> _Directory | None:
        """Add what comes in under a name, if anything does. Raises OSError if it cannot be read."""
        if not kept:
            return None
        tree = self.tree
        seen, about = kept[0]
        if self._empties and (rule := self._admission.rule_to_empty(seen, path, about)):
            self.report.add(Fate.EMPTIED, path, rule)
            tree.name(tree.add(emptied(self._rows.row(seen, about, path)), above.row), name)
            return None
        directory = stat.S_ISDIR(about.st_mode)
        if path in self._around.mounts and not (seen.layer or directory) and self._crossing.is_mounted(seen):
            self.report.add(Fate.MOUNTED, path)
        if about.st_nlink > 1 and self._add_link(name, about, path):
            return None
        row = tree.add(self._rows.row(seen, about, path), above.row)
        tree.name(row, name)
        if not directory:
            if about.st_nlink > 1:
                self._linked[about.st_dev, about.st_ino] = row
            return None
        for other, of_other in kept[1:]:
            tree.below[row, other.layer] = of_other.st_dev, of_other.st_ino
        return self._directory(above, row, path, kept)

    def _directory(self, above: _Directory, row: int, path: bytes, kept: Chosen) -> _Directory:
        """A directory that was added, in the layers that have a part in it."""
        layers, mount = [seen.layer for seen, _ in kept], above.mount
        if layers[-1] == 0:
            device, _ = self.tree.identity(above.row, 0)
            mount = self._crossing.mount_below(mount, device, path, *kept[-1])
            if mount == STAYS_EMPTY:
                layers.pop()
        return _Directory(row, above.path, path.rpartition(b"/")[2], tuple(layers), mount)

    def _add_remote(self, above: _Directory, name: bytes, path: bytes) -> None:
        """Add an empty directory in place of a mount that is not looked at, because its server may never answer."""
        if self._admission.leaves_out_directory(path, name):
            return
        tree = self.tree
        row = Row(mode=stat.S_IFDIR | 0o755, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        tree.name(tree.add(row, above.row), name)
        self._crossing.leave_empty(path)

    def _replace(self, above: _Directory, path: bytes, file: Replaced) -> None:
        """Add a file that the job changes. Raises OSError if the one that was there cannot be read."""
        try:
            kept = self._admission.choose(path, file.found)
            seen = kept[0][0] if kept else None
            former = self._rows.row(*kept[0], path) if kept else None
            add_replaced(self.tree, above.row, file, former, seen)
        finally:
            for seen in file.found:
                seen.close()

    def _add_link(self, name: bytes, about: os.stat_result, path: bytes) -> bool:
        """Add a further name of an inode that has been added; returns whether it was one."""
        row = self._linked.get((about.st_dev, about.st_ino))
        if row is None:
            return False
        if self.tree.links[row] >= self._profile.most_links:
            self.report.add(Fate.SPLIT, path)
            return False
        self.tree.name(row, name)
        return True

    def _add_lost_and_found(self, found: Sequence[Seen]) -> None:
        """Row 1 is lost+found, which e2fsck wants: as the tree has it, without contents, or made up."""
        tree = self.tree
        row = Row(mode=stat.S_IFDIR | 0o700, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        for seen in found:
            about = seen.about()
            if stat.S_ISDIR(about.st_mode) and not seen.layer:
                row = make_row(about)
            if seen.above.member is not None or not _is_empty(seen):
                self.report.add(Fate.LEFT_OUT, LOST_AND_FOUND_NAME, "always: contents of lost+found")
        tree.add(row, ROOT)


def _is_empty(seen: Seen) -> bool:
    try:
        opened = open_directory(seen.name, seen.above.descriptor)
    except OSError:
        return False
    try:
        with os.scandir(opened) as inside:
            return next(inside, None) is None
    finally:
        os.close(opened)
