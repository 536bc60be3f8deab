"""Writes an image to a new, sparse file, which gets its name once the image is complete, proved and on the disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from amistream.errors import RefusedError
from amistream.host.new_file import NewFile, sync_directory
from amistream.targets.blocks import NO_ROOM, BlockTarget, BlockWriter, write_errors
from amistream.units import size_text
from amistream.values import quoted


class FileTarget(BlockTarget):
    """A new file. Nothing of a failed one stays."""

    def __init__(self, path: Path, *, replace: bool) -> None:
        """With `replace` an existing file gives way to the new one once the image is proved."""
        self.name = str(path)
        self._path = path
        self._replace = replace
        self._file = NewFile(path)

    def open(self, size: int, least: int) -> None:
        if not self._replace and os.path.lexists(self._path):
            raise self._taken()
        folder = self._path.parent
        try:
            room = os.statvfs(folder)
            free = room.f_bavail * room.f_frsize
            if free < least:
                lacking = size_text(least - free)
                raise _full(self.name, f"it needs at least {size_text(least)}, {lacking} more than are free")
            # While the new file is written it is as private as the one it replaces.
            old = self._old()
            if old is not None:
                self._file.mode = stat.S_IMODE(old.st_mode) & 0o666
            self._file.open()
            os.ftruncate(self._file.descriptor, size)
            # Blocks that are left out stay holes of the new file.
            self._opened = BlockWriter(self._file.descriptor, size, on_zeros=lambda _start, _end: None)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise _full(self.name, error.strerror or "no room") from error
            raise RefusedError(
                "target.unwritable",
                f"cannot write {self.name}: {error.strerror}",
                hint=f"check the directory and its permissions: ls -ld {quoted(folder)}",
                field="destination",
            ) from error

    def commit(self) -> None:
        with write_errors(self.name):
            self.writer.finish()
            if self._replace:
                self._keep_owner()
                self._file.replace()
            else:
                try:
                    self._file.link(or_rename=True)
                except FileExistsError:
                    raise self._taken() from None
            self._file.close()
            with suppress(OSError):
                # Not every file system lets a directory be synchronised.
                sync_directory(self._path.parent)

    def abandon(self) -> str:
        try:
            self._file.close()
        except OSError as error:
            return f"{self._file.temporary} could not be removed: {error.strerror}"
        return ""

    def _old(self) -> os.stat_result | None:
        """Look at the file that is to be replaced, if there is one."""
        try:
            return self._path.stat() if self._replace else None
        except FileNotFoundError:
            return None

    def _keep_owner(self) -> None:
        """Give the new file the owner and mode of the file it replaces."""
        old = self._old()
        if old is not None:
            with suppress(PermissionError):
                # Only root can change the owner.
                os.fchown(self._file.descriptor, old.st_uid, old.st_gid)
            os.fchmod(self._file.descriptor, stat.S_IMODE(old.st_mode))

    def _taken(self) -> RefusedError:
        return RefusedError(
            "target.exists",
            f"cannot unbundle to {self.name}: it exists already",
            hint="choose another name, or give --force to replace it once the new image is proved",
            field="destination",
        )


def _full(name: str, why: str) -> RefusedError:
    return RefusedError(
        "target.full",
        f"cannot unbundle to {name}: {why}",
        hint=f"free some space: df -h {quoted(Path(name).parent)}",
        field="destination",
    )
