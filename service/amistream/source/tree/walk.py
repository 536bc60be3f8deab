"""Pass one: reads the metadata of a live tree into columns, by the rules of a selection.

Directories are opened one below the other (`handles`). Mounts are known by the kernel's table and its numbers of
mounts, because numbers of devices do not tell: a subvolume of btrfs has one of its own, a bind mount of the same disk
has none.
"""

from __future__ import annotations

import errno
import operator
import os
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from amistream.source.tree.entries import Runs, find_runs, read_attributes
from amistream.source.tree.fstab import LARGEST
from amistream.source.tree.handles import Handles, is_gone, mount_of, open_directory, open_regular
from amistream.source.tree.profiles import Profile
from amistream.source.tree.records import packed_time
from amistream.source.tree.report import Fate, Report, shown
from amistream.source.tree.select import Selection
from amistream.source.tree.tree import LOST_AND_FOUND, LOST_AND_FOUND_NAME, NOBODY, ROOT, Row, Tree
from amistream.source.tree.xattrs import Attribute

_NODES = ((b"console", 0o600, 5, 1), (b"null", 0o666, 1, 3), (b"tty", 0o666, 5, 0), (b"zero", 0o666, 1, 5))
"""The devices that a system needs before it has filled /dev."""
_DEV = b"dev"
_STAYS_EMPTY = -1
"""In place of a mount: a directory whose contents are left out."""
_OLD = b".old"
_NAME = operator.itemgetter(0)
_KERNELS = """autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs mqueue
    nsfs proc pstore ramfs rpc_pipefs securityfs selinuxfs sysfs tmpfs tracefs"""
NEVER_CROSSED = frozenset(_KERNELS.split())
"""File systems of the kernel, and in memory."""

Found = list[tuple[bytes, os.DirEntry[str]]]


class StoppedError(Exception):
    """The walk was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts of the machine that a walk has to know."""

    mounts: dict[bytes, str] = field(default_factory=dict)
    """Mount points below the tree's root, without a slash in front, and the kind of what is mounted there."""
    same: Collection[int] = ()
    """Numbers of the mounts that belong to the tree's own file system."""
    cross: bool = False
    """Take other file systems in, but for those of the kernel."""
    own: Collection[tuple[int, int]] = ()
    """Device and inode of files and directories that never come in: keys, the state directory, swap files."""
    own_name: Callable[[bytes], bool] = lambda _: False
    """True for a path of the job's own output."""
    privileged: bool = True
    """The kernel lets this process read everything."""
    replaced: Mapping[bytes, Callable[[bytes], bytes]] = field(default_factory=dict)
    """Files with another content in the image, made from their own, which stays beside it as NAME.old."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory that is to be read, or is being read."""

    row: int
    path: bytes
    """From the tree's root on, as `etc/ssh`; empty for the root."""
    mount: int
    descriptor: int = -1

    def inside(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class Walk:
    """One walk. The result is in `tree` and `report`."""

    def __init__(self, root: int, profile: Profile, selection: Selection, around: Surroundings) -> None:
        """`root` is an open directory, which stays the caller's."""
        self.tree = Tree()
        self.report = Report()
        self._root = root
        self._profile = profile
        self._selection = selection
        self._around = around
        self._handles = Handles(root, self.tree)
        self._linked: dict[tuple[int, int], int] = {}
        """Rows of the inodes with several names."""
        self._waiting: list[_Directory] = []
        self._replaced = {name for path in around.replaced for name in (path, path + _OLD)}

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Walk the whole tree. Raises OSError if its root cannot be read, and `StoppedError` once it is `stopped`."""
        try:
            attributes = self._attributes(f"/proc/self/fd/{self._root}", b"", follow=True)
            self.tree.add(_row(os.fstat(self._root), attributes), ROOT)
            self._waiting.append(_Directory(ROOT, b"", mount_of(self._root)))
            while self._waiting:
                if stopped():
                    raise StoppedError
                self._read(self._waiting.pop())
        finally:
            self._handles.close()

    def _read(self, directory: _Directory) -> None:
        """Read one directory: its rows and names, in the order of the names."""
        tree, row = self.tree, directory.row
        directory, found = self._names_in(directory)
        if row == ROOT:
            self._add_lost_and_found(dict(found))
        first = len(tree.entry_row)
        below = [inside for name, entry in found if (inside := self._add(directory, name, entry))]
        for path, change in self._around.replaced.items():
            folder, _, name = path.rpartition(b"/")
            if folder == directory.path and directory.descriptor != -1:
                self._replace(directory, name, change)
        if row == ROOT:
            tree.name(LOST_AND_FOUND, LOST_AND_FOUND_NAME)
            tree.entry[LOST_AND_FOUND] = len(tree.entry_row) - 1
        if directory.path == _DEV and len(tree.entry_row) == first:
            self._add_nodes(row)
        tree.entries[row] = first, len(tree.entry_row) - first
        self._waiting += reversed(below)

    def _names_in(self, directory: _Directory) -> tuple[_Directory, Found]:
        """The directory, open until the next one is asked for, and its names in order."""
        row, path, mount = directory.row, directory.path, directory.mount
        if mount == _STAYS_EMPTY:
            return directory, []
        try:
            descriptor = self._handles.directory(row)
            with os.scandir(descriptor) as entries:
                found = sorted(((os.fsencode(entry.name), entry) for entry in entries), key=_NAME)
        except OSError as error:
            if row == ROOT:
                raise
            self._miss(path, error, Fate.NOT_LISTED)
            return directory, []
        return _Directory(row, path, mount, descriptor), found

    def _add(self, above: _Directory, name: bytes, entry: os.DirEntry[str]) -> _Directory | None:
        """Add one name; returns it if it is a directory that is to be read."""
        if above.row == ROOT and name == LOST_AND_FOUND_NAME:
            return None
        path = above.inside(name)
        if path in self._replaced:
            if path.endswith(_OLD):
                self.report.add(Fate.LEFT_OUT, path, "another file of the job has its name")
            return None
        try:
            about = entry.stat(follow_symlinks=False)
            target = os.readlink(name, dir_fd=above.descriptor) if stat.S_ISLNK(about.st_mode) else b""
        except OSError as error:
            self._miss(path, error)
            return None
        if rule := self._left_out(above, path, name, about):
            self.report.add(Fate.LEFT_OUT, path, rule)
            return None
        if about.st_nlink > 1 and self._add_link(name, about):
            return None
        runs = find_runs(name, above.descriptor, about) if stat.S_ISREG(about.st_mode) else None
        attributes = self._attributes(f"/proc/self/fd/{above.descriptor}/{entry.name}", path)
        row = self.tree.add(_row(about, attributes, target, runs), above.row)
        self.tree.name(row, name)
        if not stat.S_ISDIR(about.st_mode):
            if about.st_nlink > 1:
                self._linked[about.st_dev, about.st_ino] = row
            return None
        return _Directory(row, path, self._mount_of(above, path, name, about))

    def _left_out(self, above: _Directory, path: bytes, name: bytes, about: os.stat_result) -> str:
        """The rule that leaves an entry out, or ''."""
        if (about.st_dev, about.st_ino) in self._around.own or self._around.own_name(path):
            return "always: a file of this job, of amistream, or swap space"
        rule = self._selection.leaves_out(b"/" + path, name, directory=stat.S_ISDIR(about.st_mode))
        if not rule and stat.S_ISREG(about.st_mode):
            rule = self._look_inside(above, path, name, about)
        return rule

    def _add_link(self, name: bytes, about: os.stat_result) -> bool:
        """Add a further name of an inode that has been added; returns whether it was one."""
        row = self._linked.get((about.st_dev, about.st_ino))
        # An inode that has all the names that it can have is added once more.
        if row is None or self.tree.links[row] >= self._profile.most_links:
            return False
        self.tree.name(row, name)
        return True

    def _look_inside(self, above: _Directory, path: bytes, name: bytes, about: os.stat_result) -> str:
        """The rule that leaves a regular file out for its content. Records a file that cannot be read."""
        look = self._selection.wants_to_read(about.st_size)
        if not about.st_size or (not look and self._around.privileged):
            return ""
        content = b""
        try:
            opened = open_regular(name, above.descriptor, about.st_dev, about.st_ino)
            try:
                if look:
                    content = os.read(opened, about.st_size)
            finally:
                os.close(opened)
        except OSError as error:
            self._miss(path, error)
            return ""
        return self._selection.leaves_out_content(b"/" + path, name, content) if look else ""

    def _miss(self, path: bytes, error: OSError, fate: Fate = Fate.UNREADABLE) -> None:
        """Record an entry that cannot be read, or is gone: it may have moved to where the walk has been before."""
        self.report.add(Fate.GONE if is_gone(error) else fate, path, error.strerror or str(error))

    def _replace(self, above: _Directory, name: bytes, change: Callable[[bytes], bytes]) -> None:
        """Add a file that the job changes, and the one that was there. Raises OSError if that cannot be read."""
        tree, path = self.tree, above.inside(name)
        new = Row(mode=stat.S_IFREG | 0o644, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        old = b""
        about = _look_at(name, above.descriptor)
        if about is not None and (rule := self._left_out(above, path, name, about)):
            self.report.add(Fate.LEFT_OUT, path, rule)
        elif about is not None:
            attributes = self._attributes(f"/proc/self/fd/{above.descriptor}/{os.fsdecode(name)}", path)
            target = os.readlink(name, dir_fd=above.descriptor) if stat.S_ISLNK(about.st_mode) else b""
            kept = replace(_row(about, attributes, target), inode=NOBODY)
            if stat.S_ISREG(about.st_mode):
                old = _read_whole(name, above.descriptor, about)
                new = replace(kept, mtime=new.mtime, ctime=new.ctime)
                kept = replace(kept, size=len(old))
            row = tree.add(kept, above.row)
            tree.name(row, name + _OLD)
            if stat.S_ISREG(about.st_mode):
                tree.given[row] = old
        content = change(old)
        row = tree.add(replace(new, size=len(content)), above.row)
        tree.name(row, name)
        tree.given[row] = content

    def _attributes(self, place: str, path: bytes, *, follow: bool = False) -> tuple[Attribute, ...]:
        kept, lost = read_attributes(place, self._profile, follow=follow)
        if lost:
            self.report.add(Fate.ATTRIBUTES, path, ", ".join(lost))
        return kept

    def _mount_of(self, above: _Directory, path: bytes, name: bytes, about: os.stat_result) -> int:
        """The mount of a directory below another, or `_STAYS_EMPTY`."""
        known = path in self._around.mounts
        if not known and about.st_dev == self.tree.devices[self.tree.device[above.row]]:
            return above.mount
        try:
            opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above.descriptor)
        except OSError:
            return above.mount  # vanished: it is not entered
        try:
            mount = mount_of(opened)
        finally:
            os.close(opened)
        if mount == above.mount or mount in self._around.same:
            return mount
        if self._around.cross and self._around.mounts.get(path, "") not in NEVER_CROSSED:
            return mount
        self.report.add(Fate.LEFT_OUT, path, "another file system (--all); the directory is empty")
        return _STAYS_EMPTY

    def _add_lost_and_found(self, found: dict[bytes, os.DirEntry[str]]) -> None:
        """Row 1 is lost+found, which e2fsck wants: as the tree has it, without contents, or made up."""
        tree = self.tree
        entry = found.get(LOST_AND_FOUND_NAME)
        row = Row(mode=stat.S_IFDIR | 0o700, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT])
        if entry is not None:
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                row = _row(about, ())
            if not self._is_empty(LOST_AND_FOUND_NAME):
                self.report.add(Fate.LEFT_OUT, LOST_AND_FOUND_NAME, "always: contents of lost+found")
        tree.add(row, ROOT)

    def _is_empty(self, name: bytes) -> bool:
        try:
            opened = open_directory(name, self._root)
        except OSError:
            return False
        try:
            with os.scandir(opened) as inside:
                return next(inside, None) is None
        finally:
            os.close(opened)

    def _add_nodes(self, above: int) -> None:
        tree = self.tree
        for name, mode, major, minor in _NODES:
            row = Row(mode=stat.S_IFCHR | mode, mtime=tree.mtime[ROOT], ctime=tree.ctime[ROOT], special=(major, minor))
            tree.name(tree.add(row, above), name)


def _look_at(name: bytes, above: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _read_whole(name: bytes, above: int, about: os.stat_result) -> bytes:
    """A small file that is replaced. Raises OSError."""
    if about.st_size > LARGEST:
        raise OSError(errno.EFBIG, f"{shown(name)[1:]} has more than {LARGEST} bytes")
    opened = open_regular(name, above, about.st_dev, about.st_ino)
    try:
        return os.read(opened, LARGEST)
    finally:
        os.close(opened)


def _row(
    about: os.stat_result, attributes: tuple[Attribute, ...], target: bytes = b"", runs: Runs | None = None
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
