"""Pass one: reads the metadata of a live tree into columns, by the rules of a selection.

Directories are opened one below the other (`handles`); mounts are known from the kernel's table, because numbers of
devices do not tell: a subvolume of btrfs has a number of its own, a bind mount of the same disk has not.
"""

from __future__ import annotations

import errno
import operator
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from amistream.source.tree.handles import Handles, mount_of, open_directory, open_regular
from amistream.source.tree.profiles import BLOCK, MOST_FILE_LINKS, Profile
from amistream.source.tree.records import packed_time
from amistream.source.tree.report import Fate, Report
from amistream.source.tree.select import Selection
from amistream.source.tree.tree import LOST_AND_FOUND, LOST_AND_FOUND_NAME, ROOT, Row, Tree
from amistream.source.tree.xattrs import Attribute, fitting, on_disk

_NODES = ((b"console", 0o600, 5, 1), (b"null", 0o666, 1, 3), (b"tty", 0o666, 5, 0), (b"zero", 0o666, 1, 5))
"""The devices that a system needs before it has filled /dev."""
_DEV = b"dev"
_UNSUPPORTED = {errno.ENOTSUP, errno.ENODATA, errno.ENOENT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EIO}
_STAYS_EMPTY = -1
"""In place of a mount: a directory whose contents are left out."""
_first = operator.itemgetter(0)
NEVER_CROSSED = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue nsfs proc "
    "pstore ramfs rpc_pipefs securityfs selinuxfs sysfs tmpfs tracefs".split()
)
"""File systems of the kernel, and in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts of the machine that a walk has to know."""

    mounts: dict[bytes, str] = field(default_factory=dict)
    """Mount points below the tree's root, without a slash in front, and the kind of what is mounted there."""
    cross: bool = False
    """Take other file systems in, but for those of the kernel."""
    own: Collection[tuple[int, int]] = ()
    """Device and inode of files and directories that never come in: keys, the state directory, swap files."""
    own_name: Callable[[bytes], bool] = lambda _: False
    """True for a path of the job's own output."""
    privileged: bool = True
    """The kernel lets this process read everything."""


class Walk:
    """One walk. The result is in `tree` and `report`."""

    def __init__(
        self, root: int, profile: Profile, selection: Selection, around: Surroundings, stopped: Callable[[], bool]
    ) -> None:
        """`root` is an open directory; `stopped` ends the walk early."""
        self.tree = Tree()
        self.report = Report()
        self._root = root
        self._profile = profile
        self._selection = selection
        self._around = around
        self._stopped = stopped
        self._handles = Handles(root, self.tree)
        self._linked: dict[tuple[int, int], int] = {}
        """Rows of the inodes with several names."""
        self._waiting: list[tuple[int, bytes, int]] = []
        """Directories to read: row, path, mount."""

    def run(self) -> None:
        """Walk the whole tree. Raises OSError if its root cannot be read, `InterruptedError` when stopped."""
        try:
            about = os.fstat(self._root)
            self.tree.add(self._row(about, self._attributes(f"/proc/self/fd/{self._root}", b"", follow=True)), ROOT)
            self._waiting.append((ROOT, b"", mount_of(self._root)))
            while self._waiting:
                if self._stopped():
                    raise InterruptedError
                self._read(*self._waiting.pop())
        finally:
            self._handles.close()

    def _read(self, row: int, path: bytes, mount: int) -> None:
        """Read one directory: its rows and names, in the order of the names."""
        tree = self.tree
        descriptor, found = self._names_in(row, path) if mount != _STAYS_EMPTY else (-1, [])
        if row == ROOT:
            self._add_lost_and_found(dict(found))
        first = len(tree.entry_row)
        below = []
        for name, entry in found:
            inside = self._add(row, path, mount, name, entry, descriptor)
            if inside is not None:
                below.append(inside)
        if row == ROOT:
            tree.name(LOST_AND_FOUND, LOST_AND_FOUND_NAME)
            tree.entry[LOST_AND_FOUND] = len(tree.entry_row) - 1
        if path == _DEV and len(tree.entry_row) == first:
            self._add_nodes(row)
        tree.entries[row] = first, len(tree.entry_row) - first
        self._waiting += reversed(below)

    def _names_in(self, row: int, path: bytes) -> tuple[int, list[tuple[bytes, os.DirEntry[str]]]]:
        """The open directory, valid until the next one is asked for, and its names in order."""
        try:
            descriptor = self._handles.directory(row)
            with os.scandir(descriptor) as entries:
                return descriptor, sorted(((os.fsencode(entry.name), entry) for entry in entries), key=_first)
        except OSError as error:
            if row == ROOT:
                raise
            fate = Fate.NOT_LISTED if error.errno in _REFUSED else Fate.GONE
            self.report.add(fate, path, error.strerror or str(error))
            return -1, []

    def _add(
        self, above: int, path: bytes, mount: int, name: bytes, entry: os.DirEntry[str], descriptor: int
    ) -> tuple[int, bytes, int] | None:
        """Add one name; returns it as a directory that is to be read."""
        if above == ROOT and name == LOST_AND_FOUND_NAME:
            return None
        try:
            about = entry.stat(follow_symlinks=False)
        except OSError:
            return None  # vanished
        inside = path + b"/" + name if path else name
        directory = stat.S_ISDIR(about.st_mode)
        rule = self._selection.leaves_out(b"/" + inside, name, directory=directory) or self._own(inside, about)
        if not rule and stat.S_ISREG(about.st_mode):
            rule = self._look_inside(inside, name, about, descriptor)
        if rule:
            self.report.add(Fate.LEFT_OUT, inside, rule)
            return None
        tree = self.tree
        key = (about.st_dev, about.st_ino)
        linked = self._linked.get(key) if about.st_nlink > 1 and not directory else None
        if linked is not None and tree.links[linked] < MOST_FILE_LINKS:
            tree.name(linked, name)
            return None
        here = mount
        if directory and (inside in self._around.mounts or about.st_dev != tree.devices[tree.device[above]]):
            here = self._mount_at(name, descriptor, mount)
        attributes = self._attributes(f"/proc/self/fd/{descriptor}/{entry.name}", inside)
        target, runs = b"", None
        if stat.S_ISLNK(about.st_mode):
            try:
                target = os.readlink(name, dir_fd=descriptor)
            except OSError:
                return None  # vanished, or is none any more
        elif stat.S_ISREG(about.st_mode) and about.st_blocks * 512 < about.st_size:
            runs = self._runs(name, about, descriptor)
        number = tree.add(self._row(about, attributes, target, runs), above)
        tree.name(number, name)
        if about.st_nlink > 1 and not directory:
            self._linked[key] = number
        if not directory:
            return None
        if here != mount and not self._crosses(inside):
            self.report.add(Fate.LEFT_OUT, inside, "another file system; its directory is empty")
            here = _STAYS_EMPTY
        return number, inside, here

    def _row(
        self,
        about: os.stat_result,
        attributes: tuple[Attribute, ...],
        target: bytes = b"",
        runs: tuple[tuple[int, int], ...] | None = None,
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
            xattrs=attributes,
            target=target,
            special=(os.major(about.st_rdev), os.minor(about.st_rdev)) if device else (0, 0),
            runs=runs,
        )

    def _attributes(self, place: str, path: bytes, *, follow: bool = False) -> tuple[Attribute, ...]:
        try:
            names = os.listxattr(place, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                self.report.add(Fate.ATTRIBUTES, path, error.strerror or "")
            return ()
        if not names:
            return ()
        found: list[Attribute] = []
        lost: list[str] = []
        for name in sorted(names):
            try:
                value = os.getxattr(place, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    lost.append(name)
                continue
            attribute = on_disk(os.fsencode(name), value)
            if attribute is None:
                lost.append(name)
            else:
                found.append(attribute)
        kept, dropped = fitting(found, self._profile)
        if lost or dropped:
            names = [*lost, *(each.name.decode("utf-8", "backslashreplace") for each in dropped)]
            self.report.add(Fate.ATTRIBUTES, path, ", ".join(names))
        return tuple(kept)

    def _own(self, path: bytes, about: os.stat_result) -> str:
        if (about.st_dev, about.st_ino) in self._around.own or self._around.own_name(path):
            return "always: a file of this job, of amistream, or swap space"
        return ""

    def _look_inside(self, path: bytes, name: bytes, about: os.stat_result, descriptor: int) -> str:
        """The rule that leaves a regular file out for its content. Notes a file that cannot be read."""
        look = self._selection.wants_to_read(about.st_size)
        if not about.st_size or (not look and self._around.privileged):
            return ""
        try:
            opened = open_regular(name, descriptor, about.st_dev, about.st_ino)
        except OSError as error:
            if error.errno in _REFUSED:
                self.report.add(Fate.UNREADABLE, path, error.strerror or "")
            return ""
        try:
            content = os.read(opened, about.st_size) if look else b""
        except OSError as error:
            self.report.add(Fate.UNREADABLE, path, error.strerror or "")
            return ""
        finally:
            os.close(opened)
        return self._selection.leaves_out_content(b"/" + path, name, content) if look else ""

    def _mount_at(self, name: bytes, descriptor: int, above: int) -> int:
        """The mount of a directory, or that of the one above if it cannot be told."""
        try:
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        except OSError:
            return above
        try:
            return mount_of(opened)
        finally:
            os.close(opened)

    def _crosses(self, path: bytes) -> bool:
        return self._around.cross and self._around.mounts.get(path, "") not in NEVER_CROSSED

    def _runs(self, name: bytes, about: os.stat_result, descriptor: int) -> tuple[tuple[int, int], ...] | None:
        """The blocks with data of a file that has holes; None if it has none, or cannot be asked."""
        try:
            opened = open_regular(name, descriptor, about.st_dev, about.st_ino)
        except OSError:
            return None
        try:
            runs = tuple(_data_runs(opened, about.st_size))
        except OSError:
            return None
        finally:
            os.close(opened)
        return None if runs == ((0, -(-about.st_size // BLOCK)),) else runs

    def _add_lost_and_found(self, found: dict[bytes, os.DirEntry[str]]) -> None:
        """Row 1 is lost+found, which e2fsck wants: as the tree has it, without contents, or made up."""
        entry = found.get(LOST_AND_FOUND_NAME)
        tree = self.tree
        row = Row(mode=stat.S_IFDIR | 0o700, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        if entry is not None:
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                row = self._row(about, ())
            if not self._is_empty(LOST_AND_FOUND_NAME):
                self.report.add(Fate.LEFT_OUT, LOST_AND_FOUND_NAME, "always: contents of lost+found")
        tree.add(row, ROOT)

    def _is_empty(self, name: bytes) -> bool:
        try:
            opened = open_directory(name, self._root)
        except OSError:
            return False
        try:
            return not os.listdir(opened)
        finally:
            os.close(opened)

    def _add_nodes(self, above: int) -> None:
        tree = self.tree
        for name, mode, major, minor in _NODES:
            row = Row(mode=stat.S_IFCHR | mode, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT], special=(major, minor))
            tree.name(tree.add(row, above), name)


def _data_runs(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Runs of blocks with data: place in the file, blocks."""
    behind = at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        first, end = max(start // BLOCK, behind), -(-at // BLOCK)
        if end > first:
            yield first, end - first
        behind = max(behind, end)
