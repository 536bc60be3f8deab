"""Checks the default entry of GRUB's menu: the root file system that it names, and its console."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.devices import Form, find_device, why_unknown
from amistream.checks.boot.faults import failed, noted, shown, unknown
from amistream.checks.boot.grub_menu import Entry, Kernel, is_variable
from amistream.checks.boot.system import Boot, System
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation
from amistream.source.disks.kernels import MENUS

_CORRECT = "run update-grub (grub2-mkconfig) in the system, or correct"


def check_grub(system: System, boot: Boot | None, wanted: Wanted) -> Iterator[Observation]:
    if boot is None:
        if not (system.disk.is_bare or system.disk.has_efi_system or wanted.is_wrapped):
            yield noted(
                "no_grub_menu",
                f"the system has no menu for GRUB 2: neither {' nor '.join(MENUS)}",
                why="GRUB 2 waits for commands that nobody types, unless its menu is elsewhere",
                fix="run update-grub (grub2-mkconfig) in the system",
            )
        return
    if boot.entry is None or not boot.entry.kernels:
        yield unknown("the default entry of GRUB", f"{boot.config} has none that is understood")
        return
    yield from _check_search(system, boot, boot.entry)
    yield from check_root_argument(system, boot.entry.kernels, f"the default entry of {boot.config}", boot.config)
    yield from check_console(boot.entry.kernels, boot.config, wanted)


def _check_search(system: System, boot: Boot, entry: Entry) -> Iterator[Observation]:
    for uuid in dict.fromkeys(entry.searched):
        if find_device(f"UUID={uuid}", system.disk).volume is None and not any(system.disk.opaque()):
            yield noted(
                "grub_search",
                f"{boot.config} looks for a file system with the UUID {shown(uuid)}, which the image has not",
                why="GRUB reports an error, and goes on only if its guess of the partition is right",
                fix=f"{_CORRECT} the UUID in {boot.config}",
            )


def check_root_argument(system: System, kernels: list[Kernel], where: str, config: str) -> Iterator[Observation]:
    """Check the root= of a kernel's command line. Of several lines, of which a condition chooses, one must be right."""
    findings = [_root_fault(system, kernel, where, config) for kernel in kernels]
    if findings and all(finding is not None for finding in findings):
        yield next(finding for finding in findings if finding is not None)


def _root_fault(system: System, kernel: Kernel, where: str, config: str) -> Observation | None:
    roots = [word.removeprefix("root=") for word in kernel.arguments if word.startswith("root=")]
    if not roots or is_variable(roots[-1]):
        if roots or any(map(is_variable, kernel.arguments)):
            return unknown("root= of the default entry", f"{config} sets it by a variable")
        return unknown("root= of the default entry", f"{config} has none")
    name = shown(roots[-1])
    device = find_device(roots[-1], system.disk)
    if device.volume is system.root:
        if device.form is Form.NAME:
            return noted(
                "device_name",
                f"{where} names the root file system by a device's name: {name}",
                why="other instance types, and other kernels, name the disk otherwise (xvda, nvme0n1)",
                fix=f"set root=UUID= in {config}",
            )
        return None
    if reason := why_unknown(device, system.disk):
        return unknown("root= of the default entry", reason)
    what = f"{device.volume.words}, which is not the root file system" if device.volume else "nothing in the image"
    uuid = system.root.content.uuid if system.root.content else ""
    return failed(
        "root_argument",
        f"{where} boots with root={name}: {what}",
        why="the initramfs waits for it in vain, and the boot stops",
        fix=f"{_CORRECT} it to root=UUID={uuid} in {config}",
    )


def check_console(kernels: list[Kernel], config: str, wanted: Wanted) -> Iterator[Observation]:
    console = "hvc0" if wanted.paravirtual else "ttyS0"
    for kernel in kernels:
        if any(word.startswith(f"console={console[:4]}") or is_variable(word) for word in kernel.arguments):
            return
    yield noted(
        "no_console",
        f"the default entry of {config} has no console={console}",
        why="EC2's console log of the instance stays empty, whatever goes wrong in it",
        fix=f"add console={console} to GRUB_CMDLINE_LINUX in /etc/default/grub, and run update-grub (grub2-mkconfig)",
    )
