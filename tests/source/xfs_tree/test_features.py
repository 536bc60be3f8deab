"""The options of mkfs.xfs for file systems that this machine's kernel, or its xfsprogs, do not make any more."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

from amistream.source.xfs_tree.features import Format, format_of, options

NAME = UUID("6dd7aef2-0e40-4d2b-a2d9-ea5d9a6e1c4f")


def words(like: Format, known: tuple[int, int]) -> dict[str, list[str]]:
    """The values of each option."""
    made = [each for each in options(like, known, NAME, b"") if each not in {"-q", "-f", "-K"}]
    return {name: value.split(",") for name, value in zip(made[::2], made[1::2], strict=True)}


def test_version_4() -> None:
    """A root of the time before checksums stays one, with or without the kinds in its directories."""
    found = words(Format(version=4, inode=256, more_flags=0x8A), (6, 1))
    assert "crc=0" in found["-m"]
    assert {"reflink=0", "bigtime=0", "finobt=0"} < set(found["-m"])
    assert {"size=256", "projid32bit=1", "sparse=0"} < set(found["-i"])
    assert "ftype=0" in found["-n"]


def test_old_program() -> None:
    """A mkfs.xfs that has never heard of a feature is not asked to leave it out."""
    assert words(Format(), (4, 5)) == {
        "-b": ["size=4096"],
        "-s": ["size=512"],
        "-m": [f"uuid={NAME}", "finobt=0"],
        "-i": ["size=512", "sparse=0"],
        "-n": ["size=4096"],
    }


def test_feature_that_the_program_lacks() -> None:
    """A feature of the tree's own file system is asked for even so: better refused than left out."""
    assert "bigtime=1" in words(Format(incompatible=0x8), (4, 5))["-m"]


def test_anything_else() -> None:
    """A file that does not begin as an xfs, or is shorter, has no say."""
    assert format_of(b"XFSB") == format_of(bytes(512)) == Format()


def test_before_a_new_boot_area() -> None:
    """A GRUB that has never read this file system gets only what every GRUB reads; sizes and the rest stay."""
    head = bytearray(512)
    head[:4] = b"XFSB"
    struct.pack_into(">I", head, 4, 4096)
    struct.pack_into(">HHH", head, 100, 0xB4A5, 4096, 512)
    struct.pack_into(">IIII", head, 200, 0x18A, 0x18A, 0, 0xF)
    struct.pack_into(">I", head, 216, 0x2B)
    own, new = format_of(bytes(head)), format_of(bytes(head), for_grub=True)
    assert (own.incompatible, new.incompatible) == (0x2B, 0xB)
    assert replace(own, incompatible=0xB) == new
    assert (own.sector, own.read_only) == (4096, 0xF)
