"""Leaves out of a member's tree what he could not read himself.

Each opening of a file or directory asks his rights again (`handles`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from amistream.member import Member
from amistream.source.tree.handles import SwappedError, pin
from amistream.source.tree.merged import Seen

_ALWAYS = "always, for members of the socket's group:"
CLOSED = "closed"
DEVICE = f"{_ALWAYS} a device"
MOUNTED = f"{_ALWAYS} another file is mounted there"


def rule_for_member(member: Member, seen: Seen, about: os.stat_result, *, is_mounted: bool) -> str:
    """The rule that leaves an entry out, or ''. Raises OSError if there is another one now."""
    if stat.S_ISBLK(about.st_mode) or stat.S_ISCHR(about.st_mode):
        return DEVICE
    if is_mounted and not stat.S_ISDIR(about.st_mode):
        return MOUNTED
    with _pinned(seen, about) as pinned:
        return "" if _may_use(member, seen, pinned, about) else CLOSED


@contextmanager
def place_for_member(member: Member, seen: Seen, about: os.stat_result) -> Iterator[str]:
    """A path of the very entry that was looked at, valid during the block. Raises OSError if he may not use it now."""
    with _pinned(seen, about) as pinned:
        if not _may_use(member, seen, pinned, about):
            raise SwappedError("it is closed to the member now")
        yield f"/proc/self/fd/{pinned}"


@contextmanager
def _pinned(seen: Seen, about: os.stat_result) -> Iterator[int]:
    pinned = pin(seen.name, seen.above, about.st_dev, about.st_ino)
    try:
        yield pinned
    finally:
        os.close(pinned)


def _may_use(member: Member, seen: Seen, pinned: int, about: os.stat_result) -> bool:
    """Links, pipes and sockets hold nothing that a look at them does not show."""
    if not member.may_search(seen.above.descriptor):  # closed since it was listed
        return False
    if stat.S_ISDIR(about.st_mode):
        return member.may_list(pinned)
    return not stat.S_ISREG(about.st_mode) or member.may_read(pinned)
