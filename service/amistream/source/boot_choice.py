"""The choice of what comes before a file system so that it boots: its own disk's boot area, a new one, or nothing.

`boot_opening` makes it for a directory.
"""

from __future__ import annotations

from enum import StrEnum

from amistream.source.disks.facts import TableKind


class Partitioning(StrEnum):
    """The values of --partition."""

    AUTO = "auto"
    CLONE = "clone"
    MBR = "mbr"
    GPT = "gpt"
    NONE = "none"


class BootAreaChoice:
    """The wish for a boot area and, once a volume was opened, what became of it."""

    def __init__(self, wish: Partitioning, *, is_hvm: bool = True, has_bios: bool = True) -> None:
        """`has_bios`: an AMI for arm64 boots by UEFI, which a new boot area does not have."""
        self.wish = wish
        self.is_hvm = is_hvm
        self.has_bios = has_bios
        self.is_new = self.table is not TableKind.NONE
        """The boot area is made by amistream, with a GRUB of its own."""
        self.words = ""
        """The boot area of a tree, and why it is not that of its own disk."""
        self.is_own_decision = False
        """The tree got a boot area for which nobody asked."""

    @property
    def table(self) -> TableKind:
        """The table that a bare file system gets: none unless one is wished for."""
        return TableKind(self.wish) if self.wish in (Partitioning.MBR, Partitioning.GPT) else TableKind.NONE
