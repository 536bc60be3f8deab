"""Live trees on disks like their own: mounted partitions of loop devices, and sgdisk, e2fsck and GRUB as referees."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest

from amistream.errors import RefusedError, SourceError
from amistream.ports.volume import Volume
from amistream.source import clone
from amistream.source.clone import open_clone
from amistream.source.tree.opening import TreeWishes, open_tree
from amistream.source.tree.surroundings import StoppedError
from support.boot_disks import GRUB_PARTITIONS, BootDisk, Table, boot_disk, ext4, write_loader
from support.live_disks import LiveDisk, in_use
from support.mounts import mounted, partition
from support.volumes import FIXED_UUID, MIB, ext4_image, loop_device, random_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
KERNEL = "boot/vmlinuz-6.1.0-1-cloud-amd64"
SIZE = 32 * MIB
MOST = 10 << 30
ESP = 4096 * 512, 2 * MIB
TABLE_FIELDS: dict[Table, list[tuple[int, int]]] = {
    "mbr": [(458, 4)],
    "gpt": [(458, 4), (528, 4), (544, 8), (560, 8), (600, 4), (1064, 8)],
}
"""The places and lengths that say how large disk and root are, and checksums of them."""
tables = pytest.mark.parametrize("table", get_args(Table))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    (tree / "boot").mkdir()
    (tree / "srv").mkdir()
    random_image(tree / KERNEL, MIB + 17)
    return tree


@pytest.fixture(params=get_args(Table), scope="module")
def live(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDisk]:
    folder = tmp_path_factory.mktemp("live")
    disk = boot_disk(folder / "disk", tree, SIZE, request.param)
    with in_use(disk, folder / "root") as found:
        yield found


@contextmanager
def cloned(live: LiveDisk, size: int | None = None, most: int = MOST) -> Iterator[Volume]:
    volume = open_clone(live.root, TreeWishes(most=most, size=size))
    try:
        yield volume
    finally:
        volume.close()


def content(volume: Volume) -> bytes:
    data = bytearray(volume.size)
    volume.read_into(0, memoryview(data))
    return bytes(data)


def tail(disk: BootDisk) -> int:
    """Bytes of the table's copy at the end."""
    return 33 * 512 if disk.table == "gpt" else 0


def run(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def without(data: bytes, fields: list[tuple[int, int]]) -> bytes:
    left = bytearray(data)
    for start, length in fields:
        left[start : start + length] = bytes(length)
    return bytes(left)


@pytest.mark.parametrize("size", [28 * MIB, 64 * MIB, None])
def test_another_size(live: LiveDisk, size: int | None, tree: Path, tmp_path: Path) -> None:
    """Ids, boot area and files are those of the live disk; table and file system are right, and GRUB reads it."""
    disk = live.disk
    with cloned(live, size) as volume:
        made, extents = content(volume), volume.extents()
    holes = zip([0, *(each.end for each in extents)], [*(each.offset for each in extents), len(made)], strict=True)
    assert not any(any(made[start:stop]) for start, stop in holes)
    path = tmp_path / "made"
    path.write_bytes(made)
    assert len(made) == (size or disk.root_end + tail(disk))
    original = disk.path.read_bytes()
    fields = TABLE_FIELDS[disk.table]
    assert without(made[: disk.root], fields) == without(original[: disk.root], fields)
    if disk.table == "gpt":
        assert "No problems found" in run("sgdisk", "--verify", path)
    grub = f"(loop0,{GRUB_PARTITIONS[disk.table]})/{KERNEL}"
    run("grub-fstest", path, "cmp", grub, tree / KERNEL)
    root = tmp_path / "root"
    root.write_bytes(made[disk.root : len(made) - tail(disk)])
    run("e2fsck", "-fn", root)
    assert FIXED_UUID in run("blkid", "-p", "-o", "value", "-s", "UUID", root)


def test_any_range(live: LiveDisk) -> None:
    """Any range reads as in the whole disk, and as in any other opening of it."""
    with cloned(live, 28 * MIB) as volume:
        whole = content(volume)
        edges = [0, 1, 446, 458, 462, 512, 4096, live.disk.root, live.disk.root + 1, volume.size - 512, volume.size]
        for start in edges:
            for stop in (each for each in edges if each > start):
                buffer = bytearray(stop - start)
                volume.will_need(start, stop - start)
                volume.read_into(start, memoryview(buffer))
                assert buffer == whole[start:stop], (start, stop)
        volume.rewind()
        assert content(volume) == whole
    with cloned(live, 28 * MIB) as again:
        assert content(again) == whole


def test_the_largest_disk(live: LiveDisk) -> None:
    """A disk that is too large for an AMI gets a smaller root."""
    with cloned(live, most=28 * MIB) as volume:
        assert volume.size == 28 * MIB


def test_stopped(live: LiveDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel also ends the reading of what is taken over, however large that is."""
    stopped = threading.Event()

    def stop_after_it(path: Path, wishes: TreeWishes) -> Volume:
        volume = open_tree(path, wishes)
        stopped.set()
        return volume

    monkeypatch.setattr(clone, "open_tree", stop_after_it)
    with pytest.raises(StoppedError):
        open_clone(live.root, TreeWishes(most=MOST, stopped=stopped.is_set))


def test_writes_meanwhile(live: LiveDisk) -> None:
    """Files of the tree may change meanwhile; the boot area must not."""
    with cloned(live) as volume:
        (live.root / "srv" / "new").write_text("new")
        subprocess.run(["sync", "--file-system", live.root], check=True)
        volume.check_unchanged()
        with live.device.open("r+b") as device:
            device.seek(MIB - 512)
            before = device.read(1)
            device.seek(MIB - 512)
            device.write(bytes([before[0] ^ 1]))
            device.flush()
            os.fsync(device.fileno())
        with pytest.raises(SourceError) as caught:
            volume.check_unchanged()
        assert caught.value.code == "source.changed"
        assert str(live.device) in caught.value.message


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        open_clone(path, TreeWishes(most=MOST))
    assert (caught.value.code, caught.value.field) == ("partition.clone", "partition")
    return caught.value.message


def test_no_root_of_a_disk(live: LiveDisk, tree: Path, tmp_path: Path) -> None:
    """A directory within a file system, another kind of one, and a disk without partitions are refused."""
    assert "it is not the top of a file system" in refusal(live.root / "srv")
    with mounted(live.root / "srv", tmp_path / "bound", "--bind") as bound:
        assert "it is not the top of a file system" in refusal(bound)
    with mounted("tmpfs", tmp_path / "memory", "-t", "tmpfs") as memory:
        assert "its file system is tmpfs" in refusal(memory)
    image = ext4_image(tmp_path / "image", 16 * MIB, tree)
    with loop_device(image, read_only=False) as device, mounted(device, tmp_path / "whole") as root:
        assert f"{device} is a whole disk, not a partition of one" in refusal(root)
    assert "No such file" in refusal(tmp_path / "none")


def test_a_disk_that_cannot_be_taken_over(tree: Path, tmp_path: Path) -> None:
    """The reason against a template is given, and nothing stays open."""
    disk = boot_disk(tmp_path / "disk", tree, SIZE, "mbr")
    with disk.path.open("r+b") as file:
        file.seek(512)
        file.write(bytes(disk.core_room - 512))
    with in_use(disk, tmp_path / "root") as live:
        assert "the core of GRUB 2 on its disk (byte 512) is damaged" in refusal(live.root)
        opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        assert not [each for each in opened if each.startswith((str(live.device), str(live.root)))]


def test_a_table_that_the_kernel_does_not_know(tree: Path, tmp_path: Path) -> None:
    """A partition that has another place in the table than in the kernel is refused with the command to read it."""
    disk = boot_disk(tmp_path / "disk", tree, SIZE, "mbr")
    with in_use(disk, tmp_path / "root") as live:
        subprocess.run(
            ["sfdisk", "--quiet", "--no-reread", "--force", live.device, "-N1"], input=b", 40960", check=True
        )
        assert "the kernel has another place or size for partition 1 than its table" in refusal(live.root)


BOOT = 2048 * 512, 12 * MIB
"""Place and size of a partition before the root."""


@pytest.fixture
def with_boot(tree: Path, tmp_path: Path) -> Iterator[tuple[LiveDisk, Path]]:
    """A live disk whose first partition is an ext4 besides its root, with the kernel in it; and its device."""
    path = random_image(tmp_path / "disk", SIZE + BOOT[1])
    start = sum(BOOT)
    script = f"label: dos\nstart=2048, size={BOOT[1] // 512}\nstart={start // 512}\n"
    subprocess.run(["sfdisk", "--quiet", path], input=script, text=True, check=True)
    disk = BootDisk(path=path, table="mbr", root=start, root_size=SIZE - MIB, core=512, core_room=MIB - 512)
    write_loader(disk)
    ext4(path, tree / "boot", *BOOT)
    (tmp_path / "tree" / "boot").mkdir(parents=True)
    (tmp_path / "tree" / "srv").mkdir()
    ext4(path, tmp_path / "tree", start, disk.root_size)
    with in_use(disk, tmp_path / "root", 2) as live, partition(live.device, *BOOT) as device:
        yield live, device


def test_boot_on_the_same_disk(with_boot: tuple[LiveDisk, Path], tree: Path, tmp_path: Path) -> None:
    """A partition for /boot before the root comes along as it is, while it is mounted."""
    live, device = with_boot
    with mounted(device, live.root / "boot"):
        (live.root / "boot" / "new").write_text("new")
        with cloned(live, 64 * MIB) as volume:
            made = content(volume)
            volume.check_unchanged()
            assert volume.size == 64 * MIB
    path = tmp_path / "made"
    path.write_bytes(made)
    name = Path(KERNEL).name
    run("grub-fstest", path, "cmp", f"(loop0,msdos1)/{name}", tree / KERNEL)
    boot, root = tmp_path / "boot", tmp_path / "root.img"
    boot.write_bytes(made[BOOT[0] : sum(BOOT)])
    root.write_bytes(made[sum(BOOT) :])
    run("e2fsck", "-fn", root)
    with mounted(boot, tmp_path / "mounted", "-o", "loop") as found:
        assert (found / "new").read_text() == "new"
        assert (found / name).read_bytes() == (tree / KERNEL).read_bytes()


def test_a_write_to_boot(with_boot: tuple[LiveDisk, Path]) -> None:
    """A kernel that is installed meanwhile fails the job."""
    live, device = with_boot
    with mounted(device, live.root / "boot"), cloned(live) as volume:
        (live.root / "boot" / "new").write_text("new")
        subprocess.run(["sync", "--file-system", live.root / "boot"], check=True)
        with pytest.raises(SourceError):
            volume.check_unchanged()


def test_other_partitions_in_use(with_boot: tuple[LiveDisk, Path], tmp_path: Path, tree: Path) -> None:
    """A partition that others write to is refused; one that is only read comes along."""
    live, device = with_boot
    with mounted(device, live.root / "srv"):
        assert f"partition 1 of its disk is mounted read-write on {live.root}/srv" in refusal(live.root)
    with mounted(device, live.root / "srv", "-o", "ro"), cloned(live) as volume:
        volume.check_unchanged()
    other = ext4_image(tmp_path / "other", 16 * MIB, tree)
    with loop_device(other, read_only=False) as disk, mounted(disk, live.root / "boot"):
        assert f"{live.root}/boot is not on the same disk" in refusal(live.root)
