"""Checks of this machine: state directory, memory, cores, libraries and clock."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from amistream.aws.session import Aws
from amistream.checks import host
from amistream.checks.bundling import BundlingChecks
from amistream.checks.destination import Destination
from amistream.checks.findings import Check, Finding, Status, run_checks
from amistream.checks.host import HostChecks
from amistream.values import KIB, MIB
from jobs.work import request, settings
from support.mounts import small_disk

if TYPE_CHECKING:
    from checks.scene import Scene
    from support.keys import KeyRing


async def test_a_full_state_directory(scene: Scene, tmp_path: Path) -> None:
    """A job whose journal would not fit on the disk is refused."""
    with small_disk(tmp_path / "disk", "1m") as place:
        error = await scene.refused(scene.out, settings={"state_dir": place / "state"})
    assert (error.code, error.field) == ("state_dir.full", "state_dir")
    assert f"df -h {place}" in error.hint


async def test_an_open_state_directory(scene: Scene, tmp_path: Path) -> None:
    """A state directory writable for all is refused; a readable one gets a notice."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    state.chmod(0o755)
    async with scene.ready(scene.out):
        assert scene.notices == [f"{state} is open to others (mode 0755): they can see the jobs; chmod 700 {state}"]
    state.chmod(0o777)
    error = await scene.refused(scene.out)
    assert (error.code, error.hint) == ("state_dir.exposed", f"chmod 700 {state}")


async def test_a_state_directory_that_cannot_be_made(scene: Scene) -> None:
    """A state directory below a file is refused, and the setting is named."""
    error = await scene.refused(scene.out, settings={"state_dir": scene.image / "state"})
    assert (error.code, error.field) == ("state_dir.unwritable", "state_dir")


class Machine:
    """Runs one check of a machine."""

    def __init__(self, tmp_path: Path, keys: KeyRing) -> None:
        self.tmp_path, self.keys = tmp_path, keys

    async def finding(self, name: str, **changes: Any) -> Finding:
        chosen = settings(self.tmp_path, **changes.pop("settings", {}))
        asked = request(self.tmp_path / "disk.img", self.tmp_path / "out", self.keys, **changes)
        async with Aws(chosen) as aws:
            checks = HostChecks(chosen, BundlingChecks(Destination(asked, chosen, aws, "token")))
            all_of_them = [*checks.checks(), Check("clock", "", host.check_clock)]
            (finding,) = await run_checks([each for each in all_of_them if each.name == name])
        return finding


@pytest.fixture
def machine(tmp_path: Path, key_ring: KeyRing) -> Machine:
    return Machine(tmp_path, key_ring)


async def test_this_machine(machine: Machine) -> None:
    """The machine that runs these tests passes."""
    for name in ("libraries", "cores", "memory", "state_dir"):
        assert (await machine.finding(name)).status is Status.OK, name


async def test_cores(machine: Machine) -> None:
    """More workers than cores get a notice."""
    finding = await machine.finding("cores", workers=256)
    assert (finding.status, "256 workers" in finding.found, "--workers" in finding.fix) == (Status.NOTICE, True, True)


async def test_memory_of_the_machine(machine: Machine) -> None:
    """One job that needs more than the memory fails; so many jobs that need more together get a notice."""
    finding = await machine.finding("memory", part_size="5GiB", upload_concurrency=64)
    assert (finding.status, finding.code, finding.field) == (Status.FAILED, "memory.small", "memory_limit")
    assert "--memory-limit" in finding.fix
    limited = await machine.finding("memory", part_size="5GiB", upload_concurrency=64, memory_limit="200MiB")
    assert (limited.status, limited.found.startswith("200.0 MiB for one job")) == (Status.OK, True)
    many = await machine.finding("memory", settings={"max_jobs": 1_000_000})
    assert (many.status, "1000000 at once" in many.found) == (Status.NOTICE, True)


@pytest.mark.parametrize(
    ("line", "file", "text", "limit"),
    [
        ("0::/a/b", "a/memory.max", "104857600", 100 * MIB),
        ("0::/a/b", "a/b/memory.max", "max", 1 << 62),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", "104857600", 100 * MIB),
        ("4:cpu,memory:/a", "memory/memory.limit_in_bytes", "104857600", 100 * MIB),
        ("3:cpuset:/a", "a/memory.max", "1", 1 << 62),
    ],
)
async def test_memory_of_the_control_group(
    line: str, file: str, text: str, limit: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest limit of the control groups, of either version, counts as the memory."""
    (machine.tmp_path / "cgroup").write_text(f"{line}\n1:name=systemd:/\n")
    told = machine.tmp_path / "groups" / file
    told.parent.mkdir(parents=True)
    told.write_text(f"{text}\n")
    monkeypatch.setattr(host, "CGROUP", machine.tmp_path / "cgroup")
    monkeypatch.setattr(host, "CGROUPS", machine.tmp_path / "groups")
    finding = await machine.finding("memory")
    assert finding.status is (Status.FAILED if limit == 100 * MIB else Status.OK)
    if limit == 100 * MIB:
        assert finding.found.startswith("cannot run a job in 100.0 MiB of memory")


async def test_memory_that_is_taken(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory used by other programs gets a notice."""
    told = machine.tmp_path / "meminfo"
    told.write_text(f"MemTotal:       {2**20} kB\nMemFree: 5 kB\nMemAvailable:   {100 * KIB} kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(host, "MEMORY", told)
    finding = await machine.finding("memory")
    assert (finding.status, finding.found.endswith("100.0 MiB available")) == (Status.NOTICE, True)


async def test_libraries(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library and an outdated one are named, with the command that installs it."""

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError
        return versions[name]

    versions = dict.fromkeys(host.LIBRARIES, "99.1")
    monkeypatch.setattr(metadata, "version", version)
    assert "isal 99.1" in (await machine.finding("libraries")).found
    versions["cryptography"] = "49.0.1"
    old = await machine.finding("libraries")
    assert (old.code, old.fix) == ("libraries.old", "pip install 'cryptography>=50,<51'")
    del versions["isal"], versions["uvloop"]
    missing = await machine.finding("libraries")
    assert (missing.code, missing.found) == (
        "libraries.missing",
        "cannot work without isal, uvloop: not installed here",
    )


async def test_clock(machine: Machine) -> None:
    """The kernel's view of the clock is reported, and never a failure."""
    finding = await machine.finding("clock")
    assert finding.status in (Status.OK, Status.NOTICE)
    assert "synchronised" in finding.found
    assert bool(finding.fix) == (finding.status is Status.NOTICE)
