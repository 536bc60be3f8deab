"""Checks the menu that PV-GRUB reads in a paravirtual AMI: /boot/grub/menu.lst, in the format of GRUB legacy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from amistream.checks.boot.faults import failed, noted, shown
from amistream.checks.boot.grub import check_console, check_root_argument
from amistream.checks.boot.grub_menu import Kernel
from amistream.checks.boot.system import System
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation

_CONFIGS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf", "/boot/boot/grub/menu.lst")


@dataclass(slots=True)
class _Entry:
    kernels: list[Kernel] = field(default_factory=list)
    initrds: list[str] = field(default_factory=list)


def check_pvgrub(system: System, wanted: Wanted) -> Iterator[Observation]:
    config = next((path for path in _CONFIGS if system.files.file(path)), "")
    if not config:
        yield noted(
            "no_menu_lst",
            f"the system has no {_CONFIGS[0]}",
            why="PV-GRUB finds no kernel; with an AKI that is a kernel itself none is needed",
            fix=f"write {_CONFIGS[0]}: default 0, timeout 0, title, root (hd0), kernel, initrd",
        )
        return
    entry = _default_entry(system.text(config) or "")
    if entry is None:
        yield failed(
            "menu_lst",
            f"{config} has no entry with a kernel",
            why="PV-GRUB stops at its prompt",
            fix="add an entry: title, root (hd0), kernel, initrd",
        )
        return
    for path in [kernel.path for kernel in entry.kernels] + entry.initrds:
        # A /boot of its own has the kernel without /boot in front.
        if not system.exists_any((path, f"/boot{path}")):
            yield failed(
                "kernel_missing",
                f"the default entry of {config} names {shown(path)}, which does not exist",
                why="PV-GRUB stops at its menu",
                fix=f"correct {config}, or install the kernel package again",
            )
    yield from check_root_argument(system, entry.kernels, f"the default entry of {config}", config)
    yield from check_console(entry.kernels, config, wanted)


def _default_entry(text: str) -> _Entry | None:
    default, entries = 0, list[_Entry]()
    for line in text.splitlines():
        words = line.replace("=", " ", 1).split() if line.lstrip().startswith(("default", "timeout")) else line.split()
        if not words or words[0].startswith("#"):
            continue
        command, rest = words[0], words[1:]
        if command == "default" and rest and rest[0].isdecimal():
            default = int(rest[0][:4])
        elif command == "title":
            entries.append(_Entry())
        elif entries and rest and command == "kernel":
            entries[-1].kernels.append(Kernel(_path(rest[0]), tuple(rest[1:])))
        elif entries and rest and command == "initrd":
            entries[-1].initrds.append(_path(rest[0]))
    bootable = [entry for entry in entries if entry.kernels]
    if default < len(entries) and entries[default].kernels:
        return entries[default]
    return bootable[0] if bootable else None


def _path(word: str) -> str:
    return word.partition(")")[2] if word.startswith("(") else word
