"""Stores bundles in a local directory: the same files that the AMI tools write.

A file appears under its name only when it is complete and on the disk, and never replaces another (`NewFile`).

Each call opens the directory anew, checks it (with `roots`: that it lies within them), and works through that one
descriptor. So a link or another directory put in its place is neither written nor read. With roots, the same holds for
everything in the directory that is not a plain file.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from amistream.errors import RefusedError, RivalError, StoreError, TakenError
from amistream.flow.cancel import await_answer, finish_despite_cancel
from amistream.host.file_lock import locked
from amistream.host.new_file import NewFile, sync_directory, temporary_name
from amistream.ports.store import (
    LARGEST_CLAIM,
    NO_CHECKSUM,
    Identity,
    OnBytes,
    Stored,
    StoredClaim,
    find,
    sha1_of,
    whole_checksum,
)
from amistream.ports.unanswered import Unanswered
from amistream.roots import Roots, make_directory, pinned_directory
from amistream.values import LARGEST_PART, MIB, quoted

FIELD = "destinations"


class DirectoryStore:
    """A `Store` in one directory, which `open` creates if it is missing."""

    def __init__(self, directory: Path, *, token: str, roots: Roots | None = None) -> None:
        """`token` marks this job's temporary files, so that a later process can find them."""
        self.location = str(directory)
        self._directory = directory
        self._roots = roots
        self.unanswered = Unanswered()
        """Stays empty: every call waits for its thread."""
        self.keeps_marks = False
        self.made_place: Identity | None = None
        self._made_above: list[tuple[Path, Identity]] = []
        """Parents that `open` made, the lowest first: they go with the directory."""
        self._token = token
        self._foreign: set[str] = set()
        self._identity: Identity | None = None
        """Device and inode of the directory at `open`; any other directory is refused afterwards."""

    async def open(self, *, made_place: Identity | None = None) -> None:
        self.made_place = made_place
        # A cancel waits briefly to learn what was made, but not for ever at a dead network mount.
        await await_answer(asyncio.to_thread(self._open), lambda: True)

    async def checksum(self, name: str, data: memoryview, sha1: bytes) -> str:
        del name, data
        return whole_checksum(sha1)

    async def put(self, name: str, data: memoryview, sha1: bytes, on_bytes: OnBytes) -> None:
        # The thread uses the part's buffer: a cancel waits for it, so that the undo finds the file.
        await finish_despite_cancel(asyncio.to_thread(self._write, name, data, sha1))
        on_bytes(len(data))

    async def commit(self, name: str, data: bytes, sha1: bytes) -> None:
        await finish_despite_cancel(asyncio.to_thread(self._write, name, memoryview(data), sha1))
        await asyncio.to_thread(self._sync_directory)

    async def stat(self, name: str, *, read: bool = True) -> Stored | None:
        with self.failures("read", name), suppress(FileNotFoundError):
            return await asyncio.to_thread(self._stat, name, read=read)
        return None

    async def read(self, name: str, start: int, length: int) -> bytes:
        with self.failures("read", name):
            return await asyncio.to_thread(self._read_range, name, start, length)

    async def names(self, prefix: str) -> list[str]:
        with self.failures("list", prefix), suppress(FileNotFoundError):
            return await asyncio.to_thread(self._names, prefix)
        return []

    async def delete(self, name: str) -> None:
        own = [] if name in self._foreign else [name]
        await self._unlink(self._temporary(name), *own)

    async def remove(
        self, name: str, size: int, *checksums: str, progress: Callable[[], object] = lambda: None
    ) -> None:
        # First the temporary name: with roots a file with two names counts as somebody else's.
        await self._unlink(self._temporary(name))
        found = await find(self, name, size, progress)
        if found is not None and found.is_the(size, *checksums):
            await self._unlink(name)

    async def tidy(self, unfinished: Mapping[str, str]) -> None:
        del unfinished  # the token marks this job's files
        await self._unlink(*[name for name in await self.names(".") if name.endswith(f".{self._token}.partial")])

    async def abandon(self, begin: str, belongs: Callable[[str], bool]) -> None:
        left = await self.names(f".{begin}")
        await self._unlink(*(name for name in left if belongs(_whole_name(name))))

    async def sweep(self, begin: str, belongs: Callable[[str], bool], *, made_before: datetime) -> int:
        names = [name for name in await self.names(begin) if belongs(name)]
        names += [name for name in await self.names(f".{begin}") if belongs(_whole_name(name))]
        with self.failures("look at", begin), suppress(FileNotFoundError):
            old = await asyncio.to_thread(self._older, names, made_before.timestamp())
            await self._unlink(*old)
            return len(old)
        return 0

    async def read_claim(self, name: str) -> StoredClaim | None:
        with self.failures("read", name), suppress(FileNotFoundError):
            return await asyncio.to_thread(self._read_claim, name)
        return None

    async def put_claim(self, name: str, text: bytes, *, instead_of: StoredClaim | None) -> StoredClaim:
        return await finish_despite_cancel(asyncio.to_thread(self._put_claim, name, text, instead_of))

    async def remove_claim(self, claim: StoredClaim) -> None:
        with self.failures("remove", claim.name), suppress(FileNotFoundError):
            await finish_despite_cancel(asyncio.to_thread(self._remove_claim, claim))

    async def close(self) -> None:
        if self.made_place is not None:
            await asyncio.to_thread(self._remove_directory)

    def _read_claim(self, name: str) -> StoredClaim:
        with self._place() as place:
            return self._claim_in(place, name)

    def _claim_in(self, place: int, name: str) -> StoredClaim:
        with os.fdopen(self._open_plain(place, name), "rb") as file:
            text = file.read(LARGEST_CLAIM + 1)
            made_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
        whole = text if len(text) <= LARGEST_CLAIM else b""
        return StoredClaim(name=name, text=whole, version=whole_checksum(sha1_of(text)), made_at=made_at)

    def _put_claim(self, name: str, text: bytes, instead_of: StoredClaim | None) -> StoredClaim:
        with self.failures("write", name), self._place() as place, locked(_path_of(place)):
            found = None
            with suppress(FileNotFoundError):
                found = self._claim_in(place, name)
            if found != instead_of:
                raise RivalError(
                    "claim.rival",
                    f"cannot claim {self._directory / name}: another process has claimed it, or left it, just now",
                    field=FIELD,
                )
            with NewFile(Path(name), token=self._token, folder=place) as file:
                if self._roots is not None:
                    self._roots.share(file.descriptor)
                file.write(text)
                file.replace()
            return self._claim_in(place, name)

    def _remove_claim(self, claim: StoredClaim) -> None:
        with self._place() as place, locked(_path_of(place)):
            if self._claim_in(place, claim.name) == claim:
                os.unlink(claim.name, dir_fd=place)

    @contextmanager
    def _place(self) -> Iterator[int]:
        """Open the directory for a few system calls. Raises OSError; FileNotFoundError if it is missing."""
        with _refusals_translated(), pinned_directory(self._directory, self._roots, field=FIELD) as place:
            if self._identity not in (None, _identity(os.fstat(place))):
                raise StoreError(
                    "directory.replaced",
                    f"cannot continue in {self._directory}: another directory has replaced it since the job began",
                    hint="leave the directory where it is until the job has ended",
                    field=FIELD,
                )
            yield place

    def _open(self) -> None:
        with self.failures("make", self._directory.name):
            try:
                # Within roots others can replace a parent by a link meanwhile, so there parents stay.
                missing = [] if self._roots else [each for each in self._directory.parents if not each.exists()]
                with _refusals_translated():
                    made = make_directory(self._directory, self._roots, field=FIELD)
                self._made_above = [(each, _identity(each.stat())) for each in missing]
                with self._place() as place:
                    self._identity = _identity(os.fstat(place))
                if made:
                    self.made_place = self._identity
            except (FileExistsError, NotADirectoryError):
                raise StoreError(
                    "directory.kind",
                    f"cannot write a bundle to {self._directory}: it is not a directory",
                    hint="give another directory",
                    field=FIELD,
                ) from None

    def _remove_directory(self) -> None:
        """Remove the directory that `open` created, if it is empty, and no other."""
        above, name = self._directory.parent, self._directory.name
        with (
            self.failures("remove", "the directory that the job made"),
            suppress(FileNotFoundError),
            _refusals_translated(),
            pinned_directory(above, self._roots, field=FIELD) as place,
        ):
            now = os.stat(name, dir_fd=place, follow_symlinks=False)
            if _identity(now) == self.made_place and not self._names(""):
                os.rmdir(name, dir_fd=place)
                self._remove_parents()

    def _remove_parents(self) -> None:
        with suppress(OSError):  # one holds something else by now
            for parent, identity in self._made_above:
                if _identity(parent.lstat()) == identity:
                    parent.rmdir()

    async def _unlink(self, *names: str) -> None:
        for name in names:
            with self.failures("remove", name), suppress(FileNotFoundError):
                await asyncio.to_thread(self._remove, name)

    def _remove(self, name: str) -> None:
        with self._place() as place:
            os.unlink(name, dir_fd=place)

    def _temporary(self, name: str) -> str:
        return temporary_name(name, self._token)

    def _write(self, name: str, data: memoryview, sha1: bytes) -> None:
        with self.failures("write", name), self._place() as place:
            try:
                with NewFile(Path(name), token=self._token, folder=place, direct=True) as file:
                    if self._roots is not None:
                        self._roots.share(file.descriptor)
                    file.write(data)
                    file.link()
            except FileExistsError:
                self._check_own(place, name, Stored(len(data), whole_checksum(sha1)))

    def _check_own(self, place: int, name: str, expected: Stored) -> None:
        """Raise `TakenError` unless the existing file has the very bytes that were to be written."""
        try:
            found = self._stat_in(place, name, most=expected.size)
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

    def _stat(self, name: str, *, read: bool) -> Stored:
        with self._place() as place:
            return self._stat_in(place, name, most=LARGEST_PART if read else None)

    def _stat_in(self, place: int, name: str, *, most: int | None) -> Stored:
        """Stat the file; if it has no more than `most` bytes, read it for its checksum."""
        info = os.stat(name, dir_fd=place, follow_symlinks=self._roots is None)
        if not self._is_plain(info):
            return Stored(info.st_size, NO_CHECKSUM)
        if most is None:
            return Stored(info.st_size, None)
        with os.fdopen(self._open_plain(place, name), "rb", buffering=0) as file:
            # Asked again: the opened file may be another one by now, or may be growing.
            size = os.fstat(file.fileno()).st_size
            digest = _sha1(file, size) if size <= most else None
            return Stored(size, NO_CHECKSUM if digest is None else whole_checksum(digest))

    def _read_range(self, name: str, start: int, length: int) -> bytes:
        with self._place() as place, os.fdopen(self._open_plain(place, name), "rb") as file:
            file.seek(start)
            return file.read(length)

    def _open_plain(self, place: int, name: str) -> int:
        """Open a plain file; with roots no link is followed, because it may lead anywhere."""
        follow = 0 if self._roots is None else os.O_NOFOLLOW
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow, dir_fd=place)
        if not self._is_plain(os.fstat(descriptor)):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a plain file")
        return descriptor

    def _is_plain(self, info: os.stat_result) -> bool:
        # With roots: a hard link may show a file elsewhere, whose digest must not leak.
        return stat.S_ISREG(info.st_mode) and (self._roots is None or info.st_nlink == 1)

    def _names(self, prefix: str) -> list[str]:
        with self._place() as place:
            descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        try:
            with os.scandir(descriptor) as entries:
                return sorted(entry.name for entry in entries if entry.name.startswith(prefix))
        finally:
            os.close(descriptor)

    def _older(self, names: Sequence[str], moment: float) -> list[str]:
        """The names of plain files that were last written before the moment."""
        older = []
        with self._place() as place:
            for name in names:
                with suppress(FileNotFoundError):
                    info = os.stat(name, dir_fd=place, follow_symlinks=False)
                    if self._is_plain(info) and info.st_mtime < moment:
                        older.append(name)
        return older

    def _sync_directory(self) -> None:
        with self._place() as place:
            sync_directory(Path(), folder=place)

    @contextmanager
    def failures(self, verb: str, name: str) -> Iterator[None]:
        """Raise `StoreError` "cannot `verb` `name`: why" for an OSError."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            # The directory itself may be removed with the job's other leftovers.
            disk = next((each for each in (self._directory, *self._directory.parents) if each.is_mount()), Path("/"))
            hint = f"free some space: df -h {quoted(disk)}" if full else "check the directory and its permissions"
            if error.errno == errno.EROFS:
                hint = read_only_hint(self._directory)
            raise StoreError(
                "directory.full" if full else "directory.failed",
                f"cannot {verb} {name} in {self._directory}: {error.strerror}",
                hint=hint,
                field=FIELD,
            ) from error


def read_only_hint(directory: Path) -> str:
    """The way out where the unit of systemd lets the daemon only read. A path that is missing would fail the unit."""
    return (
        f"for the daemon: mkdir -p {quoted(directory)}; `systemctl edit amistream`, [Service], "
        f"ReadWritePaths={directory}; `systemctl restart amistream`; otherwise remount the file system"
    )


PIECE = MIB
"""Bytes of one read."""


@contextmanager
def _refusals_translated() -> Iterator[None]:
    """Turn a `RefusedError` into a `StoreError`: a directory may leave the roots in the middle of a job."""
    try:
        yield
    except RefusedError as error:
        raise StoreError(error.code, error.message, hint=error.hint, field=error.field) from error


def _sha1(file: FileIO, size: int) -> bytes | None:
    """Hash the first `size` bytes of the file; None if it is shorter."""
    digest = hashlib.sha1(usedforsecurity=False)
    buffer = memoryview(bytearray(PIECE))
    left = size
    while left and (count := file.readinto(buffer[: min(PIECE, left)])):
        digest.update(buffer[:count])
        left -= count
    return None if left else digest.digest()


def _whole_name(temporary: str) -> str:
    """The name that a file gets whose temporary name is given; '' for another name."""
    return temporary[1:].removesuffix(".partial").rpartition(".")[0] if temporary.endswith(".partial") else ""


def _path_of(place: int) -> Path:
    return Path(f"/proc/self/fd/{place}")


def _identity(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino
