"""The effective capabilities of this process (capabilities(7)). Root of a service, or of a container, lacks some."""

from __future__ import annotations

from pathlib import Path

STATUS = Path("/proc/self/status")
READS_EVERYTHING = 1 << 2
"""CAP_DAC_READ_SEARCH."""
MOUNTS = 1 << 21
"""CAP_SYS_ADMIN."""


def has(capability: int) -> bool:
    with STATUS.open(encoding="ascii") as lines:
        found = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(found & capability)
