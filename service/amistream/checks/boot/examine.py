"""Looks at a disk and finds what will keep its AMI from booting, or its instances from being reached.

Everything is read from the image, without mounting it. `failed` is certain. Where something cannot be told, a finding
says so; a disk that is damaged, or made to mislead, costs bounded time and memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from amistream.checks.boot.architecture import architecture_of, check_architecture
from amistream.checks.boot.cloud import check_cloud
from amistream.checks.boot.disk import Disk
from amistream.checks.boot.drivers import check_drivers
from amistream.checks.boot.faults import unknown
from amistream.checks.boot.file_systems import check_features, check_states
from amistream.checks.boot.fstab import check_fstab
from amistream.checks.boot.grub import check_grub
from amistream.checks.boot.identity import check_identity
from amistream.checks.boot.kernels import check_kernels, choose_kernel, kernel_names
from amistream.checks.boot.network import check_network
from amistream.checks.boot.pvgrub import check_pvgrub
from amistream.checks.boot.security import check_outside_devices, check_selinux
from amistream.checks.boot.system import System, find_boot, find_system
from amistream.checks.boot.table import check_loader, check_root_kind, check_table
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.facts import TableKind
from amistream.source.disks.reading import DoubtError, Reader
from amistream.values import GIB

MOST_SECONDS = 20
MOST_READ = 2 * GIB
_PIECE = 4096


def examine_boot(read: Reader, size: int, wanted: Wanted) -> list[Observation]:
    """Check the disk of `size` bytes that `read` gives. No finding: nothing was found that is wrong."""
    disk = Disk(_bounded(read), size)
    return list(dict.fromkeys(_guarded("the disk", lambda: _examine(disk, wanted))))


def _examine(disk: Disk, wanted: Wanted) -> Iterator[Observation]:
    yield from _guarded("the partition table", lambda: check_table(disk, wanted))
    if disk.table.kind is TableKind.NONE and not disk.is_bare and not wanted.paravirtual:
        return
    system, doubt = _look_for_system(disk)
    if system is not None and wanted.architecture is None:
        wanted = replace(wanted, architecture=architecture_of(system))
    yield from _guarded("the boot loader", lambda: check_loader(disk, wanted))
    yield from _guarded("the file systems", lambda: check_states(disk))
    if system is not None:
        for subject, check in _checks_of_system(system, wanted):
            yield from _guarded(subject, check)
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


def _guarded(subject: str, check: Callable[[], Iterable[Observation]]) -> list[Observation]:
    found: list[Observation] = []
    try:
        found.extend(check())  # up to a doubt
    except DoubtError as doubt:
        found.append(unknown(subject, str(doubt)))
    return found


def _bounded(read: Reader) -> Reader:
    """The reader, until it has read for too long or too much."""
    end = time.monotonic() + MOST_SECONDS
    total = 0

    def read_within(offset: int, length: int) -> bytes:
        nonlocal total
        total += length + _PIECE
        if total > MOST_READ or time.monotonic() > end:
            raise DoubtError("its tables are so intricate that looking further would take too long")
        return read(offset, length)

    return read_within
