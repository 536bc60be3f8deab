"""Where an unbundled image goes: a new file, or the standard output. (`bundles.image_device`: a block device.)

A file is sparse, has its name only when it is whole, proved and on the disk, and nothing of a failed one stays. What
goes to the standard output is gone when it turns out to be wrong: the exit status tells.

Blocking: for threads. Failures of the system become `RefusedError` before anything was written, `JobError` after.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from amistream.bundles.image_blocks import ZEROS, Block, BlockWriter
from amistream.bundles.unpack.unarchive import Piece
from amistream.errors import AmistreamError, JobError, RefusedError
from amistream.values import MIB

_POLL_MS = 200
_MOST_HELD = 256
"""Pieces that go to the writing thread together, at most. Each is a view, and keeps what it is a view of."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Target(Protocol):
    """One image's way out: `open`; the image by way of two threads; `commit` or, if anything fails, `abandon`."""

    name: str

    def open(self, size: int, least: int) -> None:
        """Make ready for an image of `size` bytes of which at least about `least` hold data."""

    def gather(self, offset: int, data: memoryview) -> Iterator[Any]:
        """Take bytes of the image, ascending, from the thread that made them, and yield what `write` is to have.

        What is passed over are zeros.
        """

    def rest(self) -> Iterator[Any]:
        """The image was gathered: yield what is still held."""

    def write(self, gathered: Any) -> None:
        """Send it on its way, on a thread that may wait."""

    def commit(self) -> None:
        """The image was proved: have it on the disk, under its name."""

    def abandon(self) -> str:
        """Undo `open`, which may have failed; returns what cannot be undone, in words, or ''. Does not raise."""

    def stop(self) -> None:
        """Let a thread go that is blocked in any of the others. From any thread."""


class BlockTarget:
    """What a `BlockWriter` writes to: the part that is the same for files and devices. `_writer` is made by `open`."""

    name: str
    _writer: BlockWriter | None = None

    def gather(self, offset: int, data: memoryview) -> Iterator[Block]:
        assert self._writer is not None  # noqa: S101 - for the type checker
        return self._writer.gather(offset, data)

    def rest(self) -> Iterator[Block]:
        assert self._writer is not None  # noqa: S101 - for the type checker
        return self._writer.rest()

    def write(self, gathered: Block) -> None:
        assert self._writer is not None  # noqa: S101 - for the type checker
        try:
            self._writer.write(gathered)
        except OSError as error:
            raise failed(self.name, error) from error

    def stop(self) -> None:
        if self._writer is not None:
            self._writer.stop()


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
            raise failed(self.name, error) from error
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


class StreamTarget:
    """The standard output, zeros and all."""

    name = "-"

    def __init__(self, descriptor: int) -> None:
        self._given = descriptor
        self._descriptor = -1
        self._pipe = False
        self._stopped = False
        self._position = 0
        self._size = 0
        self._held: list[Piece] = []
        self._held_bytes = 0

    def open(self, size: int, least: int) -> None:
        del least
        if os.isatty(self._given):
            raise RefusedError(
                "target.terminal",
                "cannot unbundle to the terminal: an image is no text",
                hint="send it to a file or a program: amistream unbundle MANIFEST - | ...",
                field="destination",
            )
        self._size = size
        self._pipe = stat.S_ISFIFO(os.fstat(self._given).st_mode)
        if self._pipe:
            # Opened anew it does not block, without changing what others who have it see. So a cancel is heeded even
            # when the reader stands still.
            with suppress(OSError):
                self._descriptor = os.open(f"/proc/self/fd/{self._given}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            self._descriptor = os.dup(self._given)

    def gather(self, offset: int, data: memoryview) -> Iterator[list[Piece]]:
        # A sparse archive may come in pieces of 4 KiB: to wake another thread for each would take longer than to write.
        self._held.append(Piece(offset, data))
        self._held_bytes += len(data)
        if self._held_bytes >= MIB or len(self._held) == _MOST_HELD:
            yield self._let_go()

    def rest(self) -> Iterator[list[Piece]]:
        # What is left is zeros.
        self._held.append(Piece(self._size, memoryview(b"")))
        yield self._let_go()

    def write(self, gathered: list[Piece]) -> None:
        for piece in gathered:
            self._fill(piece.offset)
            self._write(piece.data)

    def commit(self) -> None:
        self._close()

    def abandon(self) -> str:
        self._close()
        return f"{self._position} bytes went to the standard output before: they are no image" if self._position else ""

    def stop(self) -> None:
        self._stopped = True

    def _let_go(self) -> list[Piece]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def _fill(self, end: int) -> None:
        while self._position < end and not self._stopped:
            self._write(memoryview(ZEROS)[: end - self._position])

    def _write(self, data: memoryview) -> None:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while data and not self._stopped:
            try:
                if self._pipe and not ready.poll(_POLL_MS):
                    continue
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                continue
            except OSError as error:
                raise failed("the standard output", error) from error
            self._position += written
            data = data[written:]

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


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


def failed(name: str, error: OSError) -> AmistreamError:
    """A write that failed, in words."""
    if error.errno in _NO_ROOM:
        return JobError(
            "target.full",
            f"cannot write {name}: {error.strerror}",
            hint=f"free some space: df -h {Path(name).parent}; nothing of the image is left behind",
            field="destination",
        )
    return JobError("target.failed", f"cannot write {name}: {error.strerror}", field="destination")


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
