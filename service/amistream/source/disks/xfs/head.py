"""The first sector of an xfs: its mark, and the fields of its superblock, unchecked."""

from __future__ import annotations

import struct
from typing import NamedTuple

from amistream.source.disks.facts import FileSystem
from amistream.source.disks.ids import label_text, uuid_text

MAGIC = b"XFSB"
HEAD = 512
"""All fields are within the smallest sector."""


class Fields(NamedTuple):
    """The first fields of a superblock."""

    magic: bytes
    block_size: int
    blocks: int
    realtime_blocks: int
    realtime_extents: int
    uuid: bytes
    log_start: int
    group_blocks: int
    groups: int
    log_blocks: int
    version_and_flags: int
    sector_size: int
    label: bytes
    group_bits: int
    in_progress: int
    free_blocks: int
    more_flags: int


_FIELDS = struct.Struct(">4s I QQQ 16s Q 28x II 4x I HH 4x 12s 4x Bx B 17x Q 48x I")


def parse_head(head: bytes) -> Fields:
    return Fields(*_FIELDS.unpack_from(head))


def identify(head: bytes) -> FileSystem | None:
    """The file system by the first 512 bytes of a partition, unchecked; None where they are not of xfs."""
    if len(head) < HEAD or not head.startswith(MAGIC):
        return None
    fields = parse_head(head)
    size = fields.blocks * fields.block_size
    return FileSystem(kind="xfs", size=size, label=label_text(fields.label), uuid=uuid_text(fields.uuid))
