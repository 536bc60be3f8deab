"""Where an unbundled image goes: a new file, or the standard output. (`bundles.image_device`: a block device.)

A file is sparse, has its name only when it is whole, proved and on the disk, and nothing of a failed one stays. What
goes to the standard output is gone when it turns out to be wrong: the exit status tells.

Blocking: for threads. Failures of the system become `RefusedError` before anything was written, `JobError` after.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from amistream.errors import RefusedError
from amistream.targets.blocks import _NO_ROOM, BlockTarget, BlockWriter, write_error


class FileTarget(BlockTarget):
    """A new file beside which it is written under a temporary name."""

    def __init__(self, path: Path, *, replace: bool) -> None:
        """With `replace` a file that is there gives way to the new one once that is whole."""
        self.name = str(path)
        self._path = path
        # A name has 255 bytes at most.
        short = os.fsdecode(os.fsencode(path.name)[:200])
        self._temporary = path.with_name(f".{short}.{secrets.token_hex(4)}.partial")
        self._replace = replace
        self._descriptor = -1

    def open(self, size: int, least: int) -> None:
        if not self._replace and os.path.lexists(self._path):
            raise self._taken()
        folder = self._path.parent
        try:
            room = os.statvfs(folder)
            if room.f_bavail * room.f_frsize < least:
                raise _full(
                    self.name, f"at least {least} bytes are to come, and {room.f_bavail * room.f_frsize} are free"
                )
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            # What nobody else could read before nobody else reads while it is written.
            old = self._old()
            self._descriptor = os.open(self._temporary, flags, stat.S_IMODE(old.st_mode) & 0o666 if old else 0o666)
            os.ftruncate(self._descriptor, size)
            # What is left out stays a hole of the new file.
            self._writer = BlockWriter(self._descriptor, size, on_zeros=lambda _start, _end: None)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise _full(self.name, error.strerror or "no room") from error
            raise RefusedError(
                "target.unwritable",
                f"cannot write {self.name}: {error.strerror}",
                hint=f"check the directory and its permissions: ls -ld {folder}",
                field="destination",
            ) from error

    def commit(self) -> None:
        assert self._writer is not None  # noqa: S101 - for the type checker
        try:
            self._writer.finish()
            os.fsync(self._descriptor)
            if self._replace:
                self._be_like(self._old())
                self._temporary.replace(self._path)
            else:
                self._give_name()
            with suppress(OSError):
                # Not every file system lets a directory be synchronised.
                _sync_directory(self._path.parent)
        except OSError as error:
            raise write_error(self.name, error) from error
        os.close(self._descriptor)
        self._descriptor = -1

    def abandon(self) -> str:
        if self._descriptor < 0:
            return ""
        os.close(self._descriptor)
        self._descriptor = -1
        try:
            self._temporary.unlink(missing_ok=True)
        except OSError as error:
            return f"{self._temporary} could not be removed: {error.strerror}"
        return ""

    def _old(self) -> os.stat_result | None:
        """The file that is to be replaced, if there is one."""
        try:
            return self._path.stat() if self._replace else None
        except FileNotFoundError:
            return None

    def _be_like(self, old: os.stat_result | None) -> None:
        if old is not None:
            with suppress(PermissionError):
                # Only root gives files away.
                os.fchown(self._descriptor, old.st_uid, old.st_gid)
            os.fchmod(self._descriptor, stat.S_IMODE(old.st_mode))

    def _give_name(self) -> None:
        """A name that somebody took meanwhile is not taken away, where the file system has hard links."""
        try:
            self._path.hardlink_to(self._temporary)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            self._temporary.rename(self._path)
        else:
            self._temporary.unlink()

    def _taken(self) -> RefusedError:
        return RefusedError(
            "target.exists",
            f"cannot unbundle to {self.name}: it exists already",
            hint="choose another name, or give --force to have it replaced once the new image is proved",
            field="destination",
        )


def choose_file(path: Path, *, force: bool) -> FileTarget:
    """The file of that name, or of what a link of that name leads to. Raises `RefusedError` for anything else."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        what = "a directory" if path.is_dir() else "neither a file nor a block device"
        raise RefusedError(
            "target.kind",
            f"cannot unbundle to {path}: it is {what}",
            hint="give the name of a new file, a block device, or - for the standard output",
            field="destination",
        )
    return FileTarget(path, replace=force)


def _full(name: str, why: str) -> RefusedError:
    return RefusedError(
        "target.full",
        f"cannot unbundle to {name}: {why}",
        hint=f"free some space: df -h {Path(name).parent}",
        field="destination",
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
