"""Names of the features of ext2, ext3 and ext4, as `dumpe2fs` prints them, and those that the free map understands."""

from __future__ import annotations

from typing import Final

COMPATIBLE: Final = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x40: "lazy_bg",
    0x100: "snapshot_bitmap",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
INCOMPATIBLE: Final = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
READ_ONLY_COMPATIBLE: Final = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x80: "snapshot",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x800: "replica",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_present",
}

NOT_UNDERSTOOD: Final = frozenset(
    {
        "compression",
        "dirdata",
        "journal_dev",
        "lazy_bg",
        "replica",
        "shared_blocks",
        "snapshot",
        "snapshot_bitmap",
    }
)
"""Known by name only: they change which blocks are used, or hardly anybody has ever used them."""

UNREADABLE_BY_GRUB: Final = ("inline_data", "ea_inode", "casefold", "bigalloc")
"""Measured with GRUB 2.06: "unknown filesystem" for each of them, and no other of 26 variants."""

_EXT3: Final = frozenset({"sparse_super", "large_file", "filetype", "needs_recovery", "meta_bg", "journal_dev"})


def feature_names(compatible: int, incompatible: int, read_only_compatible: int) -> frozenset[str]:
    """Name every bit of the three words; one that has no name gets the one that `dumpe2fs` gives it."""
    return frozenset(
        names.get(1 << bit, f"FEATURE_{letter}{bit}")
        for letter, names, word in (
            ("C", COMPATIBLE, compatible),
            ("I", INCOMPATIBLE, incompatible),
            ("R", READ_ONLY_COMPATIBLE, read_only_compatible),
        )
        for bit in range(32)
        if word >> bit & 1
    )


def not_understood(features: frozenset[str]) -> list[str]:
    """The features with which no free map can be trusted, those of a later time included."""
    return sorted(name for name in features if name in NOT_UNDERSTOOD or name.startswith("FEATURE_"))


def kind_of(features: frozenset[str]) -> str:
    """The name under which `blkid` and `mount` know a file system with these features: ext2, ext3 or ext4."""
    needs_ext4 = features - frozenset(COMPATIBLE.values()) - _EXT3
    if any(not name.startswith("FEATURE_C") for name in needs_ext4):
        return "ext4"
    return "ext3" if "has_journal" in features else "ext2"
