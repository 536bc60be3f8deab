"""Image files and block devices as volumes, opened once, read-only.

All calls use the open descriptor, not the path, so a path swapped in between has no effect. The kind and place of the
file are checked before it is opened (`roots`). The calls block: use them on threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from amistream.errors import RefusedError, SourceError
from amistream.host.devices import device_size, sectors_written
from amistream.ports.volume import Kind
from amistream.roots import Roots, open_pinned, pinned
from amistream.source.extents import find_data
from amistream.values import GIB, Extent, quoted

_SYNC_FILE_RANGE_WRITE = 2

_ATTRIBUTES = ("st_nlink", "st_mode", "st_uid", "st_gid")


class FileVolume:
    """A volume read through a file descriptor, which it owns."""

    def __init__(self, path: Path, descriptor: int, *, live: bool = False) -> None:
        """`live`: accept a device that is written to while it is read."""
        self.path = path
        self._descriptor = descriptor
        self.identity = os.fstat(descriptor)
        """The file when it was opened, whatever has its path now."""
        self.kind = Kind.BLOCK_DEVICE if stat.S_ISBLK(self.identity.st_mode) else Kind.IMAGE_FILE
        self.size = self._size()
        self.mtime = max(0, int(self.identity.st_mtime))
        self._live = live
        self._opened_as = self._name()
        # Writes to a mapped page that is dirty leave no trace; once that is being written out, the next one changes the
        # file's times (sync_file_range(2); measured on ext4 and XFS). This begins it, without waiting for the disk.
        begin_to_write_out = getattr(ctypes.CDLL(None), "sync_file_range", None)
        if self.kind is Kind.IMAGE_FILE and begin_to_write_out is not None:
            begin_to_write_out(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)
        if self.kind is Kind.BLOCK_DEVICE:
            # A mounted file system writes past the cache of its device: what was read before may be out of date, also
            # once it is mounted read-only or frozen.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        self._before = self._witness()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        try:
            done = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            done = 0  # not in the page cache, or not supported; a real error occurs again in the ordinary read
        if done == len(buffer):
            return True
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise SourceError(
                    "source.read_error",
                    f"cannot read {self.path} at byte {offset + done}: {error.strerror}",
                    hint="the disk may be failing: see `dmesg`; bundle from a good copy or a snapshot",
                    field="source",
                ) from error
            if count == 0:
                raise SourceError(
                    "source.shrunk",
                    f"cannot read {self.path} to its end: it ends at byte {offset + done} and had {self.size} bytes",
                    hint="nothing may write to the volume while it is bundled; use a snapshot",
                    field="source",
                )
            done += count
        return False

    def will_need(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def extents(self) -> tuple[Extent, ...]:
        return find_data(self._descriptor, self.size)

    def check_unchanged(self) -> None:
        if self._witness() != self._before:
            raise SourceError(
                "source.changed",
                f"cannot use the data read from {self.path}: it was written to in the meantime",
                hint="nothing may write to the volume while it is bundled; use a snapshot and try again",
                field="source",
            )

    def interrupt(self) -> None:
        """Do nothing: a read of a file or device ends by itself."""

    def rewind(self) -> None:
        """Do nothing: a file or device can be read again at any time."""

    def close(self) -> None:
        os.close(self._descriptor)

    def _witness(self) -> tuple[int, ...]:
        """Values that differ once the volume was written to.

        For a file: size and times. The ctime reveals a writer who restores the mtime, but is ignored if a change of
        name, links, mode or owner explains it. For a device: the sectors written so far, after pending writes.
        """
        if self.kind is Kind.IMAGE_FILE:
            now = os.fstat(self._descriptor)
            renamed = self._name() != self._opened_as
            explained = renamed or any(getattr(now, name) != getattr(self.identity, name) for name in _ATTRIBUTES)
            return now.st_size, now.st_mtime_ns, (self.identity if explained else now).st_ctime_ns
        if self._live:
            return (self._size(),)
        os.fsync(self._descriptor)
        written = sectors_written(self.identity.st_rdev)
        return (self._size(),) if written is None else (self._size(), written)

    def _name(self) -> Path:
        return Path(f"/proc/self/fd/{self._descriptor}").readlink()

    def _size(self) -> int:
        if self.kind is Kind.IMAGE_FILE:
            return os.fstat(self._descriptor).st_size
        return device_size(self._descriptor)


_IMAGE_ID_HINT = (
    "give the manifest of the AMI's bundle, s3:// and its location: "
    "aws ec2 describe-images --image-ids ami-ID --query 'Images[].ImageLocation'"
)


def open_volume(path: Path, roots: Roots | None = None, *, live: bool = False) -> FileVolume:
    """Open an image file or block device for reading. Raises `RefusedError` with the reason against it.

    With `roots` the file must lie within them; for `live` see `FileVolume`.
    """
    try:
        with pinned(path, roots, field="source") as pin:
            mode = os.fstat(pin).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise _wrong_kind(path, mode)
            # Non-blocking: a device without its medium, or a lease on the file, would block the opening.
            descriptor = open_pinned(pin, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise RefusedError(
            "source.missing",
            f"cannot bundle {path}: there is no such file or device",
            hint=_IMAGE_ID_HINT if path.name.startswith("ami-") else "check the path; `lsblk` lists the block devices",
            field="source",
        ) from error
    except OSError as error:
        hint = f"check its permissions: ls -l {quoted(path)}"
        if error.errno == errno.EACCES:
            hint += "; the user that runs the job reads the file: use sudo, for a job with --in-process"
        message = f"cannot read {path}: {error.strerror}"
        raise RefusedError("source.unreadable", message, hint=hint, field="source") from error
    try:
        return FileVolume(path, descriptor, live=live)
    except BaseException:
        os.close(descriptor)
        raise


def _wrong_kind(path: Path, mode: int) -> RefusedError:
    what = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
    hint = "give an image file, such as disk.img, or a block device, such as /dev/xvdf"
    if stat.S_ISFIFO(mode):
        what, hint = "a pipe", "send it to standard input: ... | amistream bundle - --image-size SIZE"
    return RefusedError("source.kind", f"cannot bundle {path}: it is {what}", hint=hint, field="source")


def too_large(path: Path, size: int, most: int) -> RefusedError:
    """The error for a disk that is larger than an AMI may be."""
    return RefusedError(
        "source.too_large",
        f"cannot bundle {path}: it has {size / GIB:.2f} GiB, and an instance store-backed AMI has at most "
        f"{most / GIB:g} GiB",
        hint="shrink the file system (resize2fs) and the volume; for clouds that accept more, set max_image_size",
        field="source",
    )
