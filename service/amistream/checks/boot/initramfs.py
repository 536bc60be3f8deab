"""Lists the names in an initramfs: cpio archives one behind the other, each plain or compressed.

An archive with early microcode comes first and is plain; the main one follows, padded with zeros to any length. Content
is skipped, and never held. An archive may come from anybody: what is unpacked is counted, and too much is a doubt.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from amistream.source.disks.files import File
from amistream.source.disks.reading import DoubtError
from amistream.values import KIB, MIB

MOST_PACKED = 512 * MIB
MOST_UNPACKED = 768 * MIB
MOST_NAMES = 200_000
"""Of all archives together, as MOST_UNPACKED."""
MOST_MEMORY = 128 * MIB
"""Of a decompressor: `xz -9` needs 65 MiB."""
MOST_ARCHIVES = 64
LONGEST_NAME = 4 * KIB

_PIECE = 256 * KIB
_CPIO = (b"070701", b"070702")
_HEADER = 110
_TRAILER = "TRAILER!!!"


class _Decompressor(Protocol):
    """The way of `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


def names(file: File) -> Iterator[str]:
    """Each name in the initramfs, without a slash or dot in front. Raises `DoubtError` where it cannot be read on."""
    if file.size > MOST_PACKED:
        raise DoubtError(f"it has more than {MOST_PACKED // MIB} MiB")
    for number, name in enumerate(_names(_Bytes(_pieces(file)))):
        if number == MOST_NAMES:
            raise DoubtError(f"it has more than {MOST_NAMES} names")
        yield name


def _names(packed: _Bytes) -> Iterator[str]:
    for _ in range(MOST_ARCHIVES):
        if not packed.skip_zeros():
            return
        head = packed.peek(6)
        if head in _CPIO:
            yield from _archive(packed)
        else:
            yield from _unpacked_archives(packed, _decompressor(head))
    raise DoubtError(f"it has more than {MOST_ARCHIVES} archives")


def _pieces(file: File) -> Iterator[bytes]:
    offset = 0
    while piece := file.read(offset, _PIECE):
        yield piece
        offset += len(piece)


class _Bytes:
    """Bytes that come in pieces, read one after the other."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self.unpacked = 0
        """Bytes that its archives have become so far."""

    def peek(self, length: int) -> bytes:
        """The next bytes, fewer at the end."""
        while len(self._piece) - self._at < length:
            more = next(self._pieces, b"")
            if not more:
                break
            self._piece, self._at = self._piece[self._at :] + more, 0
        return self._piece[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        found = self.peek(length)
        if len(found) < length:
            raise DoubtError("it ends in the middle")
        self._at += length
        return found

    def skip(self, length: int) -> None:
        while length > (left := len(self._piece) - self._at):
            length -= left
            self._piece, self._at = next(self._pieces, b""), 0
            if not self._piece:
                raise DoubtError("it ends in the middle")
        self._at += length

    def skip_zeros(self) -> bool:
        """Skip the padding; False at the end."""
        while self.peek(1):
            rest = self._piece[self._at :].lstrip(b"\0")
            self._at = len(self._piece) - len(rest)
            if rest:
                return True
        return False

    def rest(self) -> bytes:
        """The rest of the current piece, or the next one; empty at the end."""
        self.peek(1)
        found, self._at = self._piece[self._at :], len(self._piece)
        return found

    def give_back(self, unused: bytes) -> None:
        self._piece, self._at = unused + self._piece[self._at :], 0


def _archive(packed: _Bytes) -> Iterator[str]:
    """The names of one cpio archive, of the kind that the kernel unpacks (newc)."""
    while True:
        header = packed.take(_HEADER)
        if header[:6] not in _CPIO:
            raise DoubtError("its archive has something else where a file's header should be")
        try:
            size, length = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            raise DoubtError("its archive has a damaged header") from None
        if not 0 < length <= LONGEST_NAME:
            raise DoubtError(f"its archive has a name of {length} bytes")
        name = packed.take(length).rstrip(b"\0").decode("utf-8", "surrogateescape")
        # Name and content each end at a multiple of four bytes.
        packed.skip(-(_HEADER + length) % 4)
        if name == _TRAILER:
            return
        yield name.removeprefix("/").removeprefix("./")
        packed.skip(size + -size % 4)


def _unpacked_archives(packed: _Bytes, decompressor: _Decompressor) -> Iterator[str]:
    unpacked = _Bytes(_unpacked(packed, decompressor))
    while unpacked.skip_zeros():
        if unpacked.peek(6) not in _CPIO:
            raise DoubtError("it unpacks to something else than an archive")
        yield from _archive(unpacked)


def _unpacked(packed: _Bytes, decompressor: _Decompressor) -> Iterator[bytes]:
    try:
        while not decompressor.eof:
            is_starved = decompressor.needs_input
            given = packed.rest() if is_starved else b""
            piece = decompressor.decompress(given, _PIECE)
            if is_starved and not given and not piece:
                raise DoubtError("it ends in the middle")
            packed.unpacked += len(piece)
            if packed.unpacked > MOST_UNPACKED:
                raise DoubtError(f"it unpacks to more than {MOST_UNPACKED // MIB} MiB")
            if piece:
                yield piece
    except (zlib.error, lzma.LZMAError, OSError, EOFError, zstandard.ZstdError) as error:
        raise DoubtError(f"it cannot be unpacked ({error})") from error
    packed.give_back(decompressor.unused_data)


def _decompressor(head: bytes) -> _Decompressor:
    if head.startswith(b"\x1f\x8b"):
        return _Gunzip()
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_MEMORY)
    if head.startswith(b"\x5d\0\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE, MOST_MEMORY)
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _Unzstd()
    for magic, name in ((b"\x02\x21\x4c\x18", "lz4"), (b"\x04\x22\x4d\x18", "lz4"), (b"\x89LZO", "lzo")):
        if head.startswith(magic):
            raise DoubtError(f"it is compressed with {name}, which amistream does not read")
    raise DoubtError("its format is not known")


class _Gunzip:
    """One member of gzip, in the way of `bz2` and `lzma`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


class _Unzstd:
    """One frame of zstd, in the way of `bz2` and `lzma`."""

    def __init__(self) -> None:
        self._unzstd = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).decompressobj()
        self._data = b""
        self._at = 0

    @property
    def eof(self) -> bool:
        return self._unzstd.eof

    @property
    def needs_input(self) -> bool:
        return self._at == len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._unzstd.unused_data + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Takes little at a time, because the library has no `max_length`: 4 bytes may become 128 KiB."""
        if self.needs_input:
            self._data, self._at = data, 0
        little = self._data[self._at : self._at + max_length // (128 * KIB) * 512]
        self._at += len(little)
        return self._unzstd.decompress(little)
