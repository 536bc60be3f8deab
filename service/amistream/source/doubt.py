"""Doubts about a disk that is one: it is hardly whole, or EC2 will hardly boot it. It is bundled with a notice."""

from __future__ import annotations

import re

from amistream.source.disks.gpt import MARK
from amistream.source.disks.reach import bytes_reached
from amistream.source.disks.reading import Reader
from amistream.source.foreign import HEAD

_SECTOR, _LARGE_SECTOR = 512, 4096
_TEXT = re.compile(rb"(\xef\xbb\xbf)?[\t\n\r -~]+")


def doubt_about(read: Reader, name: str, size: int) -> str:
    """A sentence about a disk of `size` bytes that is hardly whole, or that EC2 will hardly boot; else ''."""
    if (reached := bytes_reached(read, size)) > size:
        return f"its partitions or file system end at byte {reached}: it may be cut short, or one of several files"
    head = read(0, min(HEAD, size))
    if head.startswith(MARK, _LARGE_SECTOR) and not head.startswith(MARK, _SECTOR):
        return f"its partition table is for sectors of {_LARGE_SECTOR} bytes, and EC2's disks have {_SECTOR}"
    if head.startswith(b"hsqs"):
        return "it is a squashfs file system, which cannot be written to, without a partition table"
    if head[32769:32774] == b"CD001" and head[510:512] != b"\x55\xaa":
        return "it is the image of a CD, which does not begin with a boot record"
    if re.search(r"\.part\.[0-9]+$", name):
        return "its name is that of a bundle's part"
    if _TEXT.fullmatch(head[:_SECTOR]):
        return "it begins with text"
    return ""
