"""Checks that the launcher's key can arrive: cloud-init, or another program that fetches it."""

from __future__ import annotations

from collections.abc import Iterator

from amistream.checks.boot.faults import noted
from amistream.checks.boot.system import System
from amistream.checks.findings import Observation

_CLOUD_INIT = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")
_OTHERS = (
    "/usr/bin/afterburn",
    "/usr/bin/coreos-metadata",
    "/usr/bin/ignition",
    "/usr/lib/dracut/modules.d/30ignition",
    "/usr/sbin/ec2-get-credentials",
    "/etc/init.d/ec2-get-credentials",
    "/usr/bin/tiny-cloud",
    "/usr/sbin/tiny-cloud",
    "/etc/init.d/tiny-cloud",
    "/lib/tiny-cloud",
    "/etc/init.d/ec2-get-ssh",
    "/etc/init.d/get-credentials",
    "/usr/lib/systemd/system/amazon-init.service",
    "/etc/systemd/system/amazon-init.service",
)


def has_cloud_init(system: System) -> bool:
    return system.exists_any(_CLOUD_INIT)


def check_cloud(system: System) -> Iterator[Observation]:
    if not has_cloud_init(system) and not system.exists_any(_OTHERS):
        yield noted(
            "no_cloud_init",
            "the system has no cloud-init, nor another known program that fetches the launcher's key",
            why="whoever launches an instance gets in only with keys or passwords that are in the image",
            fix="install cloud-init in the system",
        )
