"""Access lists as the kernel takes them (`system.posix_acl_access`), because setfacl is not on every machine."""

from __future__ import annotations

import struct

_HEAD = struct.pack("<I", 2)
_NOBODY = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_READ, _READ_SEARCH = 4, 5


def access_list(*, denied: int) -> bytes:
    """Everybody may read and search, but for one user."""
    entries = (
        (_OWNER, _READ_SEARCH, _NOBODY),
        (_USER, 0, denied),
        (_GROUP, _READ_SEARCH, _NOBODY),
        (_MASK, _READ_SEARCH, _NOBODY),
        (_OTHERS, _READ_SEARCH, _NOBODY),
    )
    return _HEAD + b"".join(struct.pack("<HHI", *entry) for entry in entries)
