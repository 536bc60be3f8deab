"""Reads of one entry of a tree what its lstat does not show: extended attributes, and where a file has holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from amistream.source.tree.profiles import BLOCK, Profile
from amistream.source.tree.xattrs import Attribute, fitting, on_disk

_SHOWN_TWICE = {"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"}
"""ACLs in the form that xfs has on disk, besides the ordinary ones."""
_NONE_THERE = {errno.ENOTSUP, errno.ENODATA, errno.ENOENT}

Runs = tuple[tuple[int, int], ...]
"""Blocks with data: place in the file, blocks."""


def read_attributes(
    place: bytes | str | int, profile: Profile, *, follow: bool = False, hidden: str = ""
) -> tuple[tuple[Attribute, ...], list[str]]:
    """The attributes of an entry that have a place in the image, and the names of those that have none.

    `place` is its path, or its open file. Those whose names begin with `hidden` are as if they were not there.
    """
    follow = follow or isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        return (), [] if error.errno in _NONE_THERE else ["all"]
    if not names:
        return (), []
    names = [name for name in names if name not in _SHOWN_TWICE and not (hidden and name.startswith(hidden))]
    found: list[Attribute] = []
    lost: list[str] = []
    for name in sorted(names):
        try:
            attribute = on_disk(os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow))
        except OSError as error:
            if error.errno not in _NONE_THERE:
                lost.append(name)
            continue
        if attribute is None:
            lost.append(name)
        else:
            found.append(attribute)
    kept, dropped = fitting(found, profile)
    return tuple(kept), lost + [each.name.decode("utf-8", "backslashreplace") for each in dropped]


def may_have_holes(about: os.stat_result) -> bool:
    """True for a regular file that has fewer blocks than its size needs."""
    return about.st_blocks * 512 < about.st_size


def find_runs(descriptor: int, size: int) -> Runs | None:
    """The runs of a file, or None if it has no hole. Raises OSError if it cannot be asked."""
    runs = tuple(_data_runs(descriptor, size))
    return None if runs == ((0, -(-size // BLOCK)),) else runs


def _data_runs(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    behind = at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        first, end = max(start // BLOCK, behind), -(-at // BLOCK)
        if end > first:
            yield first, end - first
        behind = max(behind, end)
