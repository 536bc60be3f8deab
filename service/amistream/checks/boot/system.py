"""Finds the system on a disk: its root file system, those mounted in it, and the entry that GRUB boots by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from amistream.checks.boot import fstab
from amistream.checks.boot.devices import find_device
from amistream.checks.boot.disk import Disk, Volume
from amistream.checks.boot.grub_menu import (
    Entry,
    Menu,
    default_entry,
    newest_first,
    parse_bls,
    parse_environment,
    parse_menu,
)
from amistream.source.disks.files import Files, Tree
from amistream.source.disks.kernels import MENUS
from amistream.source.disks.reading import DoubtError
from amistream.values import KIB

MOST_TEXT = 256 * KIB
"""Bytes of a configuration file that are read."""
_ENTRIES = "/boot/loader/entries"
_MOST_ENTRIES = 200
_NO_ROOT = {"swap", "vfat"}


@dataclass(frozen=True)
class Boot:
    """The menu of GRUB 2, and what it boots by default."""

    config: str
    """The path of its file."""
    menu: Menu
    entry: Entry | None
    """None if the menu has no entry that is understood."""
    volume: Volume
    """The file system in which GRUB looks for kernels."""
    files: Files
    """The files of that file system, from its own root on."""


@dataclass(frozen=True)
class System:
    disk: Disk
    root: Volume
    files: Files
    """Those of the root file system, and of the others of the disk that fstab mounts."""
    mounts: tuple[fstab.Mount, ...]
    mounted: dict[str, Volume] = field(default_factory=dict)
    """The file systems of the disk that fstab mounts, by their paths."""

    def text(self, path: str) -> str | None:
        """The text of a file, or None if there is no such file. Raises `DoubtError`."""
        return text_of(self.files, path)

    def exists_any(self, paths: Iterable[str]) -> bool:
        return any(self.files.exists(path) for path in paths)


def text_of(files: Files, path: str) -> str | None:
    content = files.read(path, MOST_TEXT)
    return None if content is None else content.decode("utf-8", "replace")


def find_system(disk: Disk) -> System | None:
    """The system of the disk; None if no file system has an /etc. Raises `DoubtError` where it cannot be told."""
    doubts: list[str] = []
    found: list[System] = []
    for volume in disk.volumes:
        if volume.content is None or volume.is_opaque or volume.kind in _NO_ROOT:
            continue
        try:
            if Files(volume.tree).is_directory("/etc"):
                found.append(_system(disk, volume))
        except DoubtError as doubt:
            doubts.append(f"{volume.words}: {doubt}")
    if not found:
        if doubts:
            raise DoubtError("; ".join(doubts))
        return None
    return _chosen(found)


def _system(disk: Disk, root: Volume) -> System:
    mounts = fstab.parse_fstab(text_of(Files(root.tree), fstab.PATH) or "")
    mounted: dict[str, Volume] = {}
    trees: dict[str, Tree] = {}
    for mount in mounts:
        volume = find_device(mount.device, disk).volume if mount.is_device else None
        if volume is not None and volume is not root and mount.path.startswith("/") and mount.path != "/":
            mounted[mount.path] = volume
            if volume.kind not in _NO_ROOT:
                trees[mount.path] = volume.tree
    return System(disk, root, Files(root.tree, trees), mounts, mounted)


def _chosen(found: Sequence[System]) -> System:
    """The one whose fstab names itself as /, if only one does, else the largest."""
    naming = [each for each in found if _names_itself(each)]
    return max(naming if len(naming) == 1 else found, key=lambda each: each.root.size)


def _names_itself(system: System) -> bool:
    roots = [mount.device for mount in system.mounts if mount.path == "/"]
    return any(find_device(device, system.disk).volume is system.root for device in roots)


def find_boot(system: System) -> Boot | None:
    """The menu of GRUB 2; None if the system has none. Raises `DoubtError`."""
    config = next((path for path in MENUS if system.files.file(path)), None)
    if config is None:
        return None
    files = system.files
    environment = parse_environment(text_of(files, config.replace("grub.cfg", "grubenv")) or "")
    menu = parse_menu(text_of(files, config) or "", environment)
    entry = default_entry(menu, _bls_entries(files, menu))
    volume = system.mounted.get("/boot", system.root)
    for uuid in entry.searched if entry else ():
        searched = find_device(f"UUID={uuid}", system.disk).volume
        if searched is not None and searched.kind and (searched is system.root or searched in system.mounted.values()):
            volume = searched
    return Boot(config, menu, entry, volume, Files(volume.tree))


def _bls_entries(files: Files, menu: Menu) -> list[Entry]:
    if not menu.has_blscfg:
        return []
    names = [name.removesuffix(".conf") for name in files.names(_ENTRIES) if name.endswith(".conf")]
    return [
        parse_bls(name, text_of(files, f"{_ENTRIES}/{name}.conf") or "", menu)
        for name in newest_first(names)[:_MOST_ENTRIES]
    ]
