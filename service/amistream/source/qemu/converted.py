"""Disk images in other formats (qcow2, VMDK, VHD, VDI ...), read as the disks that they contain, without a raw copy.

`qemu-img` reports the disk's size and the place of each piece. Uncompressed pieces are read directly from the image
file; pieces without a place are holes. Compressed pieces, and formats whose pieces `qemu-img` does not report (VHDX),
are read through `qemu-nbd` of the same package.

An image that refers to other files (a backing file, a data file, a second extent) is refused: a user who may bundle the
image need not be allowed to read those. Its header is checked first, and the programs' messages are shown only to users
who may read any file, because they reveal which files exist.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amistream.errors import RefusedError, SourceError
from amistream.host.program import ToolMissingError, run_tool
from amistream.ports.volume import Kind
from amistream.source.extents import join_extents
from amistream.source.file import FileVolume, too_large
from amistream.source.qemu.formats import Format, check_header
from amistream.source.qemu.headers import cut_short, elsewhere
from amistream.source.qemu.nbd import NbdServer
from amistream.source.qemu.vhd import cut_to_geometry
from amistream.values import KIB, MIB, Extent, quoted

MOST_FACTS = MIB
"""Bytes of `qemu-img info` about an image; each snapshot takes 300."""
MOST_PIECES = 1 << 18
"""Runs of data and of zeros in one disk. A disk of 10 GiB has 163840 when every other cluster of 64 KiB is empty."""

_NO_DRIVER = "Unknown driver"
"""Said by the qemu-img of distributions that leave out formats, as Red Hat's."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the disk. `place` is its offset in the file, or None if only qemu-nbd can read it."""

    offset: int
    length: int
    place: int | None

    @property
    def end(self) -> int:
        return self.offset + self.length


class ConvertedVolume:
    """The disk in an image file, which it owns."""

    def __init__(
        self, file: FileVolume, image_format: Format, size: int, pieces: tuple[Piece, ...], *, confined: bool
    ) -> None:
        self._file = file
        self._format = image_format
        self._confined = confined
        self._pieces = pieces
        self._ends = [piece.end for piece in pieces]
        self._lock = threading.Lock()
        self._server: NbdServer | None = None
        self._interrupted = False
        self.path = file.path
        self.kind = Kind.CONVERTED_IMAGE
        self.size = size
        self.mtime = file.mtime
        self.identity = file.identity

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        in_memory = True
        done = 0
        for piece, start, end in self._runs(offset, len(buffer)):
            zeros, here = start - offset - done, buffer[start - offset : end - offset]
            buffer[done : done + zeros] = bytes(zeros)
            if piece.place is None:
                self._read_through_server(start, here)
                in_memory = False
            else:
                in_memory &= self._file.read_into(piece.place + start - piece.offset, here)
            done = end - offset
        buffer[done:] = bytes(len(buffer) - done)
        return in_memory

    def will_need(self, offset: int, length: int) -> None:
        for piece, start, end in self._runs(offset, length):
            if piece.place is not None:
                self._file.will_need(piece.place + start - piece.offset, end - start)

    def extents(self) -> tuple[Extent, ...]:
        return join_extents((Extent(offset=each.offset, length=each.length) for each in self._pieces), self.size)

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def interrupt(self) -> None:
        """Make a read that waits for qemu-nbd fail, and every later one."""
        self._interrupted = True
        if self._server is not None:
            self._server.interrupt()

    def rewind(self) -> None:
        """Prepare another pass, also after `interrupt`. No read may be in progress."""
        self._end_server()
        self._interrupted = False

    def close(self) -> None:
        self._end_server()
        self._file.close()

    def _runs(self, offset: int, length: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces in a range of the disk, each with its start and end in that range."""
        index = bisect.bisect_right(self._ends, offset)
        while index < len(self._pieces) and self._pieces[index].offset < offset + length:
            piece = self._pieces[index]
            yield piece, max(offset, piece.offset), min(offset + length, piece.end)
            index += 1

    def _read_through_server(self, offset: int, buffer: memoryview) -> None:
        try:
            self._started_server().read_into(offset, buffer)
        except ToolMissingError as error:
            raise _missing(self._file, self._format, str(error)) from None
        except OSError as error:
            raise SourceError(
                "source.read_error",
                f"cannot read the disk in {self.path} at byte {offset}: {_words(error, confined=self._confined)}",
                hint=f"the image may be damaged: qemu-img check {quoted(self.path)}",
                field="source",
            ) from error

    def _end_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _started_server(self) -> NbdServer:
        with self._lock:
            if self._server is None:
                self._server = NbdServer(descriptor_of(self._file), self._format)
                if self._interrupted:
                    self._server.interrupt()
            return self._server


def open_converted(
    file: FileVolume, image_format: Format, *, most: int | None = None, confined: bool = False
) -> ConvertedVolume:
    """Open the disk in the image `file`, which is closed with it. Raises `RefusedError`; `file` then stays open.

    A disk of more than `most` bytes is refused early. `confined`: the user may not read every file.
    """
    check_header(file, image_format)
    try:
        answer = _ask(file, "info", image_format)
        if len(answer) > MOST_FACTS:
            raise OSError(
                f"qemu-img reports more than {MOST_FACTS // KIB} KiB about it: does it have thousands of snapshots?"
            )
        facts: dict[str, Any] = json.loads(answer)
        _check_facts(file, facts, confined=confined)
        size = int(facts["virtual-size"])
        if most is not None and size > most:
            raise too_large(file.path, size, most)
        pieces = _pieces(file, _ask(file, "map", image_format))
    except ToolMissingError as error:
        raise _missing(file, image_format, str(error)) from None
    except OSError as error:
        if _NO_DRIVER in str(error):
            raise _missing(file, image_format, "the driver of qemu-img") from None
        path = quoted(file.path)
        raise RefusedError(
            "source.converter",
            f"cannot read the {image_format.words} image {file.path}: {_words(error, confined=confined)}",
            hint=f"see `qemu-img info {path}` and `qemu-img check {path}`; a virtual machine that uses the image must "
            "be shut down",
            field="source",
        ) from error
    volume = ConvertedVolume(file, image_format, size, pieces, confined=confined)
    if image_format is Format.VHD:
        volume.size = cut_to_geometry(file, volume)
    return volume


def _words(error: OSError, *, confined: bool) -> str:
    return "qemu refuses it" if confined else error.strerror or str(error)


def _ask(file: FileVolume, question: str, image_format: Format) -> bytes:
    options = [question, "--output=json", "--image-opts"]
    return run_tool("qemu-img", options, descriptor_of(file), before=image_format.as_option)


def _check_facts(file: FileVolume, facts: dict[str, Any], *, confined: bool) -> None:
    """Raise `RefusedError` if the disk needs other files, or is encrypted."""
    for other, what in _other_files(facts):
        if confined:
            raise OSError("its header named no other file")
        raise elsewhere(file, f"{what} is in another file, {other}")
    if facts.get("encrypted"):
        raise RefusedError(
            "source.encrypted",
            f"cannot bundle {file.path}: the image is encrypted",
            hint="convert it with qemu-img and its secret into an unencrypted image",
            field="source",
        )


def _pieces(file: FileVolume, listing: bytes) -> tuple[Piece, ...]:
    """The pieces with data. Raises `RefusedError` if the file ends before one of them, or there are too many."""
    if listing.count(b"{") > MOST_PIECES:
        raise RefusedError(
            "source.scattered",
            f"cannot bundle {file.path}: its disk is in more than {MOST_PIECES} pieces",
            hint=f"make a raw image of it: qemu-img convert -O raw {quoted(file.path)} disk.img",
            field="source",
        )

    def piece(each: dict[str, Any]) -> Piece | None:
        place, length = None if each.get("compressed") else each.get("offset"), each["length"]
        # QEMU reads zeros there; it writes whole clusters itself, so the file lost what is missing.
        if each["data"] and place is not None and (missing := place + length - file.size) > 0:
            raise cut_short(file, missing)
        return Piece(offset=each["start"], length=length, place=place) if not each["zero"] else None

    # Each entry becomes a piece while parsing: the parsed listing would take ten times its size.
    return tuple(each for each in json.loads(listing, object_hook=piece) if each is not None)


def _other_files(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each other file that the disk needs, and its content."""
    details = facts.get("format-specific", {}).get("data", {})
    if "backing-filename" in facts:
        yield facts["backing-filename"], "a part of its disk"
    if "data-file" in details:
        yield details["data-file"], "its data"
    for extent in details.get("extents", ()):
        if extent["filename"] != facts["filename"]:
            yield extent["filename"], "a part of its disk"


def descriptor_of(file: FileVolume) -> int:
    return file._descriptor  # noqa: SLF001 - the volumes of this package share their files


def _missing(file: FileVolume, image_format: Format, program: str) -> RefusedError:
    return RefusedError(
        "source.converter_missing",
        f"cannot bundle {file.path}: it is a {image_format.words} image, and {program}, which reads them, is missing",
        hint="install it (Debian, Ubuntu: apt-get install qemu-utils; Fedora, RHEL: dnf install qemu-img), or convert "
        f"the image where it is installed: qemu-img convert -O raw {quoted(file.path)} disk.img",
        field="source",
    )
