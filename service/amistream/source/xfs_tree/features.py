"""Chooses the options of mkfs.xfs: the features of the tree's own xfs, which its kernel and boot loader read. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

LONGEST_LABEL = 12
Version = tuple[int, int]
"""Of xfsprogs."""

_READ_BY_GRUB = 0x1 | 0x2 | 0x4 | 0x8
"""Incompatible features that GRUB 2.06 reads: kinds in directories, sparse inodes, a UUID of its own, big times."""
_HEAD = 512
_MAGIC = b"XFSB"
_FIRST_WITH_CHECKSUMS = 5
_KINDS_IN_FOLDERS, _LARGE_PROJECTS = 0x200, 0x80
"""Of version 4, whose other features everybody has."""


@dataclass(frozen=True, slots=True)
class _Feature:
    """A feature of version 5, and the option of mkfs.xfs that it belongs to."""

    option: str
    name: str
    is_read_only: bool
    """In the word of the features with which an older kernel may still read the file system."""
    bit: int
    since: Version
    """mkfs.xfs knows the name since then; an earlier one never sets the feature."""


_FEATURES = (
    _Feature("-m", "finobt", True, 0x1, (3, 2)),
    _Feature("-m", "rmapbt", True, 0x2, (4, 8)),
    _Feature("-m", "reflink", True, 0x4, (4, 9)),
    _Feature("-m", "inobtcount", True, 0x8, (5, 10)),
    _Feature("-m", "bigtime", False, 0x8, (5, 10)),
    _Feature("-i", "sparse", False, 0x2, (4, 2)),
    _Feature("-i", "nrext64", False, 0x20, (5, 19)),
    _Feature("-i", "exchange", False, 0x40, (6, 10)),
    _Feature("-n", "parent", False, 0x80, (6, 10)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The form of an xfs. The defaults are read by each kernel and boot loader that knows version 5."""

    version: int = 5
    block: int = 4096
    sector: int = 512
    inode: int = 512
    folder: int = 4096
    more_flags: int = 0
    read_only: int = 0
    incompatible: int = 0

    def has(self, feature: _Feature) -> bool:
        return bool((self.read_only if feature.is_read_only else self.incompatible) & feature.bit)


def format_of(head: bytes, *, for_grub: bool = False) -> Format:
    """The form of the xfs that begins with `head`; the default one for anything else.

    `for_grub`: only the features that each GRUB reads, since it is not the one that has read this xfs so far.
    """
    if len(head) < _HEAD or not head.startswith(_MAGIC):
        return Format()
    (block,) = struct.unpack_from(">I", head, 4)
    flags, sector, inode = struct.unpack_from(">HHH", head, 100)
    more_flags, read_only, incompatible = struct.unpack_from(">I8xII", head, 200)
    return Format(
        version=flags & 0xF,
        block=block,
        sector=sector,
        inode=inode,
        folder=block << head[192],
        more_flags=more_flags,
        read_only=read_only,
        incompatible=incompatible & _READ_BY_GRUB if for_grub else incompatible,
    )


def options(like: Format, known: Version, uuid: UUID, label: bytes) -> list[str]:
    """The options for a file system of such a form. `known`: the version of mkfs.xfs."""
    own = {"-m": f"uuid={uuid}", "-i": f"size={like.inode}", "-n": f"size={like.folder}"}
    made = ["-q", "-f", "-K", "-b", f"size={like.block}", "-s", f"size={like.sector}"]
    for option, first in own.items():
        made += [option, ",".join((first, *_of_version_4(like, option), *_of_version_5(like, option, known)))]
    if label:
        made += ["-L", label.decode("utf-8", "surrogateescape")]
    return made


def _of_version_4(like: Format, option: str) -> Iterator[str]:
    if like.version < _FIRST_WITH_CHECKSUMS:
        yield {
            "-m": "crc=0",
            "-i": f"projid32bit={int(bool(like.more_flags & _LARGE_PROJECTS))}",
            "-n": f"ftype={int(bool(like.more_flags & _KINDS_IN_FOLDERS))}",
        }[option]


def _of_version_5(like: Format, option: str, known: Version) -> Iterator[str]:
    """Each feature by name, as far as mkfs.xfs knows it: its own defaults are for new kernels."""
    has_checksums = like.version >= _FIRST_WITH_CHECKSUMS
    for feature in _FEATURES:
        has = has_checksums and like.has(feature)
        if feature.option == option and (has or known >= feature.since):
            yield f"{feature.name}={int(has)}"
