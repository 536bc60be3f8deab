"""File systems in files, mounted where nobody else sees them."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from amistream.host import mount_guard
from amistream.host.mounted_image import MountRefusedError, mounted_image
from amistream.values import MIB
from support.mounts import mounted, small_disk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture(autouse=True)
def _mounts_work(tmp_path: Path) -> None:
    """Skip where root may not mount."""
    with small_disk(tmp_path / "probe", "64k"):
        pass


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path], check=True)
    return path


def loops_of(image: Path) -> list[Path]:
    """The loop devices that show a file, in /sys."""
    return [
        each.parent for each in Path("/sys/block").glob("loop*/loop/backing_file") if str(image) in each.read_text()
    ]


def test_mounted(image: Path, tmp_path: Path) -> None:
    """Files that are written there are in the image afterwards, no other process sees the mount, no device stays."""
    with image.open("r+b") as file, mounted_image(file.fileno(), "ext4", "", tmp_path) as root:
        opened = os.open("written", os.O_CREAT | os.O_WRONLY, dir_fd=root)
        os.write(opened, b"by its directory")
        os.close(opened)
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        assert len(loops_of(image)) == 1
    assert loops_of(image) == []
    shown = subprocess.run(["debugfs", "-R", "cat /written", image], capture_output=True, check=True).stdout
    assert shown == b"by its directory"
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0


def test_keeps_nothing_else_busy(image: Path, tmp_path: Path) -> None:
    """Other mounts can be unmounted meanwhile, and their devices go."""
    other = Path(shutil.copy(image, tmp_path / "other"))
    with image.open("r+b") as file, ExitStack() as until_later:
        with mounted(other, tmp_path / "mnt", "-o", "loop"):
            until_later.enter_context(mounted_image(file.fileno(), "ext4", "", tmp_path))
            assert len(loops_of(other)) == 1
        assert loops_of(other) == []


def test_broken_off(image: Path, tmp_path: Path) -> None:
    """An error in the block ends the mount, too."""
    with (
        pytest.raises(ZeroDivisionError),
        image.open("r+b") as file,
        mounted_image(file.fileno(), "ext4", "", tmp_path),
    ):
        raise ZeroDivisionError
    assert loops_of(image) == []


def test_no_file_system(tmp_path: Path) -> None:
    """A file without one is refused with the kernel's reason."""
    path = tmp_path / "zeros"
    path.write_bytes(bytes(MIB))
    with (
        path.open("r+b") as file,
        pytest.raises(MountRefusedError, match="cannot be mounted: Invalid argument"),
        mounted_image(file.fileno(), "ext4", "", tmp_path),
    ):
        pass
    assert loops_of(path) == []


@pytest.mark.parametrize("one_step", [True, False])
def test_goes_with_its_last_user(image: Path, one_step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop device detaches itself, also where the kernel is of the time before it was made in one step."""
    if not one_step:
        monkeypatch.setattr(mount_guard, "_CONFIGURE", 0x4C7F)
    with image.open("r+b") as file:
        device = mount_guard.attach(file.fileno())
    (loop,) = loops_of(image)
    assert (loop / "autoclear").read_text() == "1\n"
    os.close(device)
    assert loops_of(image) == []
