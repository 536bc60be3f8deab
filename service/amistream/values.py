"""The plain values that travel between modules: what the stages measured, and what names a part.

All are frozen. Sizes are bytes, digests raw bytes unless a name ends in `_hex`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

LARGEST_PART = 5 * GIB
"""The most that S3 takes in one request, and so the most that any tool puts into a part."""

STANDARD_INPUT = STANDARD_OUTPUT = "-"
"""The name of a pipe as source of a request, and as destination of an unbundled image."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


Buffer: TypeAlias = bytes | bytearray | memoryview
"""Payload in flight. A memoryview is valid only until its maker is asked for the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKeys:
    """AWS keys that the user named, instead of what the SDK finds. They do not print."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of bytes of the volume that holds data; everything outside the extents reads as zeros."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDigest:
    """One stored part: its number from 0, its size and its SHA-1 (20 bytes)."""

    index: int
    size: int
    sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveResult:
    """Size and SHA-1 of the whole tar stream: what `image/digest` of the manifest holds."""

    size: int
    sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GzipResult:
    """CRC-32 and size of what went into the gzip member, and the member's own size."""

    crc32: int
    size_in: int
    size_out: int


class ChangedError(Exception):
    """What is read or made now is not what was before, under the same key. The text says in what, to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GzipPlace:
    """A place in the gzip member: `inside` bytes into what block number `block` was deflated to.

    `before` is the member up to that block. `inside_sha1` is the SHA-1 of those `inside` bytes: another version of the
    library may deflate the same block otherwise.
    """

    block: int
    before: GzipResult
    inside: int
    inside_sha1: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The stream at the end of a part: all it takes to go on from there. Nothing in it is secret.

    `archive` is the tar stream through the end of the block in which the part ends, `chain` the part's last cipher
    block (16 bytes).
    """

    gzip: GzipPlace
    archive: ArchiveResult
    chain: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMark:
    """What is known when a part is cut: the checkpoint, unless the part ends in the gzip trailer, and the compression
    levels of the blocks that are in it, by their number.
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
    """What one pass over the volume yielded; the manifest is made from this alone."""

    image_size: int
    archive: ArchiveResult
    gzip: GzipResult
    split: SplitResult


def part_name(prefix: str, index: int) -> str:
    """`image.part.07`: at least two digits, three from 100 on, as euca2ools writes and EC2 takes."""
    return f"{prefix}.part.{index:02d}"


def manifest_name(prefix: str) -> str:
    return f"{prefix}.manifest.xml"


def as_utf8(text: str) -> str:
    """The text with its lone surrogates written out: a file's name need not be UTF-8, JSON and a terminal must."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_path(text: str) -> bool:
    """Whether this names a file or directory, not a place elsewhere, such as `s3://b`; `s3:/b` is a slip, no path."""
    return not _SCHEME.match(text)
