"""Standard input as a volume: read once, from front to back, and of exactly the announced size.

The size must be known before the first byte, because the archive's header contains it. A redirected file or device
(`< disk.img`) is not a stream and is read as a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import time
from pathlib import Path

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Kind
from amistream.source.file import FileVolume
from amistream.source.foreign import AS_IT_IS, HEAD, recognise
from amistream.source.qemu.formats import FOOTER, detect_format
from amistream.values import MIB, Extent

STANDARD_INPUT_PATH = Path("/dev/stdin")
_PIPE_SIZE = MIB
"""The most that Linux grants to any user."""


class StreamVolume:
    """A volume of `size` bytes from a pipe, which it owns. It can be read only once."""

    def __init__(self, descriptor: int, size: int, *, as_it_is: bool = False) -> None:
        """`as_it_is`: accept any first bytes."""
        self._as_it_is = as_it_is
        self._descriptor = descriptor
        self._position = 0
        self._end = b""
        """The last bytes that were read."""
        self._stopped, self._stop = os.pipe2(os.O_CLOEXEC)
        # The sender may run further ahead, in fewer and larger pieces, if the system permits.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(self._stopped, select.POLLIN)
        self.path = STANDARD_INPUT_PATH
        self.identity = os.fstat(descriptor)
        self.kind = Kind.STREAM
        self.size = size
        self.mtime = int(time.time())

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        if offset != self._position:
            raise SourceError(
                "source.stream",
                f"cannot read standard input from byte {offset}: it is at byte {self._position}, and a stream cannot "
                "be read twice",
                hint="send it again from the beginning, or bundle it from a file",
                field="source",
            )
        done = 0
        while done < len(buffer):
            count = self._read(buffer[done:])
            if count == 0:
                raise SourceError(
                    "source.shrunk",
                    f"cannot read standard input to its end: it ended at byte {offset + done}, and --image-size says "
                    f"{self.size}",
                    hint="see the messages of the program that sends it; --image-size must be exact, in bytes",
                    field="source",
                )
            done += count
            self._position += count
        self._end = (self._end + bytes(buffer[-FOOTER:]))[-FOOTER:]
        if not self._as_it_is:
            if offset == 0:
                _refuse_no_disk(bytes(buffer[:HEAD]))
            if self._position == self.size:
                _refuse_footer(self._end, self.size)
        return True

    def will_need(self, offset: int, length: int) -> None:
        pass

    def extents(self) -> tuple[Extent, ...]:
        return (Extent(offset=0, length=self.size),) if self.size else ()

    def check_unchanged(self) -> None:
        """Raise `SourceError` when more data comes than announced: the bytes read are then not the whole volume."""
        if self._position == self.size and self._read(memoryview(bytearray(1))):
            raise SourceError(
                "source.longer",
                f"cannot use the data read from standard input: it continues after the {self.size} bytes of "
                "--image-size",
                hint="--image-size must be exact, in bytes",
                field="source",
            )

    def interrupt(self) -> None:
        """Make a waiting read fail, and every later one."""
        os.write(self._stop, b"!")

    def rewind(self) -> None:
        """Do nothing: a stream cannot go back, so the next pass fails unless no byte was read."""

    def close(self) -> None:
        for descriptor in (self._descriptor, self._stopped, self._stop):
            os.close(descriptor)

    def _read(self, buffer: memoryview) -> int:
        ready = [descriptor for descriptor, _ in self._poll.poll()]
        if self._stopped in ready:
            raise SourceError("source.interrupted", "cannot read on from standard input: the job was stopped")
        try:
            return os.readv(self._descriptor, [buffer])
        except OSError as error:
            raise SourceError(
                "source.read_error",
                f"cannot read standard input at byte {self._position}: {error.strerror}",
                hint="see the messages of the program that sends it",
                field="source",
            ) from error


def _refuse_no_disk(head: bytes) -> None:
    if found := detect_format(head):
        raise SourceError(
            "source.stream_format",
            f"cannot bundle standard input: it is a {found.words} image, which cannot be read from front to back",
            hint=f"give the image's file as SOURCE; {AS_IT_IS}",
            field="source",
        )
    if kind := recognise(head):
        raise SourceError(
            "source.no_disk",
            f"cannot bundle standard input: it is {kind.words}, not a disk",
            hint=kind.hint(""),
            field="source",
        )


def _refuse_footer(end: bytes, size: int) -> None:
    """Refuse a fixed-size VHD, which nothing but its end reveals."""
    if detect_format(b"", end):
        raise SourceError(
            "source.stream_format",
            "cannot bundle standard input: it ends with the footer of a VHD, which is no part of the disk",
            hint=f"leave the footer out: ... | head -c {size - FOOTER} | amistream bundle - --image-size "
            f"{size - FOOTER} --in-process; {AS_IT_IS}",
            field="source",
        )


def open_standard_input(size: int | None, descriptor: int = 0, *, as_it_is: bool = False) -> StreamVolume | FileVolume:
    """Open standard input as a volume; a stream needs its `size`. Raises `RefusedError`."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        mode = 0
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        if begun := os.lseek(descriptor, 0, os.SEEK_CUR):
            raise RefusedError(
                "source.begun",
                f"cannot bundle standard input: {begun} bytes of it were read already",
                hint="give the file itself as SOURCE",
                field="source",
            )
        return FileVolume(STANDARD_INPUT_PATH, os.dup(descriptor))
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise RefusedError(
            "source.no_stream",
            "cannot bundle standard input: nothing is sent there",
            hint="send the volume through a pipe: zcat disk.img.gz | amistream bundle - --image-size 10GiB ...",
            field="source",
        )
    if size is None:
        raise RefusedError(
            "source.size_unknown",
            "cannot bundle standard input: its size is unknown, and must be known before its first byte",
            hint="give the size with --image-size, as 10GiB or in bytes; `gzip -l`, `xz -l` and `qemu-img info` "
            "show it for their files",
            field="image_size",
        )
    return StreamVolume(os.dup(descriptor), size, as_it_is=as_it_is)
