"""Chooses what comes before a file system so that it boots: its own disk's boot area, a new one, or nothing."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from amistream.errors import RefusedError
from amistream.ports.volume import Volume
from amistream.source.clone import open_clone
from amistream.source.disks.boot_area import boot_area_size
from amistream.source.disks.facts import TableKind
from amistream.source.grub import require_grub
from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.tree_disk import no_clone
from amistream.source.wrapped import no_kernel, wrap

_FIELD = "partition"
"""The field that errors about boot areas name."""


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
        self._wish = wish
        self._is_hvm = is_hvm
        self._has_bios = has_bios
        self.is_new = self.table is not TableKind.NONE
        """The boot area is made by amistream, with a GRUB of its own."""
        self.words = ""
        """The boot area of a tree, and why it is not that of its own disk."""
        self.is_own_decision = False
        """The tree got a boot area for which nobody asked."""

    @property
    def table(self) -> TableKind:
        """The table that a bare file system gets: none unless one is wished for."""
        return TableKind(self._wish) if self._wish in (Partitioning.MBR, Partitioning.GPT) else TableKind.NONE

    def open_tree(self, path: Path, wishes: TreeWishes) -> Volume:
        """Open a directory with the boot area that it gets. Raises `RefusedError`."""
        if self._wish is Partitioning.CLONE:
            return self._clone(path, wishes)
        if self._wish is Partitioning.AUTO and self._is_hvm:
            return self._first_that_works(path, wishes)
        if self.table is TableKind.NONE:
            return open_tree(path, wishes)
        return self._wrap(path, wishes, self.table)

    def _first_that_works(self, path: Path, wishes: TreeWishes) -> Volume:
        try:
            volume = self._clone(path, wishes)
        except RefusedError as error:
            if error.field != _FIELD:
                raise
            reasons = [error.message]
        else:
            self.is_own_decision = True
            return volume
        if self._has_bios and (wishes.member is not None or _has_files(path / "boot")):
            try:
                volume = self._wrap(path, wishes, TableKind.MBR)
            except RefusedError as error:
                if error.field != _FIELD:
                    raise
                reasons.append(error.message)
            else:
                self.is_new = self.is_own_decision = True
                self.words = f"{self.words}: amistream {reasons[0]}"
                return volume
        self.words = f"the image gets no boot area: amistream {' and '.join(reasons)}"
        # Walked again, because this file system has the room that a boot area would have taken.
        return open_tree(path, wishes)

    def _clone(self, path: Path, wishes: TreeWishes) -> Volume:
        if wishes.member is not None:
            raise no_clone(path, "members of the socket's group get its files, and nothing else of the disk")
        # A copy of all files, which an xfs takes, is made for nobody who did not ask for this boot area.
        volume = open_clone(path, wishes, keeps_xfs=self._wish is Partitioning.CLONE)
        self.words = f"the image gets the boot area of {volume.disk.path} ({volume.loader})"
        return volume

    def _wrap(self, path: Path, wishes: TreeWishes, kind: TableKind) -> Volume:
        # Before the walk, which may take minutes.
        require_grub()
        if _has_no_kernel(path, wishes):
            raise no_kernel(path)
        tree = open_tree(path, replace(wishes, reserved=boot_area_size(kind)))
        try:
            volume = wrap(tree, kind)
        except BaseException:
            tree.close()
            raise
        self.words = f"the image gets a new boot area ({kind.value}) with this machine's GRUB"
        return volume


def _has_no_kernel(path: Path, wishes: TreeWishes) -> bool:
    """True if there is nothing in /boot, and nothing else puts something there."""
    if wishes.member is not None or wishes.overlay is not None or wishes.changes is not None or wishes.menu is not None:
        return False
    try:
        return not any((path / "boot").iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _has_files(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
