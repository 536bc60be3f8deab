"""Checks this machine: the state directory, for every job; memory, cores, clock and libraries, for `doctor`."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
from importlib import metadata
from pathlib import Path
from typing import Protocol

from amistream.checks.findings import Check, Observation, notice
from amistream.errors import RefusedError
from amistream.settings import PROCESS_BASELINE, Settings
from amistream.units import size_text
from amistream.values import KIB, MIB, quoted

JOURNAL_BASE = 5 * MIB
"""Growth of the journal without its parts. Measured: 4 MiB of write-ahead log; rounded up."""

LIBRARIES = ("isal", "zlib-ng", "cryptography", "aiobotocore", "botocore", "aiohttp", "uvloop")
CRYPTOGRAPHY_LEAST = 50

MEMORY = Path("/proc/meminfo")
CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")

_UNSYNCHRONISED = 0x0040
"""STA_UNSYNC of linux/timex.h."""


class Needs(Protocol):
    """The needs of one job."""

    @property
    def workers(self) -> int: ...

    @property
    def most_memory(self) -> int:
        """Bytes that the process may use with this job alone."""

    @property
    def journal_size(self) -> int:
        """Bytes that the journal may grow by, as far as that is known."""


class HostChecks:
    """Compares the machine with the needs of a job."""

    def __init__(self, settings: Settings, needs: Needs) -> None:
        self._settings = settings
        self._needs = needs
        self._state_dir = settings.state_dir

    def checks(self, *, with_state_dir: bool = True) -> list[Check]:
        libraries = f"cryptography before {CRYPTOGRAPHY_LEAST} blocks every thread while it encrypts; isal compresses"
        return [
            Check("libraries", libraries, _check_libraries),
            Check("cores", "", self._check_cores),
            Check("memory", "the kernel would kill the process in the middle of a job", self._check_memory),
            *([self.state_dir()] if with_state_dir else []),
        ]

    def state_dir(self) -> Check:
        why = "every job needs its journal, and the journal and a generated key must stay private"
        return Check("state_dir", why, self._check_state_dir, after=("source", "bundle"))

    def _check_state_dir(self) -> Observation:
        folder = self._state_dir
        existing = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise RefusedError(
                "state_dir.unwritable",
                f"cannot keep the journal in {folder}: {existing} cannot be written to",
                hint=f"run as its owner (ls -ld {quoted(existing)}), or set state_dir to a directory of your own",
                field="state_dir",
            )
        free, needed = shutil.disk_usage(existing).free, JOURNAL_BASE + self._needs.journal_size
        if free < needed:
            raise RefusedError(
                "state_dir.full",
                f"cannot keep the journal in {folder}: {size_text(free)} are free, and it may need {size_text(needed)}",
                hint=f"free some space: df -h {quoted(existing)}; or set state_dir to another place",
                field="state_dir",
            )
        if existing != folder:
            return Observation(f"{folder} will be created")
        mode = folder.stat().st_mode
        if mode & 0o002:
            raise RefusedError(
                "state_dir.exposed",
                f"cannot trust the journal in {folder}: every user of this machine can write there",
                hint=f"chmod 700 {quoted(folder)}",
                field="state_dir",
            )
        if mode & 0o077:
            return notice(
                f"{folder} is open to others (mode {mode & 0o777:04o})",
                why="they can see the jobs",
                fix=f"chmod 700 {quoted(folder)}",
            )
        return Observation(f"{folder}, private, {size_text(free)} free")

    def _check_cores(self) -> Observation:
        cores, workers = len(os.sched_getaffinity(0)), self._needs.workers
        found = f"{cores} core{'s' * (cores != 1)}, {workers} worker{'s' * (workers != 1)}"
        if workers > cores:
            return notice(
                found,
                why="more workers than cores cost memory and gain nothing",
                fix=f"--workers {cores}, or remove the setting workers",
            )
        return Observation(found)

    def _check_memory(self) -> Observation:
        one, jobs = self._needs.most_memory, self._settings.max_jobs
        most = one + (jobs - 1) * max(0, one - PROCESS_BASELINE)
        figures = {name: int(size) * KIB for name, size in re.findall(r"(\w+): +(\d+) kB\n", MEMORY.read_text())}
        total, available = min(figures["MemTotal"], _cgroup_limit()), figures["MemAvailable"]
        found = f"{size_text(one)} for one job, {size_text(most)} for {jobs} at once; {size_text(available)} available"
        fix = "--memory-limit, fewer --upload-concurrency or a smaller --part-size; fewer jobs at once: max_jobs"
        if one > total:
            raise RefusedError(
                "memory.small",
                f"cannot run a job in {size_text(total)} of memory: it may take {size_text(one)}",
                hint=fix,
                field="memory_limit",
            )
        if most > min(total, available):
            return notice(found, why="jobs may be swapped out, or killed by the kernel", fix=fix)
        return Observation(found)


def _check_libraries() -> str:
    versions: dict[str, str] = {}
    missing: list[str] = []
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise RefusedError(
            "libraries.missing",
            f"cannot work without {', '.join(missing)}: not installed here",
            hint="install amistream again, with its dependencies: pip install --force-reinstall amistream",
        )
    if int(versions["cryptography"].partition(".")[0]) < CRYPTOGRAPHY_LEAST:
        raise RefusedError(
            "libraries.old",
            f"cannot use cryptography {versions['cryptography']}: it is older than {CRYPTOGRAPHY_LEAST}",
            hint=f"pip install 'cryptography>={CRYPTOGRAPHY_LEAST},<{CRYPTOGRAPHY_LEAST + 1}'",
        )
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def check_clock() -> Observation:
    """Report the kernel's view of its clock, for want of an answer of S3 to compare with."""
    # A zeroed struct timex only reads. From byte 24: largest and estimated error in us, and the status.
    timex = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return Observation("not known to the kernel")
    largest_error_us, _, status = struct.unpack_from("@qqi", timex, 24)
    if status & _UNSYNCHRONISED:
        return notice(
            "not synchronised, by the kernel",
            why="AWS refuses requests whose time is 15 minutes off",
            fix="timedatectl set-ntp true, or run chrony; with --to the clock is compared with S3's",
        )
    return Observation(f"synchronised, to {largest_error_us / 1e6:.2f} s")


def _cgroup_limit() -> int:
    """The lowest memory limit of this process's control groups, in bytes."""
    limit = 1 << 62
    for line in CGROUP.read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            root, file = CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(place.lstrip("/"))
        for each in (group, *group.parents):
            path = root / each / file
            text = path.read_text().strip() if path.exists() else "max"
            limit = min(limit, int(text)) if text.isdigit() else limit
    return limit
