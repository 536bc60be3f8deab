"""Checks the labels of SELinux, and devices outside of the image that crypttab and mdadm.conf name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from amistream.checks.boot.devices import find_device
from amistream.checks.boot.faults import noted, shown
from amistream.checks.boot.system import System
from amistream.checks.findings import Observation

_SELINUX = "/etc/selinux/config"
_CRYPTTAB = "/etc/crypttab"
_MDADM = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_SAMPLES = ("/etc/fstab", "/etc/passwd", "/etc/os-release", "/usr/bin/sh")


def check_selinux(system: System) -> Iterator[Observation]:
    if not re.search(r"^[ \t]*SELINUX[ \t]*=[ \t]*enforcing", system.text(_SELINUX) or "", re.MULTILINE):
        return
    if system.files.exists("/.autorelabel"):
        yield noted(
            "selinux_relabel",
            "/.autorelabel exists",
            why="the first boot labels every file, which takes minutes, and boots again",
            fix="boot the system once before it is bundled, or rm /.autorelabel if its labels are right",
        )
        return
    nodes = [node for path in _SAMPLES if (node := system.files.node(path))]
    if nodes and not any(node.has_attributes for node in nodes):
        yield noted(
            "selinux_labels",
            f"{_SELINUX} says enforcing, and files have no labels",
            why="nobody can log in, or the first boot labels every file, which takes minutes",
            fix="copy files with their extended attributes (rsync -X, tar --selinux), or touch /.autorelabel",
        )


def check_outside_devices(system: System) -> Iterator[Observation]:
    for line in (system.text(_CRYPTTAB) or "").splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):  # noqa: PLR2004 - a name and a device
            continue
        options = set(fields[3].split(",")) if len(fields) > 3 else set()  # noqa: PLR2004 - the fourth field
        names_file = fields[1].startswith("/") and not fields[1].startswith("/dev/")
        if not options & {"nofail", "noauto"} and not names_file and not find_device(fields[1], system.disk).volume:
            yield noted(
                "crypttab",
                f"{_CRYPTTAB} names {shown(fields[1])}, which is not in the image",
                why="the boot waits 90 seconds for it, and stops if something is mounted from it",
                fix=f"remove the line from {_CRYPTTAB}, or add nofail to its options",
            )
    for path in _MDADM:
        for line in (system.text(path) or "").splitlines():
            fields = line.split()
            if len(fields) > 1 and fields[0].upper() == "ARRAY" and fields[1] != "<ignore>":
                yield noted(
                    "mdadm",
                    f"{path} names the array {shown(fields[1])}",
                    why="an instance has no such disks: the boot may wait for them",
                    fix=f"remove the line from {path}, and make the initramfs again",
                )
