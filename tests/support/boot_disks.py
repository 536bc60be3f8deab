"""Disks that a BIOS boots by GRUB 2, made without root, mounts or grub-install.

A disk has a table, GRUB's boot.img and core.img, and one ext4 or xfs at its end. Bytes outside of partitions are noise,
and so are the free blocks of ext4: deleted data to the file system, somebody's boot code to whoever copies the disk.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from support.volumes import FIXED_UUID, MIB, random_image, xfs_image

SECTOR = 512
GRUB = Path("/usr/lib/grub/i386-pc")
MBR_TABLE = """\
label: dos
label-id: 0xb0070001
start=2048, size={size}, type=83, bootable
"""
# The numbers and the order of the cloud images of Debian and Ubuntu.
GPT_TABLE = """\
label: gpt
label-id: B0070001-0000-4000-8000-000000000000
first-lba: 34
14: start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, uuid=B0070001-0000-4000-8000-00000000000E
15: start=4096, size=4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=B0070001-0000-4000-8000-00000000000F
1: start=8192, size={size}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=B0070001-0000-4000-8000-000000000001
"""

Table: TypeAlias = Literal["mbr", "gpt"]
Kind: TypeAlias = Literal["ext4", "xfs"]
GRUB_PARTITIONS: dict[Table, str] = {"mbr": "msdos1", "gpt": "gpt1"}
"""The partition of the file system, as GRUB calls it."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The places on a disk, in sectors."""

    sfdisk: str
    core: range
    """For core.img."""
    root: int
    behind: int
    """Sectors at the disk's end that no partition may take."""


LAYOUTS: dict[Table, _Layout] = {
    "mbr": _Layout(sfdisk=MBR_TABLE, core=range(1, 2048), root=2048, behind=0),
    "gpt": _Layout(sfdisk=GPT_TABLE, core=range(2048, 4096), root=8192, behind=33),
}


@dataclass(frozen=True, kw_only=True)
class BootDisk:
    """A disk in a file, and where its file system is."""

    path: Path
    table: Table
    root: int
    """First byte of the file system."""
    root_size: int
    core: int
    """First byte of core.img."""
    core_room: int
    """Bytes that core.img may take."""

    @property
    def root_end(self) -> int:
        return self.root + self.root_size


def boot_disk(path: Path, tree: Path, size: int, table: Table, kind: Kind = "ext4") -> BootDisk:
    """Make a disk of `size` bytes that starts the kernel in `tree` as its /boot/grub/grub.cfg says."""
    disk = partitioned(random_image(path, size), table)
    write_loader(disk, kind)
    if kind == "xfs":
        made = xfs_image(path.with_suffix(".xfs"), disk.root_size, tree)
        with made.open("rb") as source, path.open("r+b") as target:
            target.seek(disk.root)
            shutil.copyfileobj(source, target, MIB)
        made.unlink()
    else:
        ext4(path, tree, disk.root, disk.root_size)
    return disk


def partitioned(path: Path, table: Table) -> BootDisk:
    """Write the table of such a disk into a file."""
    layout = LAYOUTS[table]
    size = (path.stat().st_size // SECTOR - layout.behind - layout.root) // 8 * 8
    _run("sfdisk", "--quiet", "--wipe=always", str(path), given=layout.sfdisk.format(size=size))
    return BootDisk(
        path=path,
        table=table,
        root=layout.root * SECTOR,
        root_size=size * SECTOR,
        core=layout.core.start * SECTOR,
        core_room=len(layout.core) * SECTOR,
    )


def bare_file_system(path: Path, tree: Path, size: int) -> Path:
    """Make the file system of `boot_disk` alone."""
    random_image(path, size)
    ext4(path, tree, 0, size)
    return path


def ext4(path: Path, tree: Path, offset: int, size: int) -> None:
    """Write an ext4 file system that holds `tree` into a file, and leave the bytes of its free blocks."""
    # GRUB reads blocks of 4 KiB twice as fast as the 1 KiB that a small file system would get.
    options = f"offset={offset},nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed={FIXED_UUID}"
    words = ("-q", "-F", "-t", "ext4", "-b", "4096", "-U", FIXED_UUID, "-E", options)
    _run("mke2fs", *words, "-d", str(tree), str(path), f"{size // 1024}k")


def write_loader(disk: BootDisk, kind: Kind = "ext4") -> None:
    """Write boot.img and core.img in the way of grub-install, with /boot/grub in partition 1."""
    need_grub()
    for_table = "part_msdos" if disk.table == "mbr" else "part_gpt"
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "core.img"
        words = ("-O", "i386-pc", "-o", str(made), "-p", f"(,{GRUB_PARTITIONS[disk.table]})/boot/grub")
        _run("grub-mkimage", *words, "biosdisk", for_table, "xfs" if kind == "xfs" else "ext2")
        core = bytearray(made.read_bytes())
    core.extend(bytes(-len(core) % SECTOR))
    first = disk.core // SECTOR
    # Where the rest of core.img is: its first sector, their count, and the segment that they are loaded to.
    struct.pack_into("<QHH", core, 500, first + 1, len(core) // SECTOR - 1, 0x820)
    boot = bytearray((GRUB / "boot.img").read_bytes())
    struct.pack_into("<Q", boot, 0x5C, first)
    # Boot from the disk that the BIOS names in DL; a BIOS that names a floppy disk there is not believed.
    boot[0x64] = 0xFF
    boot[0x66:0x68] = b"\x90\x90"
    with disk.path.open("r+b") as file:
        before = file.read(SECTOR)
        file.seek(0)
        # The parameters of a floppy disk and the table are the disk's.
        file.write(boot[:3] + before[3:0x5A] + boot[0x5A:0x1B8] + before[0x1B8:])
        file.seek(disk.core)
        file.write(core)


def need_grub() -> None:
    """Skip a test for which GRUB makes a boot loader."""
    if not GRUB.exists():
        pytest.skip("GRUB for PCs is not installed (Debian package grub-pc-bin)")


def _run(*words: str, given: str | None = None) -> None:
    environ = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
