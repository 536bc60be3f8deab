"""Pass one: reads the metadata of a live tree into columns, by the rules of a selection.

Directories are opened one below the other (`handles`). Mounts are known by the kernel's table and its numbers of
mounts, because numbers of devices do not tell: a subvolume of btrfs has one of its own, a bind mount of the same disk
has none. Further layers may lie over the tree (`layers`): each directory is then read in all that have it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from amistream.source.tree.entries import Runs, find_runs, read_attributes
from amistream.source.tree.fstab import LARGEST
from amistream.source.tree.handles import Handles, is_gone, mount_of, open_directory, open_regular, read_link
from amistream.source.tree.layers import Layer
from amistream.source.tree.merged import Chosen, Found, Seen, choose, read_names
from amistream.source.tree.profiles import Profile
from amistream.source.tree.records import packed_time
from amistream.source.tree.report import Fate, Report, shown
from amistream.source.tree.select import Selection
from amistream.source.tree.surroundings import NEVER_CROSSED, Surroundings
from amistream.source.tree.tree import LOST_AND_FOUND, LOST_AND_FOUND_NAME, NOBODY, ROOT, Row, Tree
from amistream.source.tree.xattrs import Attribute

_NODES = ((b"console", 0o600, 5, 1), (b"null", 0o666, 1, 3), (b"tty", 0o666, 5, 0), (b"zero", 0o666, 1, 5))
"""The devices that a system needs before it has filled /dev."""
_DEV = b"dev"
_OLD = b".old"
_OWN = "always: a file of this job, of amistream, or swap space"
_STAYS_EMPTY = -1
"""In place of a mount: a directory whose contents are left out."""


class StoppedError(Exception):
    """The walk was stopped."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is to be read."""

    row: int
    path: bytes
    """From the tree's root on, as `etc/ssh`; empty for the root."""
    layers: tuple[int, ...]
    """The layers that have it, the uppermost first."""
    mount: int
    """In layer 0."""

    def inside(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


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
        self._selection = selection
        self._around = around
        self._handles = [Handles(layer.root, self.tree, number) for number, layer in enumerate(layers)]
        self._linked: dict[tuple[int, int], int] = {}
        """Rows of the inodes with several names."""
        self._waiting: list[_Directory] = []
        self._stopped: Callable[[], bool] = lambda: False

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Walk the whole tree. Raises OSError if its root cannot be read, and `StoppedError` once it is `stopped`."""
        self._stopped = stopped
        try:
            self._add_root()
            while self._waiting:
                self._read(self._waiting.pop())
        finally:
            for handles in self._handles:
                handles.close()

    def _add_root(self) -> None:
        """Add the root: that of the tree, or as a script left it. Others are only places for what lies over it."""
        numbers = range(len(self._layers))
        own = max(number for number in numbers if not number or self._layers[number].is_overlayfs)
        for number in numbers:
            about = os.fstat(self._layers[number].root)
            self.tree.below[ROOT, number] = about.st_dev, about.st_ino
        attributes = self._attributes(f"/proc/self/fd/{self._layers[0].root}", b"", 0, follow=True)
        self.tree.add(_row(os.fstat(self._layers[own].root), attributes, layer=own), ROOT)
        self._waiting.append(_Directory(ROOT, b"", tuple(reversed(numbers)), mount_of(self._layers[0].root)))

    def _read(self, directory: _Directory) -> None:
        """Read one directory: its rows and names, in the order of the names."""
        tree, row = self.tree, directory.row
        found = self._names_in(directory)
        if row == ROOT:
            self._add_lost_and_found(found.pop(LOST_AND_FOUND_NAME, []))
        changes = self._take_replaced(directory, found)
        first = len(tree.entry_row)
        below = [inside for name in sorted(found) if (inside := self._add(directory, name, found[name]))]
        for name, old, change in changes:
            self._replace(directory, name, old, change)
        if row == ROOT:
            tree.name(LOST_AND_FOUND, LOST_AND_FOUND_NAME)
            tree.entry[LOST_AND_FOUND] = len(tree.entry_row) - 1
        if directory.path == _DEV and len(tree.entry_row) == first:
            self._add_nodes(row)
        tree.entries[row] = first, len(tree.entry_row) - first
        self._waiting += reversed(below)

    def _names_in(self, directory: _Directory) -> Found:
        """The names of a directory in all layers that have it."""
        found: Found = {}
        for layer in directory.layers:
            try:
                read_names(found, layer, self._handles[layer].directory(directory.row))
            except OSError as error:
                if directory.row == ROOT:
                    raise
                self._miss(directory.path, error, Fate.NOT_LISTED)
        return found

    def _add(self, above: _Directory, name: bytes, found: Sequence[Seen]) -> _Directory | None:
        """Add one name; returns it if it is a directory that is to be read."""
        if self._stopped():
            raise StoppedError
        path = above.inside(name)
        try:
            kept = self._choose(path, found)
            if not kept:
                return None
            seen, about = kept[0]
            if rule := self._rule_to_empty(seen, path, about):
                self.report.add(Fate.EMPTIED, path, rule)
                self.tree.name(self.tree.add(_emptied(self._row_of(seen, about, path)), above.row), name)
                return None
            if not (seen.layer or stat.S_ISDIR(about.st_mode)) and self._is_mounted(seen, path):
                self.report.add(Fate.MOUNTED, path)
            if about.st_nlink > 1 and self._add_link(name, about, path):
                return None
            new = self._row_of(seen, about, path)
        except OSError as error:
            self._miss(path, error)
            return None
        tree = self.tree
        row = tree.add(new, above.row)
        tree.name(row, name)
        if not stat.S_ISDIR(about.st_mode):
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
            mount = self._mount_of(above, path, *kept[-1])
            if mount == _STAYS_EMPTY:
                layers.pop()
        return _Directory(row, path, tuple(layers), mount)

    def _take_replaced(
        self, directory: _Directory, found: Found
    ) -> list[tuple[bytes, list[Seen], Callable[[bytes], bytes]]]:
        """Take the files out of a directory's names that get another content: name, entries, and the change."""
        taken = []
        for path, change in self._around.replaced.items():
            folder, _, name = path.rpartition(b"/")
            if folder != directory.path or not directory.layers:
                continue
            taken.append((name, found.pop(name, []), change))
            if found.pop(name + _OLD, None):
                self.report.add(Fate.LEFT_OUT, path + _OLD, "another file of the job has its name")
        return taken

    def _replace(self, above: _Directory, name: bytes, found: Sequence[Seen], change: Callable[[bytes], bytes]) -> None:
        """Add a file that the job changes, and the one that was there. Raises OSError if that cannot be read."""
        tree, path = self.tree, above.inside(name)
        new = Row(mode=stat.S_IFREG | 0o644, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        old = b""
        if kept := self._choose(path, found):
            seen, about = kept[0]
            former = replace(self._row_of(seen, about, path), inode=NOBODY, runs=None)
            if stat.S_ISREG(about.st_mode):
                old = _read_whole(seen, about)
                new = replace(former, mtime=new.mtime, ctime=new.ctime)
                former = replace(former, size=len(old))
            row = tree.add(former, above.row)
            tree.name(row, name + _OLD)
            if stat.S_ISREG(about.st_mode):
                tree.given[row] = old
        content = change(old)
        row = tree.add(replace(new, size=len(content)), above.row)
        tree.name(row, name)
        tree.given[row] = content

    def _choose(self, path: bytes, found: Sequence[Seen]) -> Chosen:
        if len(found) > 1 and any(map(self._is_own, found)):
            # A script that touched such a file made a copy of it.
            self.report.add(Fate.LEFT_OUT, path, _OWN)
            return []
        return choose(
            found,
            self._layers,
            left_out=lambda seen, about: self._leaves_out(seen, path, about),
            covered=lambda words: self.report.add(Fate.COVERED, path, words),
        )

    def _is_own(self, seen: Seen) -> bool:
        try:
            about = seen.about()
        except OSError:
            return False
        return (about.st_dev, about.st_ino) in self._around.own

    def _row_of(self, seen: Seen, about: os.stat_result, path: bytes) -> Row:
        """The row of an entry. Raises OSError for a link that cannot be read."""
        target = read_link(seen.name, seen.descriptor) if stat.S_ISLNK(about.st_mode) else b""
        runs = find_runs(seen.name, seen.descriptor, about) if stat.S_ISREG(about.st_mode) else None
        attributes = self._attributes(seen.place, path, seen.layer)
        return _row(about, attributes, target, runs, seen.layer)

    def _leaves_out(self, seen: Seen, path: bytes, about: os.stat_result) -> bool:
        rule = self._rule_for(seen, path, about, follows_rules=self._layers[seen.layer].follows_rules)
        if rule:
            self.report.add(Fate.LEFT_OUT, path, rule)
        return bool(rule)

    def _rule_for(self, seen: Seen, path: bytes, about: os.stat_result, *, follows_rules: bool) -> str:
        """The rule that leaves an entry out, or ''. The job's own files never come in."""
        if (about.st_dev, about.st_ino) in self._around.own or self._around.own_name(path):
            return _OWN
        rule = ""
        if follows_rules:
            rule = self._selection.leaves_out(b"/" + path, seen.name, directory=stat.S_ISDIR(about.st_mode))
        if follows_rules and not rule and stat.S_ISREG(about.st_mode):
            rule = self._selection.leaves_out_file(b"/" + path, seen.name)
        if not rule and stat.S_ISREG(about.st_mode) and not self._rule_to_empty(seen, path, about):
            rule = self._look_inside(seen, path, about, follows_rules=follows_rules)
        return rule

    def _rule_to_empty(self, seen: Seen, path: bytes, about: os.stat_result) -> str:
        """The rule by which an entry comes in as an empty file, or ''."""
        kind = stat.S_IFMT(about.st_mode)
        if kind == stat.S_IFDIR or (kind == stat.S_IFREG and not about.st_size):
            return ""
        return self._selection.empties(b"/" + path, seen.name) if self._layers[seen.layer].follows_rules else ""

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

    def _look_inside(self, seen: Seen, path: bytes, about: os.stat_result, *, follows_rules: bool) -> str:
        """The rule that leaves a regular file out for its content. Records a file that cannot be read."""
        look = follows_rules and self._selection.wants_to_read(about.st_size)
        if not about.st_size or (not look and self._around.privileged):
            return ""
        content = b""
        try:
            opened = open_regular(seen.name, seen.descriptor, about.st_dev, about.st_ino)
            try:
                if look:
                    content = os.read(opened, about.st_size)
            finally:
                os.close(opened)
        except OSError as error:
            self._miss(path, error)
            return ""
        return self._selection.leaves_out_content(b"/" + path, seen.name, content) if look else ""

    def _miss(self, path: bytes, error: OSError, fate: Fate = Fate.UNREADABLE) -> None:
        """Record an entry that cannot be read, or is gone: it may have moved to where the walk has been before."""
        self.report.add(Fate.GONE if is_gone(error) else fate, path, error.strerror or str(error))

    def _attributes(self, place: str, path: bytes, layer: int, *, follow: bool = False) -> tuple[Attribute, ...]:
        of_overlayfs = self._layers[layer].is_overlayfs
        kept, lost = read_attributes(place, self._profile, follow=follow, of_overlayfs=of_overlayfs)
        if lost:
            self.report.add(Fate.ATTRIBUTES, path, ", ".join(lost))
        return kept

    def _mount_of(self, above: _Directory, path: bytes, seen: Seen, about: os.stat_result) -> int:
        """The mount of a directory of layer 0 below another, or `_STAYS_EMPTY`."""
        known = path in self._around.mounts
        if not known and about.st_dev == self.tree.identity(above.row, 0)[0]:
            return above.mount
        try:
            mount = _mount_at(seen)
        except OSError:
            return above.mount  # vanished: it is not entered
        if mount == above.mount or mount in self._around.same:
            return mount
        if self._around.cross and self._around.mounts.get(path, "") not in NEVER_CROSSED:
            return mount
        self.report.add(Fate.LEFT_OUT, path, "another file system (--all); the directory is empty")
        return _STAYS_EMPTY

    def _is_mounted(self, seen: Seen, path: bytes) -> bool:
        """True for a file over which another one is mounted, as containers have it. Raises OSError."""
        return path in self._around.mounts and _mount_at(seen) not in (mount_of(seen.descriptor), *self._around.same)

    def _add_lost_and_found(self, found: Sequence[Seen]) -> None:
        """Row 1 is lost+found, which e2fsck wants: as the tree has it, without contents, or made up."""
        tree = self.tree
        row = Row(mode=stat.S_IFDIR | 0o700, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        for seen in found:
            about = seen.about()
            if stat.S_ISDIR(about.st_mode) and not seen.layer:
                row = _row(about, ())
            if not _is_empty(seen):
                self.report.add(Fate.LEFT_OUT, LOST_AND_FOUND_NAME, "always: contents of lost+found")
        tree.add(row, ROOT)

    def _add_nodes(self, above: int) -> None:
        tree = self.tree
        for name, mode, major, minor in _NODES:
            row = Row(mode=stat.S_IFCHR | mode, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT], special=(major, minor))
            tree.name(tree.add(row, above), name)


def _emptied(row: Row) -> Row:
    """The row without its content: an inode of its own, with the owner and mode that it has as a file."""
    mode = row.mode if stat.S_ISREG(row.mode) else stat.S_IFREG | 0o444
    return replace(row, mode=mode, size=0, inode=NOBODY, target=b"", special=(0, 0), runs=None)


def _read_whole(seen: Seen, about: os.stat_result) -> bytes:
    """A small file that is replaced. Raises OSError."""
    if about.st_size > LARGEST:
        raise OSError(errno.EFBIG, f"{shown(seen.name)[1:]} has more than {LARGEST} bytes")
    opened = open_regular(seen.name, seen.descriptor, about.st_dev, about.st_ino)
    try:
        return os.read(opened, LARGEST)
    finally:
        os.close(opened)


def _mount_at(seen: Seen) -> int:
    """The mount that an entry is on. Raises OSError."""
    opened = os.open(seen.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=seen.descriptor)
    try:
        return mount_of(opened)
    finally:
        os.close(opened)


def _is_empty(seen: Seen) -> bool:
    try:
        opened = open_directory(seen.name, seen.descriptor)
    except OSError:
        return False
    try:
        with os.scandir(opened) as inside:
            return next(inside, None) is None
    finally:
        os.close(opened)


def _row(
    about: os.stat_result,
    attributes: tuple[Attribute, ...],
    target: bytes = b"",
    runs: Runs | None = None,
    layer: int = 0,
) -> Row:
    kind = stat.S_IFMT(about.st_mode)
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Row(
        mode=about.st_mode,
        uid=about.st_uid,
        gid=about.st_gid,
        size=about.st_size if kind == stat.S_IFREG else len(target),
        mtime=packed_time(about.st_mtime_ns),
        ctime=packed_time(about.st_ctime_ns),
        device=about.st_dev,
        inode=about.st_ino,
        layer=layer,
        xattrs=attributes,
        target=target,
        special=(os.major(about.st_rdev), os.minor(about.st_rdev)) if device else (0, 0),
        runs=runs,
    )
