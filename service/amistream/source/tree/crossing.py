"""Finds where a walk meets other mounts than its own, and whether it goes on there.

Mounts are known by the kernel's table and its numbers of mounts, because numbers of devices do not tell: a subvolume of
btrfs has one of its own, a bind mount of the same disk has none.
"""

from __future__ import annotations

import os

from amistream.source.tree.handles import mount_of
from amistream.source.tree.merged import Seen
from amistream.source.tree.report import Fate, Report
from amistream.source.tree.surroundings import NEVER_CROSSED, Surroundings

STAYS_EMPTY = -1
"""In place of a mount: a directory whose contents are left out."""


class Crossing:
    """The mounts below the root of one walk."""

    def __init__(self, around: Surroundings, report: Report) -> None:
        self._around = around
        self._report = report

    def mount_below(self, above: int, device: int, path: bytes, seen: Seen, about: os.stat_result) -> int:
        """The mount of a directory of layer 0, or `STAYS_EMPTY`. `above`, `device`: mount and device of its parent."""
        around = self._around
        if about.st_dev == device and path not in around.mounts:
            return above
        try:
            mount = _mount_at(seen)
        except OSError:
            return above  # vanished: it is not entered
        if mount == above or mount in around.same:
            return mount
        if around.cross and around.mounts.get(path, "") not in NEVER_CROSSED:
            return mount
        self.leave_empty(path)
        return STAYS_EMPTY

    def leave_empty(self, path: bytes) -> None:
        """Record a directory whose contents are left out, being those of another file system."""
        self._report.add(Fate.LEFT_OUT, path, "another file system (--all); the directory is empty")

    def is_mounted(self, seen: Seen) -> bool:
        """True for a file at a mount point over which another one is mounted, as containers have it. Raises OSError."""
        return _mount_at(seen) not in (mount_of(seen.above.descriptor), *self._around.same)


def _mount_at(seen: Seen) -> int:
    """The mount that an entry is on. Raises OSError."""
    opened = os.open(seen.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=seen.above.descriptor)
    try:
        return mount_of(opened)
    finally:
        os.close(opened)
