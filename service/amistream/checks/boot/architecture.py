"""Checks that the programs of the image are for the processor that the AMI is registered for."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.faults import failed, noted, unknown
from amistream.checks.boot.system import System
from amistream.checks.boot.wanted import Wanted
from amistream.checks.findings import Observation

_PROGRAMS = ("/bin/sh", "/sbin/init", "/usr/bin/bash", "/bin/busybox")
_MACHINES = {3: "i386", 62: "x86_64", 183: "arm64"}
"""The field e_machine of ELF."""


def check_architecture(system: System, wanted: Wanted) -> Iterator[Observation]:
    found, asked = _find_program(system), wanted.architecture
    if found is None:
        yield unknown("the architecture", f"none of {', '.join(_PROGRAMS)} is a program")
    elif asked is not None and found[1] != asked:
        yield _mismatch(*found, asked, wanted)


def architecture_of(system: System) -> str | None:
    """The architecture of the system's programs, or None if it has none. Raises `DoubtError`."""
    found = _find_program(system)
    return found[1] if found else None


def _find_program(system: System) -> tuple[str, str] | None:
    """The path of a program, and what it is for."""
    for path in _PROGRAMS:
        head = system.files.read(path, 20) or b""
        if head[:4] == b"\x7fELF" and len(head) == 20:  # noqa: PLR2004 - up to the machine
            machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
            return path, _MACHINES.get(machine, f"machine {machine} of ELF")
    return None


def _mismatch(path: str, found: str, asked: str, wanted: Wanted) -> Observation:
    what = f"{path} is a program for {found}, and the AMI is to be {asked}"
    fix = f"--arch {found}" if found in _MACHINES.values() else "bundle a system for the AMI's architecture"
    if {found, asked} == {"i386", "x86_64"} and not wanted.paravirtual:
        return noted(
            "architecture", what, why="EC2 offers the AMI for other instance types than it could run on", fix=fix
        )
    return failed("architecture", what, why="EC2 starts it on processors that cannot run it", fix=fix)
