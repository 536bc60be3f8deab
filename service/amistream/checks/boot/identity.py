"""Finds what belongs to one machine or person: ids, keys, histories, logs. Only names and sizes are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator

from amistream.checks.boot.cloud import has_cloud_init
from amistream.checks.boot.faults import IDENTITY, noted, shown
from amistream.checks.boot.system import System
from amistream.checks.findings import Observation
from amistream.source.disks.files import Kind

_MOST_HOMES = 200
_MOST_NAMED = 4
_HISTORY = re.compile(r"\.(bash|zsh|sh|ksh|ash|python|mysql|psql|sqlite)_?history|\.lesshst|\.viminfo")
_HOST_KEY = re.compile(r"ssh_host_.*_key")
_USER_KEY = re.compile(r"id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|ppk)")
_LOGS = (
    "/var/log/wtmp",
    "/var/log/btmp",
    "/var/log/auth.log",
    "/var/log/secure",
    "/var/log/syslog",
    "/var/log/messages",
    "/var/log/cloud-init.log",
)
_LEASES = ("/var/lib/dhcp", "/var/lib/dhclient", "/var/lib/NetworkManager", "/var/lib/dhcpcd")


def check_identity(system: System) -> Iterator[Observation]:
    machine_id = (system.text("/etc/machine-id") or "").strip()
    if machine_id and machine_id != "uninitialized":
        yield _found(
            "machine_id",
            "/etc/machine-id",
            "instances with one id get the same address, and share logs",
            "truncate -s 0 /etc/machine-id",
        )
    yield from _check_ssh(system)
    homes = ["/root", *(f"/home/{name}" for name in system.files.names("/home")[:_MOST_HOMES])]
    yield from _check_homes(system, homes)
    if system.files.node("/var/lib/cloud/instance", follow=False):
        yield _found(
            "cloud_state", "/var/lib/cloud/instance", "it is the state of this instance", "cloud-init clean --logs"
        )
    leases = [
        f"{directory}/{name}"
        for directory in _LEASES
        for name in system.files.names(directory)
        if re.search(r"lease", name) and _has_bytes(system, f"{directory}/{name}")
    ]
    if leases:
        yield _found("leases", _listed(leases), "an instance may ask for the address of this machine", "rm them")
    logs = [path for path in _LOGS if _has_bytes(system, path)]
    journal = [f"/var/log/journal/{name}" for name in system.files.names("/var/log/journal")]
    if logs or journal:
        yield _found(
            "logs",
            _listed([*logs, *journal]),
            "they record who did what on this machine",
            "empty them (journalctl --rotate --vacuum-time=1s; truncate -s 0 FILE)",
        )


def _check_ssh(system: System) -> Iterator[Observation]:
    keys = [f"/etc/ssh/{name}" for name in system.files.names("/etc/ssh") if _HOST_KEY.fullmatch(name)]
    if keys:
        yield _found(
            "host_keys",
            _listed(keys),
            "all instances share one identity, known to everybody who has the image",
            "rm /etc/ssh/ssh_host_*; each instance makes its own with cloud-init",
        )


def _check_homes(system: System, homes: list[str]) -> Iterator[Observation]:
    files = [(home, name) for home in homes for name in system.files.names(home)]
    ssh = [(f"{home}/.ssh", name) for home in homes for name in system.files.names(f"{home}/.ssh")]
    allowed = [f"{home}/{name}" for home, name in ssh if re.fullmatch("authorized_keys2?", name)]
    allowed = [path for path in allowed if _has_bytes(system, path)]
    if allowed:
        only = "" if has_cloud_init(system) else "; without cloud-init they may be the only way in"
        yield _found(
            "authorized_keys",
            _listed(allowed),
            f"whoever has these keys gets into every instance{only}",
            "rm them, unless they are wanted",
        )
    histories = [f"{home}/{name}" for home, name in files if _HISTORY.fullmatch(name)]
    histories = [path for path in histories if _has_bytes(system, path)]
    if histories:
        yield _found("histories", _listed(histories), "commands may hold passwords and keys", "rm them")
    secrets = [f"{home}/{name}" for home, name in (*files, *ssh) if _USER_KEY.fullmatch(name)]
    secrets += [path for home in homes if system.files.exists(path := f"{home}/.aws/credentials")]
    if secrets:
        yield _found(
            "secrets", _listed(secrets), "every instance, and whoever gets the image, has these keys", "rm them"
        )


def _found(what: str, paths: str, why: str, fix: str) -> Observation:
    return noted(f"{IDENTITY}.{what}", f"the image holds {paths}", why=why, fix=f"in the system: {fix}")


def _has_bytes(system: System, path: str) -> bool:
    node = system.files.node(path)
    return node is not None and node.kind is Kind.FILE and node.size > 0


def _listed(paths: list[str]) -> str:
    named = ", ".join(map(shown, paths[:_MOST_NAMED]))
    return named if len(paths) <= _MOST_NAMED else f"{named} and {len(paths) - _MOST_NAMED} more"
