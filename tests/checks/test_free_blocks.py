"""The check of free blocks: what a plan leaves out, and one notice for each place where nothing can be."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.checks.boot.of_request import BootChecks
from amistream.checks.free_blocks import find_blocks
from amistream.errors import SourceError
from amistream.source.extents import join_extents
from amistream.source.file import FileVolume, open_volume
from amistream.values import MIB, Extent, LeftOut
from source.images import convert, needs_qemu
from support.mounts import mounted
from support.volumes import ext4_image, loop_device

if TYPE_CHECKING:
    from checks.scene import Scene

SIZE = 8 * MIB


@pytest.fixture(autouse=True)
def _not_to_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """These volumes hold no systems, and the notices say so."""
    monkeypatch.setattr(BootChecks, "for_job", lambda _: [])


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file system in a file without holes, half of it free."""
    image = ext4_image(tmp_path_factory.mktemp("free-blocks") / "image", SIZE)
    image.write_bytes(image.read_bytes())
    return image


@pytest.fixture(scope="module")
def doubtful(ext4: Path) -> Path:
    """The same, marked as having errors."""
    image = ext4.with_name("doubtful")
    shutil.copyfile(ext4, image)
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 2", image], check=True, capture_output=True)
    return image


async def test_the_plan(scene: Scene, ext4: Path) -> None:
    """The plan has the used blocks as they are, and extents around them with few gaps; the sums are right."""
    async with scene.ready(scene.out, source=str(ext4)) as ready:
        plan = ready.plan
    assert scene.notices == []
    assert plan.used is not None
    assert plan.extents == join_extents(plan.used, SIZE)
    assert plan.left_out is not None
    assert plan.left_out.free > MIB
    assert plan.left_out.total == SIZE - sum(extent.length for extent in plan.used)


async def test_never_and_always(scene: Scene, ext4: Path) -> None:
    """`never` reads the whole volume, and `always` leaves out what `auto` does."""
    async with scene.ready(scene.out, source=str(ext4), sparse="never") as ready:
        assert (ready.plan.extents, ready.plan.used, ready.plan.left_out) == (None, None, LeftOut())
    async with scene.ready(scene.out, source=str(ext4), sparse="always") as ready:
        always = ready.plan
    async with scene.ready(scene.out, source=str(ext4), sparse="auto") as ready:
        assert ready.plan == always


async def test_a_doubt_on_a_device(scene: Scene, doubtful: Path) -> None:
    """A file system in doubt is bundled whole, with one notice that has the reason and the command that helps."""
    with loop_device(doubtful) as device:
        async with scene.ready(scene.out, source=str(device)) as ready:
            assert ready.used == (Extent(offset=0, length=SIZE),)
        (notice,) = scene.notices
        assert notice.startswith(f"{device} (ext4) is taken with its free blocks, because ")
        assert notice.endswith(f"; e2fsck -f {device}")


async def test_a_kind_that_is_not_understood(scene: Scene, ext4: Path, tmp_path: Path) -> None:
    """The notice about features that are not understood names no repair, which would change nothing."""
    image = shutil.copyfile(ext4, tmp_path / "image")
    subprocess.run(["debugfs", "-w", "-R", "feature FEATURE_C31", image], check=True, capture_output=True)
    async with scene.ready(scene.out, source=str(image)) as ready:
        assert ready.used == (Extent(offset=0, length=SIZE),)
    (notice,) = scene.notices
    assert "it has features that are not understood (FEATURE_C31)" in notice
    assert "e2fsck" not in notice
    assert "needs no repair" in notice


async def test_a_doubt_in_a_partition(scene: Scene, doubtful: Path) -> None:
    """The notice about a partition has its number, and how it gets a device."""
    scene.image.write_bytes(bytes(MIB) + doubtful.read_bytes())
    table = f"label: dos\nstart=2048, size={SIZE // 512}, type=83\n"
    subprocess.run(["sfdisk", "--quiet", scene.image], input=table, text=True, check=True)
    async with scene.ready(scene.out):
        (notice,) = scene.notices
    assert notice.startswith("partition 1 (ext4) is taken with its free blocks, because ")
    assert f"losetup --find --show --partscan {scene.image}" in notice


async def test_contents_without_a_map(scene: Scene) -> None:
    """Swap and unknown content get a notice each; boot areas, whatever they hold, and unknown disks get none."""
    async with scene.ready(scene.out):
        assert scene.notices == []
    scene.image.write_bytes(bytes(8 * MIB))
    kinds = ("21686148-6449-6E6F-744E-656564454649", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "S", "L")
    lines = [f"start={2048 * number}, size=2048, type={kind}" for number, kind in enumerate(kinds, 1)]
    table = "\n".join(["label: gpt", *lines])
    subprocess.run(["sfdisk", "--quiet", scene.image], input=table, text=True, check=True)
    swap = scene.tmp_path / "swap"
    swap.write_bytes(bytes(MIB))
    swap.chmod(0o600)
    subprocess.run(["mkswap", "--quiet", swap], check=True)
    with scene.image.open("r+b") as file:
        for place in (2 * MIB, 3 * MIB):
            file.seek(place)
            file.write(swap.read_bytes())
    async with scene.ready(scene.out) as ready:
        assert ready.plan.used is None
    assert [notice.partition(" is ")[0] for notice in scene.notices] == ["partition 3 (swap)", "partition 4"]


async def test_doubts_of_the_table(scene: Scene, ext4: Path) -> None:
    """Partitions that overlap, and a GPT without a right header, keep everything, with one notice for each."""
    entries = ((2048, SIZE // 512), (4096, 64))
    table = b"".join(struct.pack("<B3xB3xII", 0, 0x83, start, count) for start, count in entries)
    record = (bytes(446) + table).ljust(510, b"\0") + b"\x55\xaa"
    scene.image.write_bytes(record.ljust(MIB, b"\0") + ext4.read_bytes())
    async with scene.ready(scene.out) as ready:
        assert ready.plan.extents is None
    assert [notice.partition(" is ")[0] for notice in scene.notices] == ["partition 1", "partition 2"]
    protective = struct.pack("<B3xB3xII", 0, 0xEE, 1, 0xFFFFFFFF)
    record = (bytes(446) + protective).ljust(510, b"\0") + b"\x55\xaa"
    scene.image.write_bytes(record.ljust(MIB, b"\0") + ext4.read_bytes())
    async with scene.ready(scene.out) as ready:
        assert ready.plan.extents is None
    (notice,) = scene.notices
    assert notice.startswith(f"{scene.image} is taken with its free blocks, because the boot record stands for a GPT")
    assert notice.endswith(f"fdisk -l {scene.image}")


async def test_cut_short(scene: Scene, ext4: Path) -> None:
    """A file system that goes on behind the file's end is kept, and one notice says that it may be cut short."""
    scene.image.write_bytes(ext4.read_bytes()[:-MIB])
    async with scene.ready(scene.out) as ready:
        assert ready.plan.extents is None
    (notice,) = scene.notices
    assert "may be cut short" in notice


async def test_mounted(scene: Scene, ext4: Path, tmp_path: Path) -> None:
    """A mounted volume is not looked at: the notice of its mount goes for its free blocks too."""
    image = shutil.copyfile(ext4, tmp_path / "image")
    with loop_device(image, read_only=False) as device:
        with mounted(device, tmp_path / "rw"):
            async with scene.ready(scene.out, source=str(device), live=True) as ready:
                assert ready.used == (Extent(offset=0, length=SIZE),)
            (notice,) = scene.notices
            assert "free blocks cannot be left out" in notice
        async with scene.ready(scene.out, source=str(device)) as ready:
            assert sum(extent.length for extent in ready.used) < SIZE


@needs_qemu
async def test_an_image_of_a_virtual_machine(scene: Scene, ext4: Path, doubtful: Path, tmp_path: Path) -> None:
    """The disk in an image is mapped as any other; a doubt asks for a clean shutdown."""
    async with scene.ready(scene.out, source=str(ext4)) as ready:
        plain = ready.plan.left_out
    async with scene.ready(scene.out, source=str(convert(ext4, tmp_path / "clean", "qcow2"))) as ready:
        assert plain is not None
        assert ready.plan.left_out is not None
        assert ready.plan.left_out.free == plain.free
    async with scene.ready(scene.out, source=str(convert(doubtful, tmp_path / "doubtful", "qcow2"))):
        (notice,) = scene.notices
    assert notice.endswith("; start the virtual machine and shut it down cleanly")


def test_a_volume_that_cannot_be_read(ext4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error keeps everything without a notice: the job fails later, and says where."""
    volume = open_volume(ext4)
    try:
        data = volume.extents()

        def fail(offset: int, _buffer: memoryview) -> bool:
            raise SourceError("source.read_error", f"cannot read at byte {offset}")

        monkeypatch.setattr(FileVolume, "read_into", lambda _, *arguments: fail(*arguments))
        found = find_blocks(volume, data)
    finally:
        volume.close()
    assert (found.used, [each.status.value for each in found.observations]) == (data, ["ok"])


@pytest.mark.parametrize(("sectors", "whole"), [(512, False), (4096, True)])
async def test_a_device_with_other_sectors(scene: Scene, ext4: Path, sectors: int, whole: bool) -> None:
    """A table that counts in other sectors than its device names other places to the kernel: nothing is left out."""
    image = scene.tmp_path / "disk"
    image.write_bytes(bytes(MIB) + ext4.read_bytes() + bytes(MIB))
    subprocess.run(["sfdisk", "--quiet", image], input="label: dos\nstart=2048, size=16384\n", text=True, check=True)
    with loop_device(image, sectors=sectors) as device:
        async with scene.ready(scene.out, source=str(device)) as ready:
            assert ready.plan.left_out is not None
            assert (ready.plan.left_out.total == 0) == whole
    assert [notice for notice in scene.notices if "the disk has sectors of 4096 bytes" in notice] == scene.notices
    assert bool(scene.notices) == whole
