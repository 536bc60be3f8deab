"""Finds network settings that belong to one machine: another instance has another MAC address, and other addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from amistream.checks.boot.cloud import has_cloud_init
from amistream.checks.boot.faults import noted
from amistream.checks.boot.system import System
from amistream.checks.findings import Observation

_PERSISTENT = "/etc/udev/rules.d/70-persistent-net.rules"
_MOST_FILES = 200
_MAC = "it names the MAC address of one machine"
_STATIC = "it gives an interface a fixed address"

_ADDRESSES = r"^[ \t]*addresses[ \t]*:\s{0,80}[-\[]?[ \t]*[\"']?[0-9][0-9.]*/[0-9]"
"""With the length of the network, which the addresses of name servers lack."""
_RULES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "/etc/sysconfig/network-scripts",
        r"ifcfg-(?!lo$).*",
        ((r"^[ \t]*HWADDR[ \t]*=[ \t]*\S", _MAC), (r"^[ \t]*IPADDR\d*[ \t]*=[ \t]*\S", _STATIC)),
    ),
    (
        "/etc/netplan",
        r".*\.ya?ml",
        ((r"^[ \t]*macaddress[ \t]*:[ \t]*\S", _MAC), (_ADDRESSES, _STATIC)),
    ),
    (
        "/etc/systemd/network",
        r".*\.(network|link)",
        ((r"^[ \t]*(Permanent)?MACAddress[ \t]*=[ \t]*\S", _MAC), (r"^[ \t]*Address[ \t]*=[ \t]*[0-9]", _STATIC)),
    ),
    (
        "/etc/NetworkManager/system-connections",
        r".*",
        ((r"^[ \t]*mac-address[ \t]*=[ \t]*\S", _MAC), (r"^[ \t]*method[ \t]*=[ \t]*manual", _STATIC)),
    ),
    ("/etc/network", r"interfaces", ((r"^[ \t]*iface[ \t]+(?!lo[ \t])\S+[ \t]+inet[ \t]+static", _STATIC),)),
    ("/etc/network/interfaces.d", r".*", ((r"^[ \t]*iface[ \t]+(?!lo[ \t])\S+[ \t]+inet[ \t]+static", _STATIC),)),
)
"""Directory, names of files, and what each pattern in them means."""


def check_network(system: System) -> Iterator[Observation]:
    if _has_content(system.text(_PERSISTENT) or ""):
        yield noted(
            "network_names",
            f"{_PERSISTENT} ties the names of interfaces to MAC addresses of this machine",
            why="another instance calls its interface eth1, which is not configured: it is not reachable",
            fix=f"rm {_PERSISTENT}",
        )
    # cloud-init writes its files anew on each new instance.
    written_anew = "50-cloud-init" if has_cloud_init(system) else ""
    for directory, names, patterns in _RULES:
        for name in system.files.names(directory)[:_MOST_FILES]:
            if re.fullmatch(names, name) and not (written_anew and written_anew in name):
                yield from _check_file(system, f"{directory}/{name}", patterns)


def _check_file(system: System, path: str, patterns: tuple[tuple[str, str], ...]) -> Iterator[Observation]:
    text = "\n".join(line for line in (system.text(path) or "").splitlines() if not line.lstrip().startswith("#"))
    for pattern, what in patterns:
        if re.search(pattern, text, re.MULTILINE):
            yield noted(
                "network_settings",
                f"{path}: {what}",
                why="another instance is not reachable",
                fix=f"configure DHCP in {path}, without addresses of this machine",
            )
            return


def _has_content(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())
