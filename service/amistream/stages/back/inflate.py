"""Inflate: exactly one gzip member, with a check of its CRC-32 and length.

Format: RFC 1952. A name, a comment and a header checksum are accepted. An extra field is refused, because some readers
of bundles fail on it; so is data after the member, because some readers stop there and others continue.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, cast

from isal import igzip_lib, isal_zlib

from amistream.stages.back.flaw import FlawError
from amistream.values import KIB, MIB, Buffer, GzipResult

SLICE = 512 * KIB
"""Bytes inflated in one call: the rest after a full `LARGEST` is copied, so keep it small."""
LARGEST = MIB
DAMAGED = (cast("type[Exception]", isal_zlib.error), zlib.error)
_MAGIC = b"\x1f\x8b"
_FIXED_HEADER = 10
_LONGEST_HEADER = 64 * KIB
_TRAILER = 8
_HEADER_CRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0


def new_body(window: bytes = b"") -> Any:
    """Make a decompressor; `window`: the output directly before."""
    # Unlike isal_zlib's it allocates its largest output at once, and never copies to grow it.
    return igzip_lib.IgzipDecompressor(zdict=window)


def inflated(body: Any, data: memoryview) -> Iterator[bytes]:
    """Inflate the data in pieces of at most `LARGEST` bytes. Raises `DAMAGED`.

    If the deflated data ends within, `body.unused_data` holds the rest.
    """
    made = body.decompress(data, LARGEST)
    while made:
        yield made
        if body.eof or len(made) < LARGEST:
            return
        # Input may remain after a full piece: zlib returns it, isal keeps it.
        made = body.decompress(getattr(body, "unconsumed_tail", b""), LARGEST)


class Inflate:
    """Transform: a gzip stream in, the inflated data out, in pieces of at most `LARGEST` bytes."""

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._body = new_body()
        self._ended = False
        self._after = bytearray()
        self._crc = 0
        self._size_in = 0
        self._size_out = 0

    def feed(self, data: Buffer) -> Iterator[bytes]:
        view = self._without_header(memoryview(data))
        for start in range(0, len(view), SLICE):
            yield from self._inflate(view[start : start + SLICE])

    def finish(self) -> Iterator[bytes]:
        if len(self._after) < _TRAILER:
            raise FlawError("gzip.truncated", f"the gzip stream is truncated after {self._size_in} bytes")
        self._check_end()
        yield from ()

    def result(self) -> GzipResult:
        return GzipResult(crc32=self._crc, size_in=self._size_in, size_out=self._size_out)

    def _without_header(self, view: memoryview) -> memoryview:
        self._size_in += len(view)
        if self._head is None:
            return view
        self._head += view
        length = _header_length(self._head)
        if length is None:
            return view[:0]
        view = memoryview(bytes(self._head))[length:]
        self._head = None
        return view

    def _inflate(self, piece: memoryview) -> Iterator[bytes]:
        """Inflate the next bytes with `self._body`, and check those after its end."""
        if self._ended:
            self._look_after(piece)
            return
        try:
            for made in inflated(self._body, piece):
                self._crc = isal_zlib.crc32(made, self._crc)
                self._size_out += len(made)
                yield made
        except DAMAGED:
            raise FlawError("gzip.deflate", f"the gzip member is damaged after {self._size_out} bytes") from None
        if self._body.eof:
            self._end(self._body.unused_data)

    def _end(self, after: Buffer) -> None:
        self._ended = True
        self._look_after(after)

    def _look_after(self, data: Buffer) -> None:
        """Take the trailer after the deflated data, and refuse any data after it."""
        self._after += data
        if len(self._after) >= _TRAILER:
            self._check_trailer()
        if len(self._after) >= _TRAILER + len(_MAGIC):
            self._check_end()

    def _check_trailer(self) -> None:
        crc = int.from_bytes(self._after[:4], "little")
        size = int.from_bytes(self._after[4:_TRAILER], "little")
        if crc != self._crc:
            raise FlawError("gzip.crc", f"the CRC-32 of the data is {self._crc:08x}, not {crc:08x} as in its trailer")
        if size != self._size_out % 2**32:
            raise FlawError(
                "gzip.size", f"the data has {self._size_out} bytes, not {size} (mod 2**32) as in the gzip trailer"
            )

    def _check_end(self) -> None:
        if len(self._after) == _TRAILER:
            return
        if self._after.startswith(_MAGIC, _TRAILER):
            raise FlawError("gzip.second_member", "a second gzip member follows the first: some readers stop there")
        raise FlawError("gzip.trailing", "data follows the gzip member")


def _header_length(head: bytearray) -> int | None:
    """Give the length of the member's header; None while it is incomplete."""
    if not head.startswith(_MAGIC[: len(head)]):
        raise FlawError(
            "gzip.header", "the decrypted data is not a gzip stream: another key or IV, or a damaged beginning"
        )
    if len(head) < _FIXED_HEADER:
        return None
    method, flags = head[2], head[3]
    if method != isal_zlib.DEFLATED or flags & _RESERVED:
        raise FlawError("gzip.header", f"the gzip header has the unknown method {method} or flags {flags:#04x}")
    if flags & _EXTRA:
        raise FlawError("gzip.extra_field", "the gzip header has an extra field, which some readers do not accept")
    end = _end_of_texts(head, sum(bool(flags & flag) for flag in (_NAME, _COMMENT)))
    if end is None or not flags & _HEADER_CRC:
        return end
    if len(head) < end + 2:
        return None
    if int.from_bytes(head[end : end + 2], "little") != isal_zlib.crc32(head[:end]) & 0xFFFF:
        raise FlawError("gzip.header", "the checksum of the gzip header does not match")
    return end + 2


def _end_of_texts(head: bytearray, count: int) -> int | None:
    """Find the end of `count` texts, each with a NUL at its end; None while incomplete."""
    end = _FIXED_HEADER
    for _ in range(count):
        end = head.find(0, end, _LONGEST_HEADER) + 1
        if not end:
            if len(head) >= _LONGEST_HEADER:
                raise FlawError("gzip.header", f"the gzip header does not end within {_LONGEST_HEADER} bytes")
            return None
    return end
