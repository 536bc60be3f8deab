"""Writes a new file whole or not at all.

The file is written under a temporary name beside its own, and gets its name once it is on the disk. Nothing of a file
that failed stays. All calls block and raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

_LONGEST_NAME = 255
"""Bytes of a file's name. Linux limit."""


class NewFile:
    """`open`, `write`, then `link` or `replace`; `close` at the end, whatever happened. `with` opens and closes."""

    def __init__(
        self, path: Path, *, token: str = "", mode: int = 0o666, folder: int | None = None, direct: bool = False
    ) -> None:
        """Write to `path`, or to that name in the open directory `folder`.

        `token` gives a temporary name that can be found again after a crash; without, the name is random. `direct`
        writes past the page cache where the file system allows it: copying through it costs more CPU time than
        compressing zeros does, and pushes out what other programs keep there.
        """
        self.descriptor = -1
        self.mode = mode
        self.temporary = path.with_name(temporary_name(path.name, token) if token else _random_name(path.name))
        self._path = path
        self._folder = folder
        self._direct = direct

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Create the temporary file. Raises `FileExistsError` when its name is taken; that file stays."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        if self._direct:
            try:
                self._open(flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # This file system has no direct writes; some have made the file all the same.
                self._direct = False
                self._remove_temporary()
        if not self._direct:
            self._open(flags)

    def write(self, data: memoryview | bytes) -> None:
        """Append all of `data`. Direct writes want memory and lengths on page bounds; the rest goes the usual way."""
        rest = memoryview(data)
        if self._direct:
            rest = self._write_direct(rest)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def sync(self) -> None:
        os.fsync(self.descriptor)

    def link(self, *, or_rename: bool = False) -> None:
        """Give the file its name once it is on the disk. Raises `FileExistsError`, and never replaces a file.

        `or_rename` renames where the file system has no hard links, and there replaces a file that came meanwhile.
        """
        self.sync()
        temporary, folder = self.temporary, self._folder
        try:
            os.link(temporary, self._path, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if not or_rename or error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            self.replace()

    def replace(self) -> None:
        """Give the file its name once it is on the disk, in place of a file that has it."""
        self.sync()
        os.replace(self.temporary, self._path, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Close the file and remove its temporary name; the file itself goes if it has no other."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)
            self._remove_temporary()

    def _open(self, flags: int) -> None:
        self.descriptor = os.open(self.temporary, flags, self.mode, dir_fd=self._folder)

    def _write_direct(self, data: memoryview) -> memoryview:
        """Write whole pages, and the way of writing is the usual one afterwards; returns the rest."""
        pages = len(data) // mmap.PAGESIZE * mmap.PAGESIZE
        written = 0
        while written < pages:
            try:
                written += os.write(self.descriptor, data[written:pages])
            except OSError as error:
                if error.errno == errno.EINVAL:
                    break  # memory on no page bound, or a short write that ended off one
                raise
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
        self._direct = False
        return data[written:]

    def _remove_temporary(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.temporary, dir_fd=self._folder)


def temporary_name(name: str, token: str) -> str:
    return f".{name}.{token}.partial"


def sync_directory(path: Path, *, folder: int | None = None) -> None:
    """Have the names in a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_name(name: str) -> str:
    token = secrets.token_hex(4)
    most = _LONGEST_NAME - len(temporary_name("", token))
    return temporary_name(os.fsdecode(os.fsencode(name)[:most]), token)
