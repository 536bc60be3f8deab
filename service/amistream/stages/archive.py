"""Archive: wrap the volume in a tar archive with exactly one member, and take the SHA-1 of the whole archive.

Format: POSIX ustar header in GNU's dialect ("ustar " magic, sizes of 8 GiB and more in base-256), as documented in
the GNU tar manual, "Basic Tar Format". The member's name is the image's name. The archive ends with two zero blocks
and is padded to a whole record of 10240 bytes, as GNU tar does; its SHA-1 is `image/digest` of the manifest.

Contract: `feed` takes the volume's bytes in order, in any cuts; what it yields are the archive's bytes in order. It
holds no payload: what comes in goes out as the same object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from amistream.values import ArchiveResult, Buffer

BLOCK = 512
RECORD = 20 * BLOCK
NAME_MAX = 99
_OCTAL_SIZE_LIMIT = 8**11


class Archive:
    """Transform: volume in, tar archive out."""

    def __init__(self, *, name: str, size: int, mtime: int, mode: int = 0o644) -> None:
        """`size` is the volume's size in bytes, `mtime` seconds since 1970. Raises ValueError on a bad name."""
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._header = member_header(name=name, size=size, mtime=mtime, mode=mode)
        self._missing = size
        self._size = 0

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """Yield the header once, then `data`. Raises ValueError when more comes than the header promised."""
        length = len(data)
        if length > self._missing:
            raise ValueError(f"{length - self._missing} bytes more than the archive's header says")
        self._missing -= length
        if self._header:
            yield self._count(self._header)
            self._header = b""
        if length:
            yield self._count(data)

    def finish(self) -> Iterator[Buffer]:
        """Yield the padding of the member and of the archive. Raises ValueError when bytes are missing."""
        if self._missing:
            raise ValueError(f"{self._missing} bytes fewer than the archive's header says")
        if self._header:
            yield self._count(self._header)
            self._header = b""
        end = -(-self._size // BLOCK) * BLOCK + 2 * BLOCK
        whole = -(-end // RECORD) * RECORD
        yield self._count(bytes(whole - self._size))

    def result(self) -> ArchiveResult:
        return ArchiveResult(size=self._size, sha1=self._sha1.digest())

    def _count(self, data: Buffer) -> Buffer:
        self._sha1.update(data)
        self._size += len(data)
        return data


def member_header(*, name: str, size: int, mtime: int, mode: int = 0o644) -> bytes:
    """The 512-byte header of a regular file owned by root. Raises ValueError when a field does not fit."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= NAME_MAX or "/" in name or not name.isprintable():
        raise ValueError(f"a member's name has 1 to {NAME_MAX} printable ASCII characters and no slash")
    header = bytearray(BLOCK)
    header[0 : len(encoded)] = encoded
    header[100:108] = b"%07o\0" % (mode & 0o7777)
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = _number(size)
    header[136:148] = _number(mtime)
    header[156:157] = b"0"
    header[257:265] = b"ustar  \0"
    header[265:269] = header[297:301] = b"root"
    # The checksum is taken with its own field full of spaces, and ends in NUL and space.
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _number(value: int) -> bytes:
    """A 12-byte number field: octal up to 8 GiB - 1, else GNU's base-256 (first byte 0x80)."""
    if value < 0:
        raise ValueError("a tar header holds no negative number here")
    if value < _OCTAL_SIZE_LIMIT:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big")
