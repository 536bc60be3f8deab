"""Reads one header block of a tar archive, and refuses members that a bundle may not contain."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from amistream.stages.back.flaw import FlawError

BLOCK = 512
ENTRIES_IN_HEADER = 4
ENTRIES_IN_EXTENSION = 21
_SPARSE = b"S"
_FILES = {b"0", b"\0", b"7", _SPARSE}
_LARGEST = 2**63

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a named pipe",
    b"D": "a GNU directory listing",
    b"K": "a long link name",
    b"M": "the rest of a file from another volume",
    b"V": "a volume label",
    b"X": "a Solaris pax header",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a member. `size`: the bytes that follow; `image_size`: those including holes."""

    name: str
    prefix: str
    kind: bytes
    size: int
    image_size: int
    entries: Iterable[tuple[int, int]]
    """Offset and length of the first extents of a sparse file; to be taken once."""
    extended: bool
    sparse: bool

    def renamed(self, name: str) -> Header:
        return replace(self, name=name, prefix="")

    def check_file(self) -> None:
        """Refuse all but a file with a plain name."""
        if self.kind not in _FILES:
            description = _KINDS.get(self.kind, f"of an unknown type ({self.kind.decode('latin-1')!r})")
            raise FlawError("tar.kind", f"the tar archive's member {self.name!r} is {description}, not a file")
        check_name(f"{self.prefix}/{self.name}" if self.prefix else self.name)


def parse_header(block: bytes) -> Header:
    """Read a header block. Raises `FlawError` if it is invalid."""
    if not _checksum_matches(block):
        raise FlawError("tar.header", "a tar header is damaged: its checksum does not match")
    kind = block[156:157]
    size = _number(block[124:136])
    sparse = kind == _SPARSE
    # Where POSIX has a prefix, GNU has other fields.
    posix = block[257:263] == b"ustar\0"
    return Header(
        name=_text(block[0:100]),
        prefix=_text(block[345:500]) if posix else "",
        kind=kind,
        size=size,
        image_size=_number(block[483:495]) if sparse else size,
        entries=read_entries(block, 386, ENTRIES_IN_HEADER) if sparse else [],
        extended=sparse and bool(block[482]),
        sparse=sparse,
    )


def read_entries(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Read the extents from byte `start` on, up to the first without a length, as GNU tar does."""
    found: list[tuple[int, int]] = []
    for at in range(start, start + 24 * count, 24):
        entry = block[at : at + 24]
        if not entry[12]:
            break
        found.append((_number(entry[:12]), _number(entry[12:])))
    return found


def check_name(name: str) -> None:
    """Refuse a name that would make an extracting program write elsewhere."""
    if not name:
        raise FlawError("tar.name", "the tar archive's member has no name")
    if name.startswith("/"):
        raise FlawError("tar.absolute_name", f"the tar archive's member has the absolute name {name!r}")
    if ".." in name.split("/"):
        raise FlawError("tar.parent_name", f"the tar archive's member has a name with '..': {name!r}")
    if "/" in name.removeprefix("./"):
        raise FlawError("tar.path", f"the tar archive's member is in a directory: {name!r}")


def _checksum_matches(block: bytes) -> bool:
    """Compare the sum of all bytes, with spaces as the checksum field; old programs summed signed bytes."""
    try:
        expected = _number(block[148:156])
    except FlawError:
        return False
    rest = block[:148] + block[156:]
    plain = sum(rest) + 8 * 32
    return expected in {plain, plain - 256 * sum(byte > 127 for byte in rest)}  # noqa: PLR2004 - a signed byte's most


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """A number field: octal digits among spaces and NULs, or GNU's base-256 (first byte 0x80)."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1  # noqa: PLR2004 - else it is negative
    else:
        digits = field.partition(b"\0")[0].strip(b" ")
        value = int(digits, 8) if re.fullmatch(rb"[0-7]*", digits) and digits else 0 if not digits else -1
    if not 0 <= value < _LARGEST:
        raise FlawError("tar.header", "a tar header is damaged: it has an impossible number")
    return value
