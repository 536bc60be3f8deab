"""The mark of ext2, ext3 and ext4: the place of the superblock, and its magic number."""

from __future__ import annotations

from typing import Final

OFFSET: Final = 1024
LENGTH: Final = 1024
_MAGIC: Final = b"\x53\xef"
_MAGIC_AT: Final = 0x38


def is_superblock(raw: bytes) -> bool:
    """Recognise a superblock by its magic number."""
    return len(raw) >= LENGTH and raw.startswith(_MAGIC, _MAGIC_AT)
