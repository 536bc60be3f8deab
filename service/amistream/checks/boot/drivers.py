"""Checks that the kernel has its drivers in time: those of disk and root file system in the initramfs or built in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from amistream.checks.boot import initramfs
from amistream.checks.boot.faults import failed, noted, shown, unknown
from amistream.checks.boot.kernels import MODULES, Chosen
from amistream.checks.boot.system import System
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.reading import DoubtError
from amistream.values import MIB

_MOST_LIST = 8 * MIB
_MODULE = re.compile(r"(?:.*/)?([^/]+)\.ko(?:\.(?:gz|xz|zst|bz2|lzma))?")
_DISK = "xen_blkfront"
_NETWORK = "xen_netfront"
_OF_FILE_SYSTEM = {
    "ext2": {"ext2", "ext4"},
    "ext3": {"ext3", "ext4"},
    "ext4": {"ext4"},
    "xfs": {"xfs"},
    "btrfs": {"btrfs"},
}


@dataclass(frozen=True)
class Drivers:
    """Names of modules, with _ for -. None where no list tells."""

    built_in: frozenset[str] | None
    installed: frozenset[str] | None
    """Those in /lib/modules, which come with the root file system only."""
    early: frozenset[str] = field(default_factory=frozenset)
    """Those in the initramfs."""

    def in_time(self, names: Iterable[str]) -> bool | None:
        """One of them is there before the root file system is; None if that cannot be told."""
        if any(name in self.early or name in (self.built_in or ()) for name in names):
            return True
        return None if self.built_in is None else False

    def at_all(self, name: str) -> bool | None:
        if self.in_time([name]) or name in (self.installed or ()):
            return True
        return None if self.built_in is None or self.installed is None else False


def check_drivers(system: System, chosen: Chosen, wanted: Wanted) -> Iterator[Observation]:
    """Check a kernel whose files and modules exist; `check_kernels` reports those that do not."""
    versions = system.files.names(MODULES)
    if not chosen.version or not versions:
        reason = f"there are no modules in {MODULES}" if chosen.version else f"{shown(chosen.path)} has no version"
        yield unknown("the drivers", reason)
    elif chosen.is_complete and chosen.version in versions:
        yield from _check_modules(system, chosen, wanted)


def _check_modules(system: System, chosen: Chosen, wanted: Wanted) -> Iterator[Observation]:
    built_in = _listed(system, chosen, "modules.builtin")
    installed = _listed(system, chosen, "modules.dep")
    of_root = _OF_FILE_SYSTEM.get(system.root.kind, set())
    needed = {_DISK, "nvme", *of_root} - (built_in or set())
    try:
        early = _early(chosen, needed)
    except DoubtError as doubt:
        yield unknown("the drivers in the initramfs", f"{shown(chosen.initrds[0].path)}: {doubt}")
        return
    drivers = Drivers(built_in, installed, early)
    if built_in is None or installed is None:
        known = all(drivers.in_time(names) for names in ([_DISK], of_root or [_DISK]))
        if not known:
            yield unknown("the drivers", f"{MODULES}/{shown(chosen.version)} has no modules.builtin or modules.dep")
            return
    check_disk = _check_ebs_disk if wanted.on_ebs else _check_xen_disk
    yield from check_disk(system, chosen, drivers)
    yield from _check_root(system, chosen, drivers, of_root)
    yield from _check_network(chosen, drivers, wanted)


def _check_xen_disk(system: System, chosen: Chosen, drivers: Drivers) -> Iterator[Observation]:
    if drivers.in_time([_DISK]) is False:
        yield failed(
            "no_xen_blkfront",
            f"{_place(chosen)} lacks xen-blkfront, the driver for disks on Xen",
            why="an AMI from S3 runs on Xen: the kernel finds no disk",
            fix=_fix(system, chosen, "xen-blkfront"),
        )


def _check_ebs_disk(system: System, chosen: Chosen, drivers: Drivers) -> Iterator[Observation]:
    """An AMI on EBS runs on Xen and on the Nitro system, of which one may do."""
    xen, nitro = drivers.in_time([_DISK]), drivers.in_time(["nvme"])
    if nitro is False and xen is False:
        yield failed(
            "no_disk_driver",
            f"{_place(chosen)} lacks nvme and xen-blkfront, the drivers for disks",
            why="the kernel finds no disk",
            fix=_fix(system, chosen, "nvme"),
        )
    elif nitro is False:
        yield noted(
            "no_nvme",
            f"{_place(chosen)} lacks nvme, the driver for disks on the Nitro system",
            why="the kernel finds no disk on the instance types of today (m5, c5, t3 and all later ones)",
            fix=_fix(system, chosen, "nvme"),
        )


def _check_root(system: System, chosen: Chosen, drivers: Drivers, of_root: set[str]) -> Iterator[Observation]:
    if of_root and drivers.in_time(of_root) is False:
        yield failed(
            "no_root_driver",
            f"{_place(chosen)} lacks {system.root.kind}, the driver for the root file system",
            why="the kernel cannot mount it",
            fix=_fix(system, chosen, system.root.kind),
        )


def _place(chosen: Chosen) -> str:
    return f"the initramfs of the kernel {shown(chosen.version)}" if chosen.initrds else "the kernel"


def _check_network(chosen: Chosen, drivers: Drivers, wanted: Wanted) -> Iterator[Observation]:
    version = shown(chosen.version)
    if drivers.at_all(_NETWORK) is False and not wanted.on_ebs:
        yield noted(
            "no_xen_netfront",
            f"the kernel {version} has no xen-netfront, the driver for the network on Xen",
            why="the instance is hardly reachable",
            fix="install a kernel that has it",
        )
    for asked, option, name in ((wanted.ena, "--ena", "ena"), (wanted.sriov, "--sriov", "ixgbevf")):
        if asked and drivers.at_all(name) is False:
            yield failed(
                f"no_{name}",
                f"{option} was given, and the kernel {version} has no driver {name}",
                why="instances whose network needs it are not reachable",
                fix=f"leave out {option}, or install a kernel that has it",
                cannot="reach instances",
            )
    if wanted.on_ebs:
        if not wanted.ena and drivers.at_all("ena") is False:
            yield noted(
                "no_ena_driver",
                f"the kernel {version} has no ena, the driver for the network on the Nitro system",
                why="instances of today's types are not reachable",
                fix="install a kernel that has it",
            )
        return
    late = [name for name, there in (("nvme", drivers.in_time(["nvme"])), ("ena", drivers.at_all("ena"))) if not there]
    if late and not (wanted.ena and late == ["ena"]):
        yield noted(
            "no_nitro",
            f"the kernel {version} lacks {' and '.join(late)} at boot",
            why="the system boots on Xen, and not on newer instance types, should it become an AMI on EBS",
            fix="add the drivers to the initramfs, or install a kernel that has them",
        )


def _listed(system: System, chosen: Chosen, name: str) -> frozenset[str] | None:
    """The modules in a list of depmod, one in each line."""
    content = system.files.read(f"{MODULES}/{chosen.version}/{name}", _MOST_LIST)
    if content is None:
        return None
    paths = (line.partition(":")[0] for line in content.decode("utf-8", "replace").splitlines())
    return frozenset(_module(path) for path in paths) - {""}


def _early(chosen: Chosen, needed: set[str]) -> frozenset[str]:
    """The modules in the initramfs, read until all that are needed are found. Raises `DoubtError`."""
    found: set[str] = set()
    for initrd in chosen.initrds:
        for name in initramfs.names(initrd):
            if needed <= found:
                break
            if name.endswith("squashfs-root.img"):
                raise DoubtError("it has its files in a squashfs, which is not read here")
            if module := _module(name):
                found.add(module)
    return frozenset(found)


def _module(path: str) -> str:
    match = _MODULE.fullmatch(path)
    return match[1].replace("-", "_") if match else ""


def _fix(system: System, chosen: Chosen, name: str) -> str:
    version = shown(chosen.version)
    if system.files.exists("/etc/initramfs-tools"):
        return f"in the system: echo {name} >> /etc/initramfs-tools/modules && update-initramfs -u -k {version}"
    if system.exists_any(("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")):
        return f'in the system: dracut --force --add-drivers "{name}" /boot/initramfs-{version}.img {version}'
    return f"add {name} to the initramfs, or build it into the kernel"
