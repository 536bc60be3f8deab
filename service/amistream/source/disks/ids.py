"""Text of the ids and labels in tables and file systems, in the form that `blkid` prints.

They may come from anybody and go to terminals, so characters that do not print are replaced.
"""

from __future__ import annotations

import struct

_GUID = struct.Struct("<IHH8s")


def uuid_text(raw: bytes) -> str:
    """The 16 bytes of a UUID, in groups; '' if all are zero, which stands for none."""
    digits = raw.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) if any(raw) else ""


def guid_text(raw: bytes) -> str:
    """The 16 bytes of a GUID, whose first three numbers are little-endian; '' if all are zero."""
    first, second, third, rest = _GUID.unpack(raw)
    return uuid_text(struct.pack(">IHH8s", first, second, third, rest))


def label_text(raw: bytes, encoding: str = "utf-8") -> str:
    """The characters before the first NUL, without spaces at the end."""
    text = raw.decode(encoding, errors="replace").partition("\0")[0].rstrip()
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
