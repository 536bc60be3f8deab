"""Opens a directory with the boot area that it gets by a choice: its own disk's, a new one, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from amistream.errors import RefusedError
from amistream.ports.volume import Volume
from amistream.source.boot_choice import BootAreaChoice, Partitioning
from amistream.source.clone import open_clone
from amistream.source.disks.boot_area import boot_area_size
from amistream.source.disks.facts import TableKind
from amistream.source.grub import require_grub
from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.tree_disk import no_clone
from amistream.source.wrapped import no_kernel, wrap

_FIELD = "partition"
"""The field that errors about boot areas name."""


def open_with_boot_area(choice: BootAreaChoice, path: Path, wishes: TreeWishes) -> Volume:
    """Open a directory with the boot area that it gets. Raises `RefusedError`."""
    if choice.wish is Partitioning.CLONE:
        return _clone(choice, path, wishes)
    if choice.wish is Partitioning.AUTO and choice.is_hvm:
        return _first_that_works(choice, path, wishes)
    if choice.table is TableKind.NONE:
        return open_tree(path, wishes)
    return _wrap(choice, path, wishes, choice.table)


def _first_that_works(choice: BootAreaChoice, path: Path, wishes: TreeWishes) -> Volume:
    try:
        volume = _clone(choice, path, wishes)
    except RefusedError as error:
        if error.field != _FIELD:
            raise
        reasons = [error.message]
    else:
        choice.is_own_decision = True
        return volume
    if choice.has_bios and (wishes.member is not None or _has_files(path / "boot")):
        try:
            volume = _wrap(choice, path, wishes, TableKind.MBR)
        except RefusedError as error:
            if error.field != _FIELD:
                raise
            reasons.append(error.message)
        else:
            choice.is_new = choice.is_own_decision = True
            choice.words = f"{choice.words}: amistream {reasons[0]}"
            return volume
    choice.words = f"the image gets no boot area: amistream {' and '.join(reasons)}"
    # Walked again, because this file system has the room that a boot area would have taken.
    return open_tree(path, wishes)


def _clone(choice: BootAreaChoice, path: Path, wishes: TreeWishes) -> Volume:
    if wishes.member is not None:
        raise no_clone(path, "members of the socket's group get its files, and nothing else of the disk")
    # A copy of all files, which an xfs takes, is made for nobody who did not ask for this boot area.
    volume = open_clone(path, wishes, keeps_xfs=choice.wish is Partitioning.CLONE)
    choice.words = f"the image gets the boot area of {volume.disk.path} ({volume.loader})"
    return volume


def _wrap(choice: BootAreaChoice, path: Path, wishes: TreeWishes, kind: TableKind) -> Volume:
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
    choice.words = f"the image gets a new boot area ({kind.value}) with this machine's GRUB"
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
