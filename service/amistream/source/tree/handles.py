"""Opens the directories and files of a tree by descriptors, one name at a time, and never through a link.

A path is never given to the kernel, so it may be longer than the kernel takes, and a directory that is swapped for a
link leads nowhere. Each file is looked at before it is opened: opening a device may already do something (a tape
rewinds, a watchdog starts). Where others than root may put something into its directory, the very file that was looked
at is opened, by its descriptor, so that nothing can be swapped in between. Elsewhere only root could do that, who alone
makes devices: there it is opened by its name, for less than half of the time, and looked at again before it is read. As
long as neither the directory nor any mount has changed since the walk, the look of the walk is the one before.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from amistream.host.mount_table import MountWatch
from amistream.member import Member
from amistream.source.tree.records import packed_time
from amistream.source.tree.tree import KIND_BITS, ROOT, Tree

_LEASE_S, _ASK_AGAIN_S = 5.0, 0.01
"""Guess: a file server gives back a lease within milliseconds after it was asked to."""
_LOOK_COUNTS_S = 0.01
"""A directory is looked at again so long after the last look, before a file in it is opened. Guess."""
_MOST_OPEN = 64
"""Directories kept open. Guess: deeper than nearly every tree."""
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
"""Bits of a directory's mode; one of them is set, too, where an ACL lets others write."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOATIME
_READ_NAMED = _READ | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE}


class SwappedError(OSError):
    """Under a name there is something else than there was."""


def is_gone(error: OSError) -> bool:
    """True if what had a name is there no more. Every other error is one of reading what is there."""
    return error.errno in _GONE or isinstance(error, SwappedError)


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """A directory that is open for reading its names."""

    descriptor: int
    only_root_writes: bool
    """At the last look nobody else could put something into it."""
    as_walked: bool
    """Its times were those of the walk: since then no name in it leads to something else."""
    member: Member | None = None
    """Only what he may use in it is opened."""


class Handles:
    """The open directories of one layer of a tree, by row. For one thread at a time."""

    def __init__(
        self, root: int, tree: Tree, layer: int = 0, *, member: Member | None = None, watch: MountWatch | None = None
    ) -> None:
        """`root` is the open directory of a layer, which stays the caller's. `member` must be let in below it.

        `watch` began before the walk, of which all that is opened is looked at again without one.
        """
        self._root = _known(root, os.fstat(root), member, as_walked=False)
        self._member = member
        self._watch = watch
        self._look_again = 0.0
        self._tree = tree
        self._layer = layer
        self._open: dict[int, OpenDirectory] = {}
        """Directories on the way to the latest one, from the root down."""
        self._row, self._here = ROOT, self._root
        """The directory that was asked for last: most are asked for many times in a row."""

    def directory(self, row: int) -> OpenDirectory:
        """A directory, open until the next call. Raises OSError."""
        if row == self._row:
            here = self._here
            trusted = here.only_root_writes and row != ROOT
            return self._looked_at(row) if trusted and time.monotonic() > self._look_again else here
        wanted, way = row, []
        while row != ROOT and row not in self._open:
            way.append(row)
            row = self._tree.parent[row]
        self._leave_below(row)
        here = self._root if row == ROOT else self._looked_at(row)
        for below in reversed(way):
            here = self._enter(here, below)
            if len(self._open) > _MOST_OPEN:
                self._thin_out()
        self._row, self._here = wanted, here
        return here

    def close(self) -> None:
        self._leave_below(ROOT)

    def _leave_below(self, row: int) -> None:
        """Close all below a directory that is open: a walk has been there, and does not come back."""
        self._row, self._here = ROOT, self._root
        while self._open and next(reversed(self._open)) != row:
            os.close(self._open.popitem()[1].descriptor)

    def _thin_out(self) -> None:
        """Close each second one of the upper half: the further up, the later it is asked for again, on the way back."""
        for row in list(self._open)[1 : _MOST_OPEN // 2 : 2]:
            os.close(self._open.pop(row).descriptor)

    def _enter(self, above: OpenDirectory, row: int) -> OpenDirectory:
        tree = self._tree
        opened = open_directory(tree.name_of(tree.entry[row]), above.descriptor)
        about = os.fstat(opened)
        if (about.st_dev, about.st_ino) != tree.identity(row, self._layer):
            os.close(opened)
            raise SwappedError("another directory has its name")
        if self._member is not None and not self._member.may_list(opened):
            os.close(opened)
            raise SwappedError("the directory is closed to the member now")
        return self._open_as(row, opened, about)

    def _looked_at(self, row: int) -> OpenDirectory:
        """A directory that is open, as it is now."""
        opened = self._open[row].descriptor
        return self._open_as(row, opened, os.fstat(opened))

    def _open_as(self, row: int, opened: int, about: os.stat_result) -> OpenDirectory:
        tree, watch = self._tree, self._watch
        times = packed_time(about.st_mtime_ns), packed_time(about.st_ctime_ns)
        as_walked = times == (tree.mtime[row], tree.ctime[row]) and watch is not None and not watch.has_changed()
        self._open[row] = here = _known(opened, about, self._member, as_walked=as_walked)
        self._row, self._here = row, here
        self._look_again = time.monotonic() + _LOOK_COUNTS_S
        return here


def _known(opened: int, about: os.stat_result, member: Member | None, *, as_walked: bool) -> OpenDirectory:
    only_root_writes = about.st_uid == 0 and not about.st_mode & _OTHERS
    return OpenDirectory(opened, only_root_writes=only_root_writes, as_walked=as_walked, member=member)


def open_directory(name: bytes, above: int) -> int:
    """Open a directory for reading its names. Raises OSError, also for a link."""
    try:
        return os.open(name, _FOLDER | os.O_NOATIME, dir_fd=above)
    except PermissionError:
        return os.open(name, _FOLDER, dir_fd=above)  # O_NOATIME is for the owner and root


def open_regular(name: bytes, above: OpenDirectory, device: int, inode: int, *, just_seen: bool = False) -> int:
    """Open a regular file for reading, if it is the one that is meant. Raises OSError.

    `just_seen`: its lstat has just said that it is one.
    """
    if not above.only_root_writes:
        opened = _open_seen(name, above, device, inode)
    else:
        if not (just_seen or above.as_walked):
            _compare(os.stat(name, dir_fd=above.descriptor, follow_symlinks=False), device, inode)
        opened = _open(name, _READ_NAMED, above.descriptor)
        try:
            _compare(os.fstat(opened), device, inode)
        except BaseException:
            os.close(opened)
            raise
    if (member := above.member) is not None and not (member.may_search(above.descriptor) and member.may_read(opened)):
        os.close(opened)
        raise SwappedError("the file is closed to the member now")
    return opened


def pin(name: bytes, above: OpenDirectory, device: int, inode: int) -> int:
    """A descriptor of an entry of any kind, which is not opened, if it is the one that is meant. Raises OSError."""
    seen = os.open(name, _LOOK, dir_fd=above.descriptor)
    about = os.fstat(seen)
    if (about.st_dev, about.st_ino) != (device, inode):
        os.close(seen)
        raise SwappedError("another file has its name")
    return seen


def _open_seen(name: bytes, above: OpenDirectory, device: int, inode: int) -> int:
    """Open the very file that is looked at, whatever gets its name meanwhile."""
    seen = os.open(name, _LOOK, dir_fd=above.descriptor)
    try:
        _compare(os.fstat(seen), device, inode)
        return _open(f"/proc/self/fd/{seen}", _READ)
    finally:
        os.close(seen)


def _compare(about: os.stat_result, device: int, inode: int) -> None:
    if about.st_ino != inode or about.st_dev != device or about.st_mode & KIND_BITS != stat.S_IFREG:
        raise SwappedError("another file has its name")


def _open(path: str | bytes, flags: int, above: int | None = None) -> int:
    """Open a file once nobody has a lease on it, as Samba has."""
    try:
        return os.open(path, flags, dir_fd=above)
    except PermissionError:
        flags &= ~os.O_NOATIME  # which is for the owner and root
    except BlockingIOError:
        pass
    end = time.monotonic() + _LEASE_S
    while True:
        try:
            return os.open(path, flags, dir_fd=above)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_ASK_AGAIN_S)


def read_link(name: bytes, above: int) -> bytes:
    """The target of a symbolic link. Raises OSError."""
    try:
        return os.readlink(name, dir_fd=above)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise SwappedError("it is no link any more") from error
        raise


def mount_of(descriptor: int) -> int:
    """The number of the mount that an open file is on."""
    with Path(f"/proc/self/fdinfo/{descriptor}").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
