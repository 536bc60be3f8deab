"""A local directory as destination: the same files that the AMI tools write.

A file appears under its name only when it is whole and on the disk, and never in place of another (`NewFile`).

Each call opens the directory anew, judges what it opened (with `roots`: that it lies within them), and works from that
descriptor alone. So a link or another directory that is put in its place meanwhile gets nothing and shows nothing.
With roots, nor does anything in it that is no plain file.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from amistream.errors import RefusedError, StoreError, TakenError
from amistream.flow.cancel import finish_despite_cancel
from amistream.host.new_file import NewFile, sync_directory, temporary_name
from amistream.ports.store import OnBytes, Stored, find, whole_checksum
from amistream.roots import Roots, make_directory, pinned_directory
from amistream.values import LARGEST_PART, MIB

FIELD = "destinations"


class DirectoryStore:
    """Bundles in one directory, made when missing."""

    def __init__(self, directory: Path, *, token: str, roots: Roots | None = None) -> None:
        """`token` marks this job's temporary files, so that a later process can distinguish them from another job's."""
        self.location = str(directory)
        self._directory = directory
        self._roots = roots
        self._made = False
        self._token = token
        self._foreign: set[str] = set()
        self._identity: tuple[int, int] | None = None
        """Device and inode of what was opened: no other directory is worked in afterwards."""

    async def open(self) -> None:
        await finish_despite_cancel(asyncio.to_thread(self._open))

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data
        return whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        # The thread holds the part's buffer: a cancel waits, and then the undo finds the file.
        await finish_despite_cancel(asyncio.to_thread(self._write, name, data, sha1))
        on_bytes(len(data))

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await finish_despite_cancel(asyncio.to_thread(self._write, name, memoryview(data), sha1))
        await asyncio.to_thread(self._sync_directory)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        try:
            return await asyncio.to_thread(self._look, name, read=read)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("read", name, error) from error

    async def read(self, name: str, start: int, length: int) -> bytes:
        try:
            return await asyncio.to_thread(self._read_range, name, start, length)
        except OSError as error:
            raise self._failure("read", name, error) from error

    async def names(self, prefix: str) -> list[str]:
        try:
            return await asyncio.to_thread(self._names, prefix)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failure("list", prefix, error) from error

    async def delete(self, name: str) -> None:
        own = [] if name in self._foreign else [name]
        await self._unlink(self._temporary(name), *own)

    async def remove(self, name: str, size: int, *checksums: str) -> None:
        # First: with roots a file that has its temporary name beside its own counts as somebody else's.
        await self._unlink(self._temporary(name))
        found = await find(self, name, size)
        if found is not None and found.is_the(size, *checksums):
            await self._unlink(name)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        del unfinished  # the token marks the files of this job
        await self._unlink(*[name for name in await self.names(".") if name.endswith(f".{self._token}.partial")])

    async def close(self) -> None:
        if self._made:
            try:
                await asyncio.to_thread(self._remove_directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise self._failure("remove", self._directory.name, error) from error

    @contextmanager
    def _place(self) -> Iterator[int]:
        """The directory, for one call of the system after another. Raises OSError, FileNotFoundError when missing."""
        with _refusals_translated(), pinned_directory(self._directory, self._roots, field=FIELD) as place:
            if self._identity not in (None, _identity(os.fstat(place))):
                raise StoreError(
                    "directory.replaced",
                    f"cannot go on in {self._directory}: another directory has taken its place since the job began",
                    hint="leave the directory where it is until the job has ended",
                    field=FIELD,
                )
            yield place

    def _open(self) -> None:
        try:
            with _refusals_translated():
                self._made = make_directory(self._directory, self._roots, field=FIELD)
            with self._place() as place:
                self._identity = _identity(os.fstat(place))
        except (FileExistsError, NotADirectoryError):
            raise StoreError(
                "directory.kind",
                f"cannot write a bundle to {self._directory}: it is not a directory",
                hint="give another directory",
                field=FIELD,
            ) from None
        except OSError as error:
            raise self._failure("make", self._directory.name, error) from error

    def _remove_directory(self) -> None:
        """Remove what `open` made, and only that."""
        with _refusals_translated(), pinned_directory(self._directory.parent, self._roots, field=FIELD) as above:
            now = os.stat(self._directory.name, dir_fd=above, follow_symlinks=False)
            if _identity(now) == self._identity:
                os.rmdir(self._directory.name, dir_fd=above)

    async def _unlink(self, *names: str) -> None:
        for name in names:
            try:
                await asyncio.to_thread(self._remove, name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failure("remove", name, error) from error

    def _remove(self, name: str) -> None:
        with self._place() as place:
            os.unlink(name, dir_fd=place)

    def _temporary(self, name: str) -> str:
        return temporary_name(name, self._token)

    def _write(self, name: str, data: memoryview, sha1: bytes) -> None:
        try:
            with self._place() as place:
                try:
                    with NewFile(Path(name), token=self._token, folder=place, direct=True) as file:
                        file.write(data)
                        file.link()
                except FileExistsError:
                    self._check_own(place, name, Stored(len(data), whole_checksum(sha1)))
        except OSError as error:
            raise self._failure("write", name, error) from error

    def _check_own(self, place: int, name: str, expected: Stored) -> None:
        """Raise `StoreError` unless the name is taken by the very bytes that were to be written."""
        try:
            found = self._look_in(place, name, most=expected.size)
        except FileNotFoundError:
            found = None
        if found != expected:
            self._foreign.add(name)
            raise TakenError(
                "store.exists",
                f"cannot write {self._directory / name}: it exists already, with other content",
                hint="remove the older bundle, or choose another --prefix or directory",
                field=FIELD,
            )

    def _look(self, name: str, *, read: bool) -> Stored:
        with self._place() as place:
            return self._look_in(place, name, most=LARGEST_PART if read else None)

    def _look_in(self, place: int, name: str, *, most: int | None) -> Stored:
        """Stat the file; one of at most `most` bytes is read for its checksum."""
        about = os.stat(name, dir_fd=place, follow_symlinks=self._roots is None)
        if not self._is_plain(about):
            return Stored(about.st_size, NO_CHECKSUM)
        if most is None:
            return Stored(about.st_size, None)
        with os.fdopen(self._open_plain(place, name), "rb", buffering=0) as file:
            # Asked again of what was opened: somebody may have put another file there, or may be writing to it.
            size = os.fstat(file.fileno()).st_size
            digest = _sha1(file, size) if size <= most else None
            return Stored(size, NO_CHECKSUM if digest is None else whole_checksum(digest))

    def _read_range(self, name: str, start: int, length: int) -> bytes:
        with self._place() as place, os.fdopen(self._open_plain(place, name), "rb") as file:
            file.seek(start)
            return file.read(length)

    def _open_plain(self, place: int, name: str) -> int:
        """Open a plain file; with roots one of this directory, since a link may lead anywhere."""
        follow = 0 if self._roots is None else os.O_NOFOLLOW
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow, dir_fd=place)
        if not self._is_plain(os.fstat(descriptor)):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no plain file")
        return descriptor

    def _is_plain(self, about: os.stat_result) -> bool:
        # With roots: a second name may be that of a file elsewhere, whose digest is not for everybody to see.
        return stat.S_ISREG(about.st_mode) and (self._roots is None or about.st_nlink == 1)

    def _names(self, prefix: str) -> list[str]:
        with self._place() as place:
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        try:
            with os.scandir(descriptor) as entries:
                return sorted(entry.name for entry in entries if entry.name.startswith(prefix))
        finally:
            os.close(descriptor)

    def _sync_directory(self) -> None:
        with self._place() as place:
            sync_directory(Path(), folder=place)

    def _failure(self, verb: str, name: str, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"free some space: df -h {self._directory}" if full else "check the directory and its permissions"
        if error.errno == errno.EROFS:
            hint = (
                f"where the service may write is what ReadWritePaths= names: `systemctl edit amistream`, "
                f"[Service], ReadWritePaths={self._directory}"
            )
        return StoreError(
            "directory.full" if full else "directory.failed",
            f"cannot {verb} {name} in {self._directory}: {error.strerror}",
            hint=hint,
            field=FIELD,
        )


NO_CHECKSUM = "-"
"""Cannot equal any checksum, so such a file never counts as ours."""
PIECE = MIB
"""Bytes read at a time."""


@contextmanager
def _refusals_translated() -> Iterator[None]:
    """Raise `StoreError` instead of `RefusedError`, for example if the directory leaves the roots during a job."""
    try:
        yield
    except RefusedError as error:
        raise StoreError(error.code, error.message, hint=error.hint, field=error.field) from error


def _sha1(file: FileIO, size: int) -> bytes | None:
    """The SHA-1 of a file of `size` bytes, or None when it ends before; what is behind them is not read."""
    digest = hashlib.sha1(usedforsecurity=False)
    buffer = memoryview(bytearray(PIECE))
    left = size
    while left and (count := file.readinto(buffer[: min(PIECE, left)])):
        digest.update(buffer[:count])
        left -= count
    return None if left else digest.digest()


def _identity(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino
