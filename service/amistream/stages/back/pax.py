r"""Reads pax headers of a tar archive: what they say of the file that follows, in place of its own header.

Format: POSIX pax (records `LENGTH KEY=VALUE\n`), and GNU tar's sparse files in it, versions 0.0, 0.1 and 1.0 (GNU tar
manual, "PAX Format"). Keys of times, owners and labels change nothing, and unknown ones are ignored, as POSIX has it;
refused are keys of other forms of sparse files and of multi-volume archives.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, replace

from amistream.stages.back.flaw import FlawError
from amistream.stages.back.tar_header import Header

_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")
_BETWEEN_COMMAS = re.compile(rb"[^,]+")
_NUMBER = re.compile(rb"[0-9]{1,18}")
_FOREIGN = re.compile(rb"SCHILY\.(realsize|filetype|offs|volno|dir)|SUN\.holesdata|GNU\.(volume|dumpdir).*")
_FOR_ALL = re.compile(rb"path|linkpath|size|GNU\.sparse\..*")
"""Keys that must not apply to every file of the archive."""

_TEXTS = {b"path": "path", b"GNU.sparse.name": "name"}
_NUMBERS = {
    b"size": "size",
    b"GNU.sparse.size": "real_size",
    b"GNU.sparse.realsize": "real_size",
    b"GNU.sparse.major": "major",
    b"GNU.sparse.minor": "minor",
}
"""The keys of single values, and their fields in `Pax`."""
_VERSIONS = {(0, 0), (0, 1), (1, 0)}
"""0.0 and 0.1 do not name themselves."""


@dataclass(slots=True)
class Pax:
    """The values of pax headers that change a file. `numbers`: offsets and lengths of the extents, in turn."""

    path: str = ""
    size: int | None = None
    name: str = ""
    real_size: int | None = None
    major: int = 0
    minor: int = 0
    numbers: array[int] | None = None

    @property
    def has_map_in_data(self) -> bool:
        """True for version 1.0: the extents stand before the file's data, and count as data."""
        return self._version == (1, 0)

    @property
    def _version(self) -> tuple[int, int]:
        return self.major, self.minor

    def applied_to(self, header: Header) -> Header:
        """The header of the file, with the values of these headers. Raises `FlawError` if they do not fit."""
        if self._version not in _VERSIONS:
            raise _bad("version of a sparse file")
        size = header.size if self.size is None else self.size
        if name := self.name or self.path:
            header = header.renamed(name)
        if self.real_size is None:
            if self.numbers is not None or self.name or self._version != (0, 0):
                raise _bad("sparse file without its size")
            return replace(header, size=size, image_size=header.image_size if header.sparse else size)
        if header.sparse:
            raise _bad("sparse file in two forms")
        numbers = self.numbers or array("Q")
        if len(numbers) % 2 or (self.has_map_in_data and numbers):
            raise _bad("map of a sparse file")
        entries = zip(numbers[::2], numbers[1::2], strict=True)
        return replace(header, size=size, image_size=self.real_size, entries=entries, sparse=True)


def read_pax(text: bytes, pax: Pax, *, for_all: bool) -> None:
    """Add the records of a header to `pax`; `for_all`: of a global one. Raises `FlawError`."""
    place = 0
    while place < len(text):
        found = _RECORD.match(text, place)
        end = place + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(text) or text[end - 1] != ord("\n"):
            raise FlawError("tar.pax", "a pax header of the tar archive is damaged")
        key, value = found[2], text[found.end() : end - 1]
        if _FOREIGN.fullmatch(key) or (for_all and _FOR_ALL.fullmatch(key)):
            name = key.decode("utf-8", "replace")
            raise FlawError("tar.pax", f"a pax header of the tar archive sets {name!r}, which some readers ignore")
        _take(pax, key, value)
        place = end


def _take(pax: Pax, key: bytes, value: bytes) -> None:
    if field := _TEXTS.get(key):
        setattr(pax, field, _text(value))
    elif field := _NUMBERS.get(key):
        setattr(pax, field, _number(value))
    elif key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
        pax.numbers = array("Q") if pax.numbers is None else pax.numbers
        if len(pax.numbers) % 2 != (key == b"GNU.sparse.numbytes"):
            raise _bad("map of a sparse file")
        pax.numbers.append(_number(value))
    elif key == b"GNU.sparse.map":
        pax.numbers = array("Q", (_number(found[0]) for found in _BETWEEN_COMMAS.finditer(value)))
        if value and len(pax.numbers) != value.count(b",") + 1:
            raise _bad("map of a sparse file")


def _number(text: bytes) -> int:
    if not _NUMBER.fullmatch(text):
        raise _bad("number")
    return int(text)


def _text(value: bytes) -> str:
    if b"\0" in value:
        raise _bad("name")
    return value.decode("utf-8", "surrogateescape")


def _bad(what: str) -> FlawError:
    return FlawError("tar.pax", f"a pax header of the tar archive has an impossible {what}")
