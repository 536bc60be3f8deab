"""Copies a walked tree into an xfs in a temporary file, as root. The file has no name: nothing is left of it."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID

from amistream.errors import RefusedError
from amistream.host import capabilities
from amistream.host.mounted_image import MountRefusedError, mounted_image
from amistream.host.program import ToolMissingError
from amistream.source.disks.reading import DoubtError
from amistream.source.tree.contents import Contents
from amistream.source.tree.profiles import XFS
from amistream.source.tree.report import Report, shown
from amistream.source.tree.tree import Tree
from amistream.source.xfs_tree.features import Format
from amistream.source.xfs_tree.making import find_program, make_file_system
from amistream.source.xfs_tree.space import LONGEST_LINK, SMALLEST, least_size, space_needed
from amistream.source.xfs_tree.volume import CopiedVolume
from amistream.source.xfs_tree.writing import Writer
from amistream.units import size_text
from amistream.values import MIB, quoted

_OPTIONS = "nouuid"
"""The tree's own file system has the same UUID, and is mounted."""
_FULL = 16 * MIB
"""Free space below which an error of the copy is laid to it. Guess."""
_OTHER_KIND = "or give --fs ext4"


@dataclass(frozen=True, slots=True, kw_only=True)
class XfsWishes:
    """The file system that is to be made."""

    size: int
    reserved: int
    """Bytes of the image that do not belong to it."""
    like: Format
    uuid: UUID
    label: bytes
    scratch: Path
    """A directory with room for the temporary file."""
    stopped: Callable[[], bool]
    says: Callable[[str], None] = lambda _: None
    """Hears how far the copy is."""


def require_means(path: Path, scratch: Path | None) -> Path:
    """The directory for the file. Raises `RefusedError` unless there is one, mkfs.xfs, and the right to mount."""
    if scratch is None or os.geteuid() != 0 or not capabilities.has(capabilities.MOUNTS):
        raise _refused(
            "xfs.refused",
            path,
            "its files are copied into a file system that only root may mount",
            f"run the job as root, with --in-process: the daemon's unit may not mount anything; {_OTHER_KIND}",
        )
    if find_program() is None:
        raise _no_program(path)
    return scratch


def copy_tree(path: Path, tree: Tree, contents: Contents, report: Report, wishes: XfsWishes) -> CopiedVolume:
    """Make the file system and copy the tree into it; its files are not needed any more then.

    Takes as long as reading and writing them does. Raises `RefusedError`, `SourceError` for a file that cannot be read,
    and `StoppedError`.
    """
    _check_fits(path, tree, wishes)
    with ExitStack() as undo:
        try:
            image = undo.enter_context(_temporary_file(path, tree, wishes)).fileno()
            _make(path, image, wishes)
            with mounted_image(image, XFS.name, _OPTIONS, wishes.scratch) as root:
                wishes.says(f"copies {size_text(least_size(tree, wishes.like))} into a file in {wishes.scratch}")
                written = Writer(tree, contents, root, wishes.stopped)
                written.run(lambda size: wishes.says(f"copied {size_text(size)} so far"))
                contents.compare_all()
                _write_out(root)
            return _volume(path, image, tree, report)
        except DoubtError as error:
            why = f"the copy is not whole: {error}"
            raise _refused("xfs.torn", path, why, "see `dmesg`, and try again") from error
        except OSError as error:  # while the file still takes its space
            raise _not_copied(path, error, wishes) from error


def _temporary_file(path: Path, tree: Tree, wishes: XfsWishes) -> IO[bytes]:
    scratch, needed = wishes.scratch, space_needed(tree, wishes.like, wishes.size)
    try:
        free = _free(scratch)
        if free < needed:
            raise _no_space(path, scratch, f"it needs {size_text(needed)}, and {size_text(free)} are free")
        return tempfile.TemporaryFile(dir=scratch, buffering=0)
    except OSError as error:
        why = f"no temporary file can be made in {scratch}: {error.strerror}"
        hint = f"ls -ld {quoted(scratch)}; set scratch_dir to a directory with space, {_OTHER_KIND}"
        raise _refused("xfs.scratch", path, why, hint) from error


def _volume(path: Path, image: int, tree: Tree, report: Report) -> CopiedVolume:
    kept = os.dup(image)
    try:
        return CopiedVolume(path, kept, tree=tree, report=report)
    except BaseException:
        os.close(kept)
        raise


def _make(path: Path, image: int, wishes: XfsWishes) -> None:
    try:
        make_file_system(image, wishes.size, wishes.like, uuid=wishes.uuid, label=wishes.label)
    except ToolMissingError as error:
        raise _no_program(path) from error


def _check_fits(path: Path, tree: Tree, wishes: XfsWishes) -> None:
    size, least = wishes.size, least_size(tree, wishes.like)
    if size < SMALLEST:
        needed = size_text(SMALLEST + wishes.reserved)
        raise _no_room(path, wishes, f"mkfs.xfs makes none, and the image needs {needed}")
    if size < least:
        raise _no_room(path, wishes, f"it needs at least {size_text(-(-least // MIB) * MIB + wishes.reserved)}")
    for row, target in tree.target.items():
        if len(target) > LONGEST_LINK:
            raise _refused(
                "source.link_too_long",
                path,
                f"{shown(tree.path(row))} is a link to a name of {len(target)} bytes, and xfs has {LONGEST_LINK}",
                f"leave it out with --exclude, {_OTHER_KIND}",
            )


def _free(folder: Path | int) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _write_out(root: int) -> None:
    """Let the kernel write all of a file system to its device. Raises OSError, also for what it wrote before."""
    if ctypes.CDLL(None, use_errno=True).syncfs(root):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _not_copied(path: Path, error: OSError, wishes: XfsWishes) -> RefusedError:
    """The error in words. A file that cannot grow makes any error of the file system in it."""
    if wishes.scratch.is_dir() and _free(wishes.scratch) <= _FULL:
        return _no_space(path, wishes.scratch, "it is full")
    if isinstance(error, MountRefusedError):
        return _refused("xfs.mount", path, str(error.strerror), f"`dmesg` may have the reason; {_OTHER_KIND}")
    if error.errno == errno.ENOSPC:
        return _no_room(path, wishes, "it needs more")
    why = error.strerror or str(error)
    return _refused("xfs.failed", path, why, f"see `dmesg`, and the setting scratch_dir; {_OTHER_KIND}")


def _no_room(path: Path, wishes: XfsWishes, why: str) -> RefusedError:
    return RefusedError(
        "source.no_room",
        f"cannot fit {path} into an image of {size_text(wishes.size + wishes.reserved)} with xfs: {why}",
        hint="give a larger --size, or leave something out with --exclude",
        field="size",
    )


def _no_space(path: Path, scratch: Path, why: str) -> RefusedError:
    return _refused(
        "xfs.space",
        path,
        f"the temporary file in {scratch} has no room: {why}",
        f"free some (df -h {quoted(scratch)}), set scratch_dir to a directory with more, {_OTHER_KIND}",
    )


def _no_program(path: Path) -> RefusedError:
    hint = f"install it (package xfsprogs), {_OTHER_KIND}"
    return _refused("xfs.no_mkfs", path, "mkfs.xfs is not installed", hint)


def _refused(code: str, path: Path, why: str, hint: str) -> RefusedError:
    return RefusedError(code, f"cannot make an xfs of {path}: {why}", hint=hint, field="file_system")
