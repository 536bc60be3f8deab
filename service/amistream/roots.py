"""Opens the paths of a request, and keeps a confined job within the roots that the administrator has set.

A path is looked up once, to a descriptor that does not open the file yet (O_PATH): a named pipe cannot block the
lookup, and no device is triggered. All checks are made on that descriptor, and the file is later opened through it, so
a path swapped in between has no effect. A root is meant literally: it is never resolved, so a link in its place is
refused.

A confined job learns nothing about files outside: absent, forbidden and outside give the same answer.

The calls block: use them on threads.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from amistream.errors import RefusedError
from amistream.member import Member
from amistream.values import quoted

MOUNTS = Path("/proc/self/mountinfo")
DELETED = " (deleted)"
"""The kernel's suffix for the path of a removed file."""
SETTING = "source_roots in /etc/amistream/amistream.toml (or the file that --config names)"
_PIN = os.O_PATH | os.O_CLOEXEC
_FOLDER = _PIN | os.O_DIRECTORY


class Roots:
    """The directories, files and devices that jobs of unprivileged peers may use, with everything below them."""

    def __init__(self, roots: Iterable[Path], *, readers: str = "", user: int | None = None) -> None:
        """`roots` are absolute and real paths; `readers` is the group that may read what jobs write there.

        `user` is the member of that group who uses them, if he is known.
        """
        self._roots = tuple(roots)
        self._readers = readers
        self._user = user

    def require(self, field: str = "") -> None:
        """Raise `RefusedError` if no root is set."""
        if not self._roots:
            raise RefusedError(
                "roots.none",
                "cannot accept the job: users other than root may not bundle anything, because source_roots is empty",
                hint=f"the administrator sets {SETTING}, then restarts the daemon",
                field=field,
            )

    def check(self, descriptor: int, path: Path, field: str) -> None:
        """Raise `RefusedError` unless the open file lies within a root, whatever path led to it."""
        # Before the path is checked: a second link that is removed afterwards then shows as a removed path.
        about = os.fstat(descriptor)
        self._require_within(descriptor, path, field)
        if stat.S_ISDIR(about.st_mode):
            return
        if about.st_nlink > 1:
            raise RefusedError(
                "roots.linked",
                f"cannot use {path}: the file has {about.st_nlink} names (hard links), and the others may lie outside "
                "the allowed directories",
                hint=f"make a copy and use that: cp --sparse=always {quoted(path)} COPY",
                field=field,
            )
        _wait_unlinked(descriptor)
        self._require_within(descriptor, path, field)

    def share(self, descriptor: int) -> None:
        """Let the readers read a new file, or list a new directory, and nobody change it. Raises OSError.

        A directory that is no longer the new one, which is empty and of this process's user, stays as it is: somebody
        may have put another under its name.
        """
        group = self._group()
        if group is None:
            return
        path, about = f"/proc/self/fd/{descriptor}", os.fstat(descriptor)
        folder = stat.S_ISDIR(about.st_mode)
        if about.st_uid != os.geteuid() or (folder and any(Path(path).iterdir())):
            return
        # Without CAP_CHOWN, or for a group that the daemon's own user is not in, it stays private.
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, group)
            Path(path).chmod(0o750 if folder else 0o640)

    def member(self) -> Member:
        return Member(user=self._user, group=self._group())

    def outside(self, path: Path, field: str) -> RefusedError:
        self.require(field)
        return RefusedError(
            "roots.outside",
            f"cannot use {path}: nothing of that name can be opened within {', '.join(map(str, self._roots))}",
            hint=f"users other than root may use only files there; the administrator sets {SETTING}",
            field=field,
        )

    def split(self, path: Path) -> tuple[Path, tuple[str, ...]] | None:
        """The root that contains the path as written, and the steps below it; None without a root, or for a `..`."""
        for root in self._roots:
            if path.is_relative_to(root):
                steps = path.relative_to(root).parts
                return None if ".." in steps else (root, steps)
        return None

    def reaches(self, descriptor: int) -> bool:
        """True if the member may search each directory from a root down to the open directory, both included.

        Raises OSError.
        """
        member, here = self.member(), os.dup(descriptor)
        try:
            while member.may_search(here):
                if Path(f"/proc/self/fd/{here}").readlink() in self._roots:
                    return True
                below, here = here, os.open("..", _FOLDER, dir_fd=here)
                is_top = os.path.samestat(os.fstat(below), os.fstat(here))
                os.close(below)
                if is_top:
                    return False
        finally:
            os.close(here)
        return False

    def _group(self) -> int | None:
        try:
            return grp.getgrnam(self._readers).gr_gid
        except KeyError:
            return None

    def _require_within(self, descriptor: int, path: Path, field: str) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        # A file whose own name ends so looks like a deleted one, and is refused too.
        gone = not name.is_absolute() or name.name.endswith(DELETED)
        if gone or not any(map(name.is_relative_to, self._roots)) or not _in_our_namespace(descriptor):
            raise self.outside(path, field)


def _wait_unlinked(descriptor: int) -> None:
    """Wait until a removal of the file's name that has begun is complete.

    The kernel lowers the link count first and removes the name a moment later: in between, one of two names looks like
    the only one. During that time it holds the directory's lock, which reading the directory needs too.
    """
    folder = Path(f"/proc/self/fd/{descriptor}").readlink().parent
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        next(entries, None)


def _in_our_namespace(descriptor: int) -> bool:
    """True if the file's mount is one of this process's namespace. In another, as behind /proc/PID/root, any user may
    have mounted anything under any name.
    """
    with Path(f"/proc/self/fdinfo/{descriptor}").open(encoding="ascii") as lines:
        mount = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    with MOUNTS.open(encoding="utf-8", errors="backslashreplace", newline="\n") as mounts:
        return any(line.split(maxsplit=1)[0] == mount for line in mounts)


@contextlib.contextmanager
def pinned(path: Path, roots: Roots | None, *, field: str) -> Iterator[int]:
    """A descriptor of the file at `path`, not opened yet, valid during the block.

    Raises OSError, or with roots `RefusedError` with the `field` of the request.
    """
    try:
        descriptor = os.open(path, _PIN)
    except OSError:
        if roots is None:
            raise
        raise roots.outside(path, field) from None
    try:
        if roots is not None:
            roots.check(descriptor, path, field)
        yield descriptor
    finally:
        os.close(descriptor)


def open_pinned(descriptor: int, flags: int) -> int:
    """Open the pinned file. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


@contextlib.contextmanager
def pinned_directory(path: Path, roots: Roots | None, *, field: str) -> Iterator[int]:
    """A descriptor of a directory, not opened for reading, valid during the block.

    Raises OSError, FileNotFoundError when it is missing. With roots also `RefusedError`: every step below the root must
    then be a directory and not a link, so that the lookup cannot leave the root.
    """
    descriptor = _walk(path, roots, field)[0] if roots else os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_directory(path: Path, roots: Roots | None, *, field: str) -> bool:
    """Create a missing directory and its parents; returns whether it was missing. Raises as `pinned_directory` does."""
    if roots is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _make(path)
    descriptor, made = _walk(path, roots, field, make=True)
    os.close(descriptor)
    return made


def _walk(path: Path, roots: Roots, field: str, *, make: bool = False) -> tuple[int, bool]:
    """Walk from the root to the directory; returns its descriptor, and whether it was created."""
    found = roots.split(path)
    if found is None:
        raise roots.outside(path, field)
    root, steps = found
    made = False
    try:
        here = os.open(root, _FOLDER)
    except OSError:
        raise roots.outside(path, field) from None
    try:
        # The administrator creates the root itself; it must not be a link.
        roots.check(here, path, field)
        for step in steps:
            made = make and _make(step, here)
            below = os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
            if made:
                roots.share(here)
        roots.check(here, path, field)
    except NotADirectoryError:
        os.close(here)
        raise roots.outside(path, field) from None
    except BaseException:
        os.close(here)
        raise
    return here, made


def _make(path: Path | str, directory: int | None = None) -> bool:
    try:
        os.mkdir(path, dir_fd=directory)
    except FileExistsError:
        return False
    return True
