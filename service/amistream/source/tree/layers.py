"""Directories that are laid over a tree: their entries come into its image in place of what it has there.

Layer 0 is the tree itself. Directories of one name are merged, in everything else the uppermost layer wins. The changes
of a script are a layer as the kernel's overlayfs writes it, where a device 0:0 deletes what lies below its name.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from amistream.member import Member

_TRUSTED = "trusted."
"""Begins the names of the attributes that root alone sees."""
HIDDEN = "trusted.overlay."
"""Begins the names of the attributes that overlayfs has for itself."""
_OPAQUE = HIDDEN + "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One directory with all that it holds."""

    root: int
    """The open directory."""
    words: str = ""
    """Names it in the report; empty for the tree and a script's changes."""
    follows_rules: bool = True
    """The selection leaves out of it, too. What somebody lays over a tree comes in whole."""
    is_overlayfs: bool = False
    member: Member | None = None
    """Only what he may read comes in."""

    @property
    def hidden(self) -> str:
        """Begins the names of the extended attributes that do not come in."""
        return _TRUSTED if self.member is not None else HIDDEN if self.is_overlayfs else ""

    def deletes(self, about: os.stat_result) -> bool:
        return self.is_overlayfs and stat.S_ISCHR(about.st_mode) and about.st_rdev == 0

    def ends_merging(self, place: bytes | int, about: os.stat_result) -> bool:
        """True for a directory that hides those below it; `place` is its path."""
        if not self.is_overlayfs or not stat.S_ISDIR(about.st_mode):
            return False
        try:
            return os.getxattr(place, _OPAQUE, follow_symlinks=False) == b"y"
        except OSError:
            return False
