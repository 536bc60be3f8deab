"""Describes the machine of a result: processor, memory, kernel and versions. No host name, user or path."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("aiobotocore", "aiohttp", "amistream", "cryptography", "isal", "uvloop", "zlib-ng")
PROGRAMS = {"gzip": "--version", "pigz": "--version", "igzip": "--version", "openssl": "version", "curl": "--version"}
INSTRUCTIONS = ("avx2", "avx512f", "aes", "vaes", "pclmulqdq", "sha_ni", "asimd", "sha1", "sha2")
"""The processor's features that hashing, deflating and encrypting use."""


def describe() -> dict[str, Any]:
    """The machine as JSON."""
    return {
        "cpu": _cpu_field("model name") or platform.machine(),
        "cpu_features": sorted(set((_cpu_field("flags") or _cpu_field("Features")).split()) & set(INSTRUCTIONS)),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": {name: version(name) for name in LIBRARIES},
        "programs": {name: found for name in PROGRAMS if (found := _program_version(name))},
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def one_line(machine: dict[str, Any]) -> str:
    """The description for a table's caption."""
    gib = machine["memory_bytes"] / 1024**3
    return f"{machine['cores']} x {machine['cpu']}, {gib:.0f} GiB, {machine['kernel']}, {machine['python']}"


def _cpu_field(name: str) -> str:
    found = re.search(rf"^{name}\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def _program_version(name: str) -> str:
    if shutil.which(name) is None:
        return ""
    done = subprocess.run([name, PROGRAMS[name]], capture_output=True, text=True, check=False)
    said = (done.stdout or done.stderr).splitlines()
    return said[0].split(" (")[0] if said else ""
