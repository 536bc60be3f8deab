"""Opens what a job names, and keeps a confined job within the roots that the administrator has set.

A name is looked up once, to a descriptor that opens nothing yet (O_PATH): a named pipe does not hang it, and no device
is set off. All that is judged is judged of that descriptor, and what is read later is opened through it, so that a
name swapped in between changes nothing. A root is meant literally: it is never resolved, so that a link in its place
leads nowhere.

A confined job learns nothing of what lies outside: absent, forbidden and outside are one and the same answer.

The calls block: use them on threads.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from amistream.errors import RefusedError

MOUNTS = Path("/proc/self/mountinfo")
DELETED = " (deleted)"
"""What the kernel adds to the name of a file that has lost it."""
SETTING = "source_roots in /etc/amistream/amistream.toml (or the file that --config names)"
_PIN = os.O_PATH | os.O_CLOEXEC
_FOLDER = _PIN | os.O_DIRECTORY


class Roots:
    """The directories, files and devices that jobs of unprivileged peers may name, with all that is below them."""

    def __init__(self, roots: Iterable[Path]) -> None:
        """`roots` are absolute and real paths."""
        self._roots = tuple(roots)

    def require(self, field: str = "") -> None:
        """Raise `RefusedError` when no root is set at all."""
        if not self._roots:
            raise RefusedError(
                "roots.none",
                "cannot take the job: no directories are set from which others than root may bundle",
                hint=f"the administrator names them in {SETTING}, then restarts the daemon",
                field=field,
            )

    def check(self, descriptor: int, path: Path, field: str) -> None:
        """Raise `RefusedError` unless what is open, whatever it was called, lies within a root."""
        # Asked before the name is: a second link that goes away afterwards shows as a deleted name.
        about = os.fstat(descriptor)
        self._require_within(descriptor, path, field)
        if stat.S_ISDIR(about.st_mode):
            return
        if about.st_nlink > 1:
            raise RefusedError(
                "roots.linked",
                f"cannot use {path}: the file has {about.st_nlink} names (hard links), and the others may lie outside "
                "the directories that are allowed",
                hint=f"make a copy and name that: cp --sparse=always {path} COPY",
                field=field,
            )
        _wait_unlinked(descriptor)
        self._require_within(descriptor, path, field)

    def outside(self, path: Path, field: str) -> RefusedError:
        self.require(field)
        return RefusedError(
            "roots.outside",
            f"cannot use {path}: nothing of that name can be opened within {', '.join(map(str, self._roots))}",
            hint=f"others than root may name what lies there only; the administrator sets {SETTING}",
            field=field,
        )

    def split(self, path: Path) -> tuple[Path, tuple[str, ...]] | None:
        """The root that a path lies in by its words, and the steps from there; None for no root, or a step back."""
        for root in self._roots:
            if path.is_relative_to(root):
                steps = path.relative_to(root).parts
                return None if ".." in steps else (root, steps)
        return None

    def _require_within(self, descriptor: int, path: Path, field: str) -> None:
        if not self._holds(descriptor):
            raise self.outside(path, field)

    def _holds(self, descriptor: int) -> bool:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        # Refused even where a file really is called so: its name cannot be told from a deleted one's.
        if not name.is_absolute() or name.name.endswith(DELETED):
            return False
        return any(name.is_relative_to(root) for root in self._roots) and _in_our_namespace(descriptor)


def _wait_unlinked(descriptor: int) -> None:
    """Wait until a removal of the file's name that has begun is over.

    The kernel lowers the count of names first and takes the name away a moment later: in between, the last but one
    name looks like the only one. For all that time it holds the directory's lock, which reading a directory needs too.
    """
    folder = Path(f"/proc/self/fd/{descriptor}").readlink().parent
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        next(entries, None)


def _in_our_namespace(descriptor: int) -> bool:
    """Whether the file's mount is one of ours. In another namespace, as behind /proc/PID/root, anybody may have mounted
    anything under any name.
    """
    with Path(f"/proc/self/fdinfo/{descriptor}").open(encoding="ascii") as lines:
        mount = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    with MOUNTS.open(encoding="utf-8", errors="backslashreplace") as mounts:
        return any(line.split(maxsplit=1)[0] == mount for line in mounts)


@contextlib.contextmanager
def pinned(path: Path, roots: Roots | None, *, field: str) -> Iterator[int]:
    """What `path` names now, not opened yet, for as long as the block runs.

    Raises OSError, or with roots `RefusedError` naming the `field` of the request.
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
    """Open what is pinned. Raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


@contextlib.contextmanager
def pinned_directory(path: Path, roots: Roots | None, *, field: str) -> Iterator[int]:
    """A directory, not opened for reading, for as long as the block runs.

    Raises OSError, FileNotFoundError when it is missing. With roots also `RefusedError`: then every step from the root
    on must be a directory itself and no link, so that nothing is looked for elsewhere.
    """
    descriptor = _walk(path, roots, field)[0] if roots else os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_directory(path: Path, roots: Roots | None, *, field: str) -> bool:
    """Make a directory, and those above it, where missing; says whether it was. Raises as `pinned_directory` does."""
    if roots is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _make(path)
    descriptor, made = _walk(path, roots, field, make=True)
    os.close(descriptor)
    return made


def _walk(path: Path, roots: Roots, field: str, *, make: bool = False) -> tuple[int, bool]:
    """Go from the root to the directory; returns it pinned, and whether it was made."""
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
        # The root itself is the administrator's to make, and must be what it says.
        roots.check(here, path, field)
        for step in steps:
            made = make and _make(step, here)
            below = os.open(step, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
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
