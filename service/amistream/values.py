"""Plain values that modules exchange: the measurements of the stages, and the names of parts.

All are frozen. Sizes are bytes, digests raw bytes unless a name ends in `_hex`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from amistream.sizes import GIB as GIB  # noqa: PLC0414 - values, too
from amistream.sizes import KIB as KIB  # noqa: PLC0414
from amistream.sizes import MIB as MIB  # noqa: PLC0414
from amistream.text import as_utf8 as as_utf8  # noqa: PLC0414
from amistream.text import quoted as quoted  # noqa: PLC0414

LARGEST_PART = 5 * GIB
"""The most that S3 accepts in one request, so no tool makes a larger part."""

STANDARD_INPUT = STANDARD_OUTPUT = "-"
"""The name of a pipe as source of a request, and as destination of an unbundled image."""

PROBES = "amistream-"
"""Begin of the names of all objects that a probe puts."""
LONGEST_PROBE_S = 12 * 3600
"""Most seconds that a probe may take."""
ABANDONED = timedelta(days=1)
"""Age at which an object of a probe is nobody's, because a probe deletes each within its time. Uploads take less."""
CLAIM_END = ".claim"
PART_NAME = re.compile(r"(?P<prefix>.+)\.part\.[0-9]+")
"""The name of a part, of any tool's bundle."""
_PROBE = re.compile(
    r"(?P<probe>amistream-tune-[0-9a-f]{8}-)[1-9][0-9]*(\.part\.[0-9]{2,})?|amistream-probe-([0-9a-f]{6}|[0-9a-f]{8})"
)
_SNAPSHOT = re.compile("snap-([0-9a-f]{8}|[0-9a-f]{17})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


Buffer: TypeAlias = bytes | bytearray | memoryview
"""Payload in flight. A memoryview is valid only until its maker yields the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKeys:
    """AWS keys that the user gave, used instead of the SDK's. Their `repr` is empty."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A range of the volume that holds data. In the image, all bytes outside the extents are zeros."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Bytes of the volume that are not read and come back as zeros, by what they are. No byte counts twice."""

    holes: int = 0
    """Holes outside of those below."""
    free: int = 0
    """Free blocks of file systems."""
    preallocated: int = 0
    """Blocks that were given to files and never written."""
    unused_inodes: int = 0
    """Inode tables that were never used."""

    @property
    def total(self) -> int:
        return self.holes + self.free + self.preallocated + self.unused_inodes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDigest:
    """One stored part: its number from 0, its size and its SHA-1 (20 bytes)."""

    index: int
    size: int
    sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveResult:
    """Size and SHA-1 of the whole tar stream; the SHA-1 is `image/digest` of the manifest."""

    size: int
    sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GzipResult:
    """CRC-32 and size of the input of the gzip member, and the size of the member."""

    crc32: int
    size_in: int
    size_out: int


class ChangedError(Exception):
    """The volume, or its compressed form, differs from an earlier pass under the same key. The text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GzipPlace:
    """A place in the gzip member: `inside` bytes into the deflated form of block number `block`.

    `before` is the member up to that block. `inside_sha1` is the SHA-1 of those `inside` bytes: another version of the
    library may deflate the same block differently.
    """

    block: int
    before: GzipResult
    inside: int
    inside_sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of the stream at the end of a part, enough to resume from there. Nothing in it is secret.

    `archive` is the tar stream through the end of the block in which the part ends, `chain` the part's last cipher
    block (16 bytes).
    """

    gzip: GzipPlace
    archive: ArchiveResult
    chain: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMark:
    """The state when a part is cut: the checkpoint, unless the part ends in the gzip trailer, and the compression
    levels of its blocks, by number.
    """

    checkpoint: Checkpoint | None = None
    levels: Mapping[int, int] = field(default_factory=dict)


NO_MARK = PartMark()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitResult:
    """Every part in order, and the sum of their sizes (`image/bundled_size`)."""

    parts: tuple[PartDigest, ...]
    bundled_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of one pass over the volume; the manifest is made from these alone."""

    image_size: int
    archive: ArchiveResult
    gzip: GzipResult
    split: SplitResult


LONGEST_PREFIX = 99
"""Bytes of a bundle's prefix: the file's name in the tar header, which has 100 with its end."""


def is_prefix(text: str) -> bool:
    """True for a text that may begin the names of a bundle's objects, and be the file's name in its archive.

    Any printable characters but a slash, no space at either end, and no dash or dot in front.
    """
    plain = bool(text) and text.isprintable() and "/" not in text and text == text.strip() and text[0] not in "-."
    return plain and len(text.encode()) <= LONGEST_PREFIX


def as_prefix(text: str) -> str:
    """The text itself if it is a prefix, else what can be kept of it."""
    if is_prefix(text):
        return text
    kept = "".join(each if each.isprintable() and each != "/" else "_" for each in text).strip().lstrip("-. ")
    return kept.encode()[:LONGEST_PREFIX].decode(errors="ignore").strip() or "image"


def is_snapshot(text: str) -> bool:
    """True for the id of an EBS snapshot, as a source; a file of that name is written ./snap-..."""
    return _SNAPSHOT.fullmatch(text) is not None


def part_name(prefix: str, index: int) -> str:
    """`image.part.07`: at least two digits, three from 100 on, as euca2ools writes and EC2 accepts."""
    return f"{prefix}.part.{index:02d}"


def manifest_name(prefix: str) -> str:
    return f"{prefix}.manifest.xml"


def claim_name(prefix: str) -> str:
    """The object by which one of many hosts holds the prefix for its job."""
    return prefix + CLAIM_END


def probe_object(token: str, number: int) -> str:
    """An object by which the link to a destination is measured; `token` is that of one measurement."""
    return f"amistream-tune-{token}-{number}"


def probe_of(name: str) -> str:
    """The begin of all names of one probe, for an object that a probe puts and deletes again; '' for any other.

    A probe of one object, which proves write permission, gives the whole name.
    """
    found = _PROBE.fullmatch(name)
    return (found["probe"] or name) if found else ""


def is_probe(name: str) -> bool:
    return probe_of(name) != ""


def is_part_of(prefix: str, name: str) -> bool:
    """True for the name of a part of this prefix, whichever its number is."""
    number = name.removeprefix(f"{prefix}.part.")
    return number.isdecimal() and number.isascii() and name == part_name(prefix, int(number))


def is_path(text: str) -> bool:
    """True for a file or directory, false for a URL such as `s3://b`. `s3:/b` is a misspelt URL, not a path."""
    return not _SCHEME.match(text)
