"""Archive: wrap the volume in a tar archive with exactly one member, and compute the SHA-1 of the whole archive.

Format: POSIX ustar header in GNU's dialect ("ustar " magic, sizes of 8 GiB and more in base-256), as documented in
the GNU tar manual, "Basic Tar Format". The member's name is the image's name. The archive ends with two zero blocks
and is padded to a whole record of 10240 bytes, as GNU tar does; its SHA-1 is `image/digest` of the manifest.

A volume with holes becomes an old-GNU sparse member (type `S`; GNU tar manual, "Old GNU Format"): four extents in
the header, 21 in each extension block, the volume's size in a field of its own. Every reader of bundles accepts it,
unlike pax's forms.

Contract: `feed` takes the bytes of the extents in order, a block at a time, in any cuts, and yields the archive's bytes
in order. It holds no payload: its input is yielded as the same object. The archive's state after each block is kept
until it is requested, for a later pass over the same volume to prove.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from amistream.values import LONGEST_PREFIX, ArchiveResult, Buffer, ChangedError, Extent

BLOCK = 512
RECORD = 20 * BLOCK
_OCTAL_SIZE_LIMIT = 8**11
_IN_HEADER = 4
_IN_EXTENSION = 21


class Archive:
    """Transform: volume in, tar archive out."""

    def __init__(
        self,
        *,
        name: str,
        size: int,
        mtime: int,
        extents: Sequence[Extent] | None = None,
        proof: ArchiveResult | None = None,
    ) -> None:
        """`size` is the volume's size in bytes, `mtime` seconds since 1970.

        With `extents` (ascending, on multiples of 512 but for the volume's end) only their bytes are fed and the
        member is sparse. `proof` is the state of an earlier archive of this volume after one of its blocks. Raises
        ValueError on a bad name or extents.
        """
        self._proof = proof
        self._blocks = 0
        self._block_ends: dict[int, ArchiveResult] = {}
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._missing = size if extents is None else sum(extent.length for extent in extents)
        if extents is None:
            self._header = member_header(name=name, size=size, mtime=mtime)
        else:
            self._header = sparse_headers(name=name, size=size, mtime=mtime, extents=extents)
        self._size = 0

    def feed(self, data: Buffer) -> Iterator[Buffer]:
        """Yield the header once, then `data`.

        Raises ValueError when there is more data than the header says, and `ChangedError` when the block ends at the
        place of the proof and the archive has another SHA-1 there.
        """
        length = len(data)
        if length > self._missing:
            raise ValueError(f"{length - self._missing} bytes more than the archive's header says")
        self._missing -= length
        made = [self._count(piece) for piece in (self._header, data) if piece]
        self._header = b""
        self._end_block()
        yield from made

    def end_of_block(self, number: int) -> ArchiveResult:
        """The archive through block `number` (from 0). Forgets the blocks before it."""
        # Another thread may be adding to the dict: `list` copies it in one step.
        for earlier in [block for block in list(self._block_ends) if block < number]:
            del self._block_ends[earlier]
        return self._block_ends[number]

    def finish(self) -> Iterator[Buffer]:
        """Yield the padding of the member and of the archive.

        Raises ValueError when bytes are missing, and `ChangedError` when the place of the proof was not reached.
        """
        if self._missing:
            raise ValueError(f"{self._missing} bytes fewer than the archive's header says")
        if self._proof is not None:
            raise ChangedError(f"the archive ends before byte {self._proof.size}, where it went on")
        if self._header:
            yield self._count(self._header)
            self._header = b""
        end = -(-self._size // BLOCK) * BLOCK + 2 * BLOCK
        whole = -(-end // RECORD) * RECORD
        yield self._count(bytes(whole - self._size))

    def result(self) -> ArchiveResult:
        return ArchiveResult(size=self._size, sha1=self._sha1.digest())

    def _end_block(self) -> None:
        number, self._blocks = self._blocks, self._blocks + 1
        if self._proof is not None and self._size < self._proof.size:
            return  # no later pass resumes from here: an earlier one has got further
        end = self._block_ends[number] = self.result()
        if self._proof not in (None, end):
            raise ChangedError(f"the first {end.size} bytes of the archive are not what they were")
        self._proof = None

    def _count(self, data: Buffer) -> Buffer:
        self._sha1.update(data)
        self._size += len(data)
        return data


def member_header(*, name: str, size: int, mtime: int) -> bytes:
    """The 512-byte header of a regular file owned by root. Raises ValueError when a field does not fit."""
    return bytes(_sealed(_header(name=name, size=size, mtime=mtime, kind=b"0")))


def sparse_headers(*, name: str, size: int, mtime: int, extents: Sequence[Extent]) -> bytes:
    """The header of a sparse file of `size` bytes and its extension blocks. Raises ValueError on impossible extents."""
    _check_extents(extents, size)
    entries = [_number(extent.offset) + _number(extent.length) for extent in extents]
    if not extents or extents[-1].end < size:
        # A hole at the end is marked by an empty extent there.
        entries.append(_number(size) + _number(0))
    header = _header(name=name, size=sum(extent.length for extent in extents), mtime=mtime, kind=b"S")
    first, rest = b"".join(entries[:_IN_HEADER]), entries[_IN_HEADER:]
    header[386 : 386 + len(first)] = first
    header[482] = bool(rest)
    header[483:495] = _number(size)
    blocks = [bytes(_sealed(header))]
    for start in range(0, len(rest), _IN_EXTENSION):
        block = b"".join(rest[start : start + _IN_EXTENSION]).ljust(504, b"\0")
        more = start + _IN_EXTENSION < len(rest)
        blocks.append(block + bytes([more]) + bytes(7))
    return b"".join(blocks)


def _check_extents(extents: Sequence[Extent], size: int) -> None:
    """Raise ValueError unless readers, which take whole blocks of 512, can take the extents."""
    end = 0
    for extent in extents:
        if extent.offset < end or extent.offset % BLOCK or extent.length <= 0 or extent.end > size:
            raise ValueError("extents ascend, begin on a multiple of 512 and lie inside the volume")
        if extent.length % BLOCK and extent.end != size:
            raise ValueError("an extent is a multiple of 512 long unless it ends with the volume")
        end = extent.end


def _header(*, name: str, size: int, mtime: int, kind: bytes) -> bytearray:
    encoded = name.encode() if name.isprintable() else b""
    if not 0 < len(encoded) <= LONGEST_PREFIX or "/" in name:
        raise ValueError(f"a member's name is printable, has 1 to {LONGEST_PREFIX} bytes in UTF-8 and no slash")
    header = bytearray(BLOCK)
    header[0 : len(encoded)] = encoded
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = _number(size)
    header[136:148] = _number(mtime)
    header[156:157] = kind
    header[257:265] = b"ustar  \0"
    header[265:269] = header[297:301] = b"root"
    return header


def _sealed(header: bytearray) -> bytearray:
    """Insert the checksum, which counts its own field as spaces and ends in NUL and space."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return header


def _number(value: int) -> bytes:
    """A 12-byte number field: octal up to 8 GiB - 1, else GNU's base-256 (first byte 0x80)."""
    if value < 0:
        raise ValueError("a tar header holds no negative number here")
    if value < _OCTAL_SIZE_LIMIT:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big")
