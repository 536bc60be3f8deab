"""The rights of a member of the socket's group to files and directories, by mode and owner.

The process that reads for a member may read everything, so the kernel does not ask. Only what is certain is granted:
of the member's groups the socket's is known alone, and an access list may deny what the mode grants. So a member reads
his own files, those that the socket's group may read, and those that everybody may read.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

_READ, _SEARCH = 4, 1
_LIST = _READ | _SEARCH
_NO_LISTS = {errno.ENOTSUP, errno.ENODATA}
_NO_RIGHT = "system.posix_acl_default"
"""For files that will be made in a directory; it grants and denies nothing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of the socket's group. The files are asked by open descriptors, which may be O_PATH."""

    user: int | None
    """None if it is not known: then he has no files of his own."""
    group: int | None

    def may_read(self, descriptor: int) -> bool:
        return self._may(_READ, descriptor)

    def may_list(self, descriptor: int) -> bool:
        """True for a directory of which he may read the names, and use what they lead to."""
        return self._may(_LIST, descriptor)

    def may_search(self, descriptor: int) -> bool:
        """True for a directory below which he may use what he knows the name of."""
        return self._may(_SEARCH, descriptor)

    def _may(self, wanted: int, descriptor: int) -> bool:
        about = os.fstat(descriptor)
        mode = about.st_mode
        if about.st_uid == self.user:
            return wanted & ~(mode >> 6) == 0
        # Of another group he may be a member or not: both must be granted.
        granted = mode >> 3 if about.st_gid == self.group else mode & mode >> 3
        return wanted & ~granted == 0 and not _has_list(descriptor)


def _has_list(descriptor: int) -> bool:
    """True if there is, or may be, an access list."""
    try:
        names = os.listxattr(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        return error.errno not in _NO_LISTS
    return any(name.startswith("system.") and name != _NO_RIGHT for name in names)
