"""Checks of the volume: kind, size, writers, and the parts that it is cut into."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.roots import Roots
from amistream.values import MIB
from support.boot_disks import need_grub
from support.mounts import mounted, partition
from support.volumes import ext4_image, loop_device, random_image

if TYPE_CHECKING:
    from checks.scene import Scene


async def test_a_mounted_device(scene: Scene, tmp_path: Path) -> None:
    """A device that is mounted read-write is refused with its mount point and the remedies, including `--live`."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device:
        with mounted(device, tmp_path / "rw") as place:
            error = await scene.refused(scene.out, source=str(device))
            assert (error.code, error.field) == ("source.mounted", "source")
            assert error.message.startswith(f"cannot bundle {device}: it is mounted read-write on {place}")
            for way in (f"umount {place}", f"mount -o remount,ro {place}", "snapshot", "--freeze", "--live"):
                assert way in error.hint
            roots = Roots([device, scene.keys.user.key.parent])
            hint = (await scene.refused(scene.out, source=str(device), roots=roots)).hint
            assert "--live" in hint
            assert "--freeze" not in hint
            async with scene.ready(scene.out, source=str(device), live=True) as ready:
                assert ready.volume.size == 8 * MIB
            assert [notice.partition(":")[0] for notice in scene.notices] == [
                f"{device} is mounted read-write on {place}"
            ]
        with mounted(device, tmp_path / "ro", "-o", "ro"):
            async with scene.ready(scene.out, source=str(device)):
                assert scene.notices == []


async def test_a_disk_with_a_mounted_partition(scene: Scene, tmp_path: Path) -> None:
    """A disk with a mounted partition counts as mounted."""
    file_system = ext4_image(tmp_path / "file-system", 8 * MIB)
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB) + file_system.read_bytes())
    with (
        loop_device(image, read_only=False) as disk,
        partition(disk, MIB, 8 * MIB) as first,
        mounted(first, tmp_path / "rw") as place,
    ):
        error = await scene.refused(scene.out, source=str(disk))
    assert (error.code, str(place) in error.message) == ("source.mounted", True)


async def test_an_image_file_that_is_mounted(scene: Scene, tmp_path: Path) -> None:
    """An image file that is mounted through a loop device counts as mounted."""
    image = ext4_image(tmp_path / "image", 8 * MIB)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "rw"):
        assert (await scene.refused(scene.out, source=str(image))).code == "source.mounted"


@pytest.mark.parametrize(("name", "code"), [("a/b", "prefix.invalid"), ("-", "prefix.invalid")])
async def test_a_prefix_of_the_settings(scene: Scene, name: str, code: str) -> None:
    """An invalid prefix is refused, also if it comes from the settings."""
    error = await scene.refused(scene.out, settings={"prefix": name})
    assert (error.code, error.field) == (code, "prefix")
    assert "--prefix" in error.hint


async def test_a_missing_source(scene: Scene) -> None:
    """A missing source is named."""
    hint = await scene.hint(
        scene.tmp_path / "out", code="source.missing", says="nothing.img: there is no such file", source="/nothing.img"
    )
    assert "lsblk" in hint
    assert not (scene.tmp_path / "out").exists()


async def test_no_disk(scene: Scene) -> None:
    """An archive is refused, also as the disk in an image; `source_format` takes its bytes as they are."""
    scene.image.write_bytes(b"\x1f\x8b\x08" + bytes(MIB - 3))
    hint = await scene.hint(scene.tmp_path / "out", code="source.no_disk", says="it is a gzip file, not a disk")
    assert f"gzip -dc {scene.image} | amistream bundle -" in hint
    async with scene.ready(scene.out, source_format="raw") as ready:
        assert ready.volume.size == MIB
    if shutil.which("qemu-img"):
        inside = scene.tmp_path / "inside.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", scene.image, inside], check=True)
        error = await scene.refused(scene.tmp_path / "out", source=str(inside))
        assert (error.code, "--source-format" in error.hint) == ("source.no_disk", False)


async def test_a_doubtful_disk(scene: Scene) -> None:
    """A disk that EC2 will hardly boot is bundled with a notice."""
    scene.image.write_bytes(b"hsqs" + bytes(MIB))
    async with scene.ready(scene.out):
        assert [notice for notice in scene.notices if "squashfs" in notice and "may not boot" in notice]


async def test_an_empty_image(scene: Scene) -> None:
    """An empty image is refused, because EC2 would refuse it."""
    scene.image.write_bytes(b"")
    await scene.hint(scene.tmp_path / "out", code="source.empty", says="it is empty")


async def test_an_image_over_ten_gib(scene: Scene) -> None:
    """An image that EC2 would not boot is refused with its size and the limit."""
    os.truncate(scene.image, 10 * 2**30 + 1)
    hint = await scene.hint(scene.tmp_path / "out", code="source.too_large", says="at most 10 GiB")
    assert "resize2fs" in hint


async def test_a_disk_that_is_over_the_limit_with_its_boot_area(scene: Scene) -> None:
    """The bytes that `partition` puts before and behind a file system count as part of the image."""
    need_grub()
    (scene.tmp_path / "tree/boot").mkdir(parents=True)
    (scene.tmp_path / "tree/boot/vmlinuz-6.1").write_bytes(b"kernel")
    ext4_image(scene.image, 4 * MIB, scene.tmp_path / "tree")
    for most, fits in ((7 * MIB, True), (7 * MIB - 1, False)):
        asked = {"partition": "gpt", "settings": {"max_image_size": most}}
        if fits:
            async with scene.ready(scene.out, **asked) as ready:
                assert ready.volume.size == 7 * MIB
        else:
            assert (await scene.refused(scene.out, **asked)).code == "source.too_large"


async def test_too_many_parts(scene: Scene) -> None:
    """Parts so small that the manifest would fail EC2's check are refused."""
    os.truncate(scene.image, 2**30)
    await scene.hint(
        scene.tmp_path / "out", code="part_size.too_small", says="into parts of 16384 bytes", part_size="16KiB"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unreadable_source(tmp_path: Path) -> None:
    """A source that the process may not read is refused, with the command that shows its permissions."""
    image = random_image(tmp_path / "disk.img", 1000)
    image.chmod(0o600)
    script = (
        "import json, os, shlex, sys; from pathlib import Path; from amistream.source.file import open_volume;"
        "from amistream.errors import RefusedError\n"
        "os.setuid(65534)\n"
        "try: open_volume(Path(sys.argv[1]))\n"
        "except RefusedError as error: print(json.dumps(error.as_dict()))"
    )
    open_to_all = [tmp_path, *tmp_path.parents]
    modes = [path.stat().st_mode for path in open_to_all]
    try:
        for path in open_to_all:
            path.chmod(0o755)
        made = subprocess.run([sys.executable, "-c", script, image], capture_output=True, check=True, text=True)
    finally:
        for path, mode in zip(open_to_all, modes, strict=True):
            path.chmod(mode)
    error = json.loads(made.stdout)
    assert error["code"] == "source.unreadable"
    assert f"ls -l {image}" in error["hint"]
