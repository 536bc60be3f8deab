"""A local directory as destination: the same files that the AMI tools write.

A file appears under its name only when it is whole and on the disk: it is written under a hidden temporary name,
synchronised, and then linked, which fails rather than replaces when the name is taken.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import aiofiles.os

from amistream.errors import StoreError
from amistream.flow.uncut import uncut
from amistream.stores.port import OnBytes, Stored, whole_checksum
from amistream.stores.whole_file import write_whole_file


class DirectoryStore:
    """Bundles in one directory, made when missing."""

    def __init__(self, directory: Path, *, token: str) -> None:
        """`token` marks this job's temporary files, so that a later process can tell them from another job's."""
        self.location = str(directory)
        self._directory = directory
        self._made = False
        self._token = token
        self._foreign: set[str] = set()

    async def open(self) -> None:
        try:
            await aiofiles.os.makedirs(self._directory)
            self._made = True
        except FileExistsError:
            if not await aiofiles.os.path.isdir(self._directory):
                raise StoreError(
                    "directory.kind",
                    f"cannot write a bundle to {self._directory}: it is not a directory",
                    hint="give another directory with --to",
                    field="destinations",
                ) from None
        except OSError as error:
            raise self._failure("make", self._directory.name, error) from error

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data
        return whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        # Its calls run on threads and hold the part's buffer: a cancel waits, and then the undo finds the file.
        await uncut(self._write(name, data, sha1))
        on_bytes(len(data))

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await uncut(self._write(name, memoryview(data), sha1))
        await asyncio.to_thread(self._sync_directory)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        path = self._directory / name
        try:
            return await (asyncio.to_thread(_read, path) if read else asyncio.to_thread(_look, path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure("read", name, error) from error

    async def read(self, name: str, start: int, length: int) -> bytes:
        try:
            return await asyncio.to_thread(_read_range, self._directory / name, start, length)
        except OSError as error:
            raise self._failure("read", name, error) from error

    async def names(self, prefix: str) -> list[str]:
        try:
            return sorted(name for name in await aiofiles.os.listdir(self._directory) if name.startswith(prefix))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failure("list", prefix, error) from error

    async def delete(self, name: str) -> None:
        own = [] if name in self._foreign else [self._directory / name]
        for path in (self._temporary(name), *own):
            await self._unlink(path)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        del unfinished  # the token tells which files are this job's
        for name in await self.names("."):
            if name.endswith(f".{self._token}.partial"):
                await self._unlink(self._directory / name)

    async def close(self) -> None:
        if self._made:
            try:
                await aiofiles.os.rmdir(self._directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise self._failure("remove", self._directory.name, error) from error

    async def _unlink(self, path: Path) -> None:
        try:
            await aiofiles.os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failure("remove", path.name, error) from error

    def _temporary(self, name: str) -> Path:
        return self._directory / f".{name}.{self._token}.partial"

    async def _write(self, name: str, data: memoryview, sha1: bytes) -> None:
        temporary = self._temporary(name)
        try:
            try:
                await asyncio.to_thread(write_whole_file, temporary, data)
                await aiofiles.os.link(temporary, self._directory / name)
            except FileExistsError:
                stored = await self.stat(name)
                if stored is None or not stored.is_the(len(data), whole_checksum(sha1)):
                    self._foreign.add(name)
                    raise StoreError(
                        "store.exists",
                        f"cannot write {self._directory / name}: it exists already, with other content",
                        hint="remove the older bundle, or choose another --prefix or directory",
                        field="destinations",
                    ) from None
            await aiofiles.os.unlink(temporary)
        except OSError as error:
            raise self._failure("write", name, error) from error

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _failure(self, verb: str, name: str, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return StoreError(
            "directory.full" if full else "directory.failed",
            f"cannot {verb} {name} in {self._directory}: {error.strerror}",
            hint=f"free some space: df -h {self._directory}" if full else "check the directory and its permissions",
            field="destinations",
        )


def _read_range(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _look(path: Path) -> Stored:
    return Stored(path.stat().st_size, None)


def _read(path: Path) -> Stored:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False))
        return Stored(file.tell(), whole_checksum(digest.digest()))
