"""Checks what a disk holds: its boot loader, its file systems, and the system in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from amistream.checks.boot.architecture import architecture_of, check_architecture
from amistream.checks.boot.boot_loader import check_loader
from amistream.checks.boot.cloud import check_cloud
from amistream.checks.boot.disk import Disk
from amistream.checks.boot.drivers import check_drivers
from amistream.checks.boot.faults import guarded, unknown
from amistream.checks.boot.file_systems import check_features, check_root_kind, check_states
from amistream.checks.boot.fstab import check_fstab
from amistream.checks.boot.grub import check_grub
from amistream.checks.boot.identity import check_identity
from amistream.checks.boot.kernels import check_kernels, choose_kernel, kernel_names
from amistream.checks.boot.network import check_network
from amistream.checks.boot.pvgrub import check_pvgrub
from amistream.checks.boot.security import check_outside_devices, check_selinux
from amistream.checks.boot.system import System, find_boot, find_system
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.reading import DoubtError


def examine_contents(disk: Disk, wanted: Wanted) -> Iterator[Observation]:
    system, doubt = _look_for_system(disk)
    if system is not None and wanted.architecture is None:
        wanted = replace(wanted, architecture=architecture_of(system))
    yield from guarded("the boot loader", lambda: check_loader(disk, wanted))
    yield from guarded("the file systems", lambda: check_states(disk))
    if system is not None:
        for subject, check in _checks_of_system(system, wanted):
            yield from guarded(subject, check)
    elif doubt:
        yield unknown("the system", doubt)
    elif opaque := list(check_root_kind(disk)):
        yield from opaque
    elif wanted.paravirtual or not disk.is_bare:
        yield unknown("the system", "no file system of the image has an /etc")


def _look_for_system(disk: Disk) -> tuple[System | None, str]:
    """The system of the disk, or the doubt about it."""
    try:
        return find_system(disk), ""
    except DoubtError as doubt:
        return None, str(doubt)


_Checks = Iterator[tuple[str, Callable[[], Iterable[Observation]]]]


def _checks_of_system(system: System, wanted: Wanted) -> _Checks:
    """The checks by their subjects. Each is guarded, so that a doubt about one hides no other."""
    yield "the kernel", lambda: _check_boot(system, wanted)
    yield "/etc/fstab", lambda: check_fstab(system.mounts, system.disk, system.root.number)
    yield "the architecture", lambda: check_architecture(system, wanted)
    yield "the network's settings", lambda: check_network(system)
    yield "the launcher's key", lambda: check_cloud(system)
    yield "the labels of SELinux", lambda: check_selinux(system)
    yield "further devices", lambda: check_outside_devices(system)
    yield "what belongs to this machine", lambda: check_identity(system)


def _check_boot(system: System, wanted: Wanted) -> Iterator[Observation]:
    if wanted.paravirtual:
        yield from check_pvgrub(system, wanted)
        return
    boot = find_boot(system)
    yield from check_features(boot.volume if boot else system.root)
    if boot is not None or kernel_names(system):
        yield from check_grub(system, boot, wanted)
    chosen = choose_kernel(system, boot)
    yield from check_kernels(system, boot, chosen)
    if chosen is not None:
        yield from check_drivers(system, chosen, wanted)
