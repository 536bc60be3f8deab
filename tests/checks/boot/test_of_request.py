"""The boot checks within a job's checks: notices, refusals with --strict, and what is left out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from amistream.aws.session import Aws
from amistream.checks.boot import examine
from amistream.checks.boot.of_request import BootChecks, examine_volume
from amistream.checks.boot.wanted import Wanted
from amistream.checks.bundling import BundlingChecks
from amistream.checks.destination import BundleContext
from amistream.checks.findings import Observation, Status
from amistream.errors import SourceError
from amistream.ports.volume import Kind
from amistream.source.file import FileVolume, open_volume
from checks.boot.good_system import INITRD, Image
from checks.scene import Scene
from jobs.work import request, settings

if TYPE_CHECKING:
    from amistream.ports.volume import Volume
    from support.keys import KeyRing


@pytest.fixture
def scene(image: Image, key_ring: KeyRing, tmp_path: Path) -> Scene:
    return Scene(image=image.path, keys=key_ring, tmp_path=tmp_path)


async def test_a_good_disk(scene: Scene) -> None:
    """A disk that boots is bundled without a notice, with --strict too."""
    async with scene.ready(scene.out, strict=True):
        assert (scene.notices, scene.boot_notices) == ([], [])


async def test_a_fault(scene: Scene, image: Image) -> None:
    """A fault is one notice with its fix, and with --strict it refuses the job."""
    image.write(0, bytes(440))
    async with scene.ready(scene.out):
        (notice,) = scene.boot_notices
        assert scene.notices == []
    assert notice.startswith("cannot boot: its first sector has no boot loader: ")
    assert "; grub-install " in notice
    hint = await scene.hint(scene.out, strict=True, code="boot.no_loader", says="first sector")
    assert hint.startswith("grub-install ")
    async with scene.ready(scene.out, strict=True, virtualization="paravirtual"):
        assert scene.boot_notices == []


@pytest.mark.parametrize("partition", ["mbr", "gpt"])
async def test_a_bare_file_system(scene: Scene, image: Image, partition: str) -> None:
    """A bare file system is refused with the option that makes a disk of it, and boots with it, menu or not."""
    data = image.path.read_bytes()
    image.path.write_bytes(data[image.disk.root : image.disk.root + image.disk.root_size])
    hint = await scene.hint(scene.out, strict=True, code="boot.bare_file_system", says="bare ext4")
    assert hint.startswith("--partition mbr ")
    async with scene.ready(scene.out, strict=True, partition=partition):
        assert scene.notices == []
    subprocess.run(("debugfs", "-w", "-R", "rm /boot/grub/grub.cfg", image.path), check=True, capture_output=True)
    async with scene.ready(scene.out, strict=True, partition=partition):
        assert scene.notices == []


async def test_what_is_joined(scene: Scene, image: Image) -> None:
    """Traces of the machine are one notice, and so is what cannot be checked; neither refuses."""
    image.put("/etc/ssh/ssh_host_rsa_key", "key")
    image.put("/root/.bash_history", "passwd")
    image.put(INITRD, b"\x02\x21\x4c\x18")
    image.put("/usr/bin/dash", "#!")
    async with scene.ready(scene.out, strict=True):
        traces, unknown = scene.notices
    assert traces.startswith("the image holds 2 things of this machine: host keys, histories: ")
    assert traces.endswith(f"; `amistream inspect {image.path}` lists them")
    assert unknown.startswith("cannot check the drivers in the initramfs: ")
    assert "; cannot check the architecture: " in unknown


async def test_doubts_that_another_check_reports(scene: Scene, image: Image) -> None:
    """A file system that was not unmounted is reported once, whether its free blocks are looked for or not."""
    image.debugfs("feature needs_recovery")
    async with scene.ready(scene.out):
        assert [notice.partition(" is ")[0] for notice in scene.notices] == ["partition 1 (ext4)"]
    async with scene.ready(scene.out, sparse="never"):
        assert [notice.partition(":")[0] for notice in scene.notices] == ["partition 1 was not unmounted"]


def test_a_stream(scene: Scene) -> None:
    """A stream is not looked at: it has not come yet."""
    chosen = settings(scene.tmp_path)
    context = BundleContext(request(scene.image, scene.out, scene.keys), chosen, Aws(chosen))
    source = BundlingChecks(context)
    source.volume = cast("Volume", SimpleNamespace(kind=Kind.STREAM))
    checks = BootChecks(context, source)
    (for_job,) = checks.for_job()
    assert for_job.probe() == []
    (observation,) = cast("list[Observation]", checks.for_doctor().probe())
    assert observation.status is Status.SKIPPED


def test_a_disk_that_cannot_be_read(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error is no finding: the job fails later, and says where."""

    def fail(*_: object) -> bool:
        raise SourceError("source.read_error", "cannot read at byte 0")

    volume = open_volume(image.path)
    try:
        monkeypatch.setattr(FileVolume, "read_into", fail)
        assert examine_volume(volume, Wanted()) == []
    finally:
        volume.close()


def test_too_much_to_read(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes too long to look through is unknown from there on, and what was found stays."""
    image.write(446, b"\0")
    found = []
    for most in (100_000, 1_500_000):
        monkeypatch.setattr(examine, "MOST_READ", most)
        found.append(set(image.findings()))
    assert found == [{("unknown", "boot.unknown")}, {("unknown", "boot.unknown"), ("notice", "boot.not_active")}]


def test_damage_anywhere(image: Image) -> None:
    """Damaged configuration is findings or doubts, and nothing else."""
    data = image.path.read_bytes()
    for word in (b"menuentry", b"/ ext4", b"xen-blkfront.ko", b"\x28\xb5\x2f\xfd", b"07070100"):
        place = data.index(word)
        for step in range(place, place + 120, 8):
            image.write(step, b"{'\"$\xff\0%\x01")
            image.findings()
            image.write(step, data[step : step + 8])
    assert image.findings() == []
