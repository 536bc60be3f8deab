"""Unarchive: take exactly one file out of a tar archive, with the SHA-1 of the whole archive, padding included.

Format: POSIX ustar and GNU tar headers (GNU tar manual, "Basic Tar Format" and "Old GNU Format"): a regular file, or a
sparse one of type `S` with 4 extents in its header and 21 in each extension block. Numbers are octal or base-256. A
longer name (`L`) and pax headers (`pax`) are accepted, with GNU tar's sparse files of the posix form. Refused are
ambiguous or dangerous members: a second member, links, devices, directories, a name with a path.

The archive's SHA-1 is `image/digest` of the manifest.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from amistream.stages.back.flaw import FlawError
from amistream.stages.back.pax import Pax, read_pax
from amistream.stages.back.tar_header import (
    BLOCK,
    ENTRIES_IN_EXTENSION,
    Header,
    check_name,
    parse_header,
    read_entries,
)
from amistream.values import KIB, MIB, ArchiveResult, Buffer

LONGEST_TEXT = 4 * MIB
"""Maximum bytes of a pax header or long name. GNU tar's form 0.0 has 90 for each extent of a sparse file."""
_LONGEST_NUMBER = 18
"""Digits of a number in the map of a sparse file."""
MOST_EXTENTS = 2**21
"""Half of the blocks of 4 KiB in 16 GiB: a volume has fewer. Each takes 16 bytes of memory."""
_ZEROS = bytes(64 * KIB)
_TWO_BLOCKS = 2 * BLOCK


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the image from `offset` on; all bytes outside pieces are zeros."""

    offset: int
    data: memoryview

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unarchived:
    """Facts of the archive. `data_size`: the image's bytes outside holes; `padding`: the zeros after the file."""

    archive: ArchiveResult
    name: str
    image_size: int
    data_size: int
    sparse: bool
    padding: int


class Digest(Protocol):
    """A hash such as hashlib's, updated in order."""

    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Unarchive:
    """Transform: tar archive in, pieces of the image out, ascending. A piece is a view of the input."""

    def __init__(self, sha1: Digest | None = None) -> None:
        """`sha1` takes the archive's bytes; by default they are hashed at once."""
        self._sha1 = sha1 or hashlib.sha1(usedforsecurity=False)
        self._size = 0
        self._block = bytearray()
        self._take: Callable[[bytes], None] = self._take_header
        """Handles the next whole block."""
        self._header: Header | None = None
        self._long_name = ""
        self._pax = Pax()
        self._text = bytearray()
        self._text_left = 0
        self._text_kind = b""
        self._map = _Map()
        self._map_text = _MapText(self._map)
        self._data_left = 0
        self._skip = 0
        self._padding = 0

    def feed(self, data: Buffer) -> Iterator[Piece]:
        view = memoryview(data)
        self._sha1.update(view)
        self._size += len(view)
        while view:
            if self._data_left:
                offset, length = self._map.run(min(len(view), self._data_left))
                yield Piece(offset, view[:length])
                self._data_left -= length
                view = view[length:]
            elif self._skip:
                skipped = min(len(view), self._skip)
                self._skip -= skipped
                view = view[skipped:]
            elif self._padding >= _TWO_BLOCKS:
                self._take_padding(view[: len(_ZEROS)])
                view = view[len(_ZEROS) :]
            else:
                missing = BLOCK - len(self._block)
                self._block += view[:missing]
                view = view[missing:]
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._take(block)

    def finish(self) -> Iterator[Piece]:
        if self._data_left or self._skip or self._block or self._take not in (self._take_header, self._take_end):
            raise FlawError("tar.truncated", f"the tar archive is truncated after {self._size} bytes")
        if self._header is None:
            raise FlawError("tar.empty", "the tar archive holds no file")
        if self._padding < _TWO_BLOCKS:
            raise FlawError("tar.no_end", "the tar archive ends without its two blocks of zeros")
        yield from ()

    @property
    def image_size(self) -> int:
        """Size of the image; only once finished."""
        assert self._header is not None  # noqa: S101 - for the type checker; `finish` checks it
        return self._header.image_size

    def result(self) -> Unarchived:
        """Facts of the archive; only once finished."""
        assert self._header is not None  # noqa: S101 - for the type checker; `finish` checks it
        return Unarchived(
            archive=ArchiveResult(size=self._size, sha1=self._sha1.digest()),
            name=self._header.name,
            image_size=self._header.image_size,
            data_size=self._header.size,
            sparse=self._header.sparse,
            padding=self._padding,
        )

    def _take_header(self, block: bytes) -> None:
        if not any(block):
            raise FlawError("tar.empty", "the tar archive holds no file")
        header = parse_header(block)
        if header.kind in {b"x", b"g", b"L"}:
            if header.size > LONGEST_TEXT:
                raise FlawError("tar.header", f"the tar archive has a header of {header.size} bytes before its file")
            self._text_kind, self._text_left = header.kind, header.size
            self._take = self._take_text if header.size else self._take_header
            return
        if self._long_name:
            header = header.renamed(self._long_name)
        header = self._pax.applied_to(header)
        header.check_file()
        self._header = header
        if not header.sparse:
            self._map.add(0, header.size)
            self._begin_data(header)
            return
        self._add_entries(header.entries)
        if header.extended:
            self._take = self._take_extension
        elif self._pax.has_map_in_data:
            self._take = self._take_map
        else:
            self._begin_data(header)

    def _take_text(self, block: bytes) -> None:
        self._text += block[: self._text_left]
        self._text_left -= min(BLOCK, self._text_left)
        if self._text_left:
            return
        text = bytes(self._text)
        self._text.clear()
        if self._text_kind == b"L":
            self._long_name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            check_name(self._long_name)
        else:
            for_all = self._text_kind == b"g"
            read_pax(text, Pax() if for_all else self._pax, for_all=for_all)
        self._take = self._take_header

    def _take_extension(self, block: bytes) -> None:
        assert self._header is not None  # noqa: S101 - for the type checker
        self._add_entries(read_entries(block, 0, ENTRIES_IN_EXTENSION))
        if not block[504]:
            self._begin_data(self._header)

    def _take_map(self, block: bytes) -> None:
        assert self._header is not None  # noqa: S101 - for the type checker
        self._map_text.add(block)
        left = self._header.size - self._map_text.size
        if left < 0:
            raise FlawError("tar.sparse_map", "the map of the sparse file is larger than the file")
        if self._map_text.complete:
            self._begin_data(replace(self._header, size=left))

    def _add_entries(self, entries: Iterable[tuple[int, int]]) -> None:
        for offset, length in entries:
            self._map.add(offset, length)

    def _begin_data(self, header: Header) -> None:
        self._header = header
        self._map.check(header)
        self._data_left = header.size
        self._skip = -header.size % BLOCK
        self._take = self._take_end

    def _take_end(self, block: bytes) -> None:
        """Take a block after the file: two blocks of zeros; anything else is refused."""
        if not any(block):
            self._padding += BLOCK
            return
        try:
            second = parse_header(block)
        except FlawError:
            raise FlawError("tar.trailing", "data follows the file in the tar archive") from None
        raise FlawError("tar.second_member", f"the tar archive has a second member, {second.name!r}")

    def _take_padding(self, view: memoryview) -> None:
        if not _ZEROS.startswith(view):
            raise FlawError("tar.trailing", "data follows the end of the tar archive")
        self._padding += len(view)


class _MapText:
    """Reads the map that stands before the data of a sparse file: the number of extents, and offset and length of each.

    Each number is decimal, on a line of its own; blocks are filled up with zeros.
    """

    def __init__(self, extents: _Map) -> None:
        self._extents = extents
        self._rest = b""
        self._offset: int | None = None
        self._left: int | None = None
        self.size = 0

    @property
    def complete(self) -> bool:
        return self._left == 0

    def add(self, block: bytes) -> None:
        self.size += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            if self.complete:
                break
            self._add_number(line)
        if not self.complete and len(self._rest) > _LONGEST_NUMBER:
            raise _damaged_map()

    def _add_number(self, line: bytes) -> None:
        if not line.isdigit() or len(line) > _LONGEST_NUMBER:
            raise _damaged_map()
        number = int(line)
        if self._left is None:
            self._left = number
        elif self._offset is None:
            self._offset = number
        else:
            self._extents.add(self._offset, number)
            self._offset = None
            self._left -= 1


def _damaged_map() -> FlawError:
    return FlawError("tar.sparse_map", "the map of the sparse file is damaged")


class _Map:
    """The file's extents, and a position in them."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._lengths = array("Q")
        self._sum = 0
        self._end = 0
        self._index = 0
        self._inside = 0

    def add(self, offset: int, length: int) -> None:
        if offset < self._end:
            raise FlawError("tar.sparse_map", "the extents of the sparse file are not in ascending order")
        self._end = offset + length
        # An empty extent only marks the end of the file.
        if length:
            if len(self._offsets) == MOST_EXTENTS:
                raise FlawError("tar.sparse_map", f"the sparse file has more than {MOST_EXTENTS} extents")
            self._offsets.append(offset)
            self._lengths.append(length)
            self._sum += length

    def check(self, header: Header) -> None:
        if self._end > header.image_size or self._sum != header.size:
            raise FlawError(
                "tar.sparse_map",
                f"the extents of the sparse file have {self._sum} bytes and end at {self._end}, but the header says "
                f"{header.size} bytes within {header.image_size}",
            )

    def run(self, most: int) -> tuple[int, int]:
        """Give offset and length of the next bytes within one extent, up to `most`, and advance."""
        left = self._lengths[self._index] - self._inside
        offset = self._offsets[self._index] + self._inside
        if most < left:
            self._inside += most
            return offset, most
        self._index += 1
        self._inside = 0
        return offset, left
