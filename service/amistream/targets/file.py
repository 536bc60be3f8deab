"""Where an unbundled image goes: a new file, or the standard output. (`bundles.image_device`: a block device.)

A file is sparse, has its name only when it is whole, proved and on the disk, and nothing of a failed one stays. What
goes to the standard output is gone when it turns out to be wrong: the exit status tells.

Blocking: for threads. Failures of the system become `RefusedError` before anything was written, `JobError` after.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.new_file import NewFile, sync_directory
from amistream.targets.blocks import _NO_ROOM, BlockTarget, BlockWriter, write_error


class FileTarget(BlockTarget):
    """A new file beside which it is written under a temporary name."""

    def __init__(self, path: Path, *, replace: bool) -> None:
        """With `replace` a file that is there gives way to the new one once that is whole."""
        self.name = str(path)
        self._path = path
        self._replace = replace
        self._file: NewFile | None = None

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
            # What nobody else could read before nobody else reads while it is written.
            old = self._old()
            self._file = NewFile(self._path, mode=stat.S_IMODE(old.st_mode) & 0o666 if old else 0o666)
            self._file.open()
            os.ftruncate(self._file.descriptor, size)
            # What is left out stays a hole of the new file.
            self._writer = BlockWriter(self._file.descriptor, size, on_zeros=lambda _start, _end: None)
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
        assert self._file is not None  # noqa: S101 - for the type checker
        try:
            self._writer.finish()
            if self._replace:
                self._keep_owner(self._file.descriptor)
                self._file.replace()
            else:
                self._file.link(or_rename=True)
            with suppress(OSError):
                # Not every file system lets a directory be synchronised.
                sync_directory(self._path.parent)
            self._file.close()
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise write_error(self.name, error) from error

    def abandon(self) -> str:
        if self._file is None:
            return ""
        try:
            self._file.close()
        except OSError as error:
            return f"{self._file.temporary} could not be removed: {error.strerror}"
        return ""

    def _old(self) -> os.stat_result | None:
        """The file that is to be replaced, if there is one."""
        try:
            return self._path.stat() if self._replace else None
        except FileNotFoundError:
            return None

    def _keep_owner(self, descriptor: int) -> None:
        """Give the new file the owner and mode of the file it replaces."""
        old = self._old()
        if old is not None:
            with suppress(PermissionError):
                # Only root gives files away.
                os.fchown(descriptor, old.st_uid, old.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))

    def _taken(self) -> RefusedError:
        return RefusedError(
            "target.exists",
            f"cannot unbundle to {self.name}: it exists already",
            hint="choose another name, or give --force to have it replaced once the new image is proved",
            field="destination",
        )


def _full(name: str, why: str) -> RefusedError:
    return RefusedError(
        "target.full",
        f"cannot unbundle to {name}: {why}",
        hint=f"free some space: df -h {Path(name).parent}",
        field="destination",
    )
