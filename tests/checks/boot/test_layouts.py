"""Disks that are laid out in other ways: RHEL with /boot of its own, Ubuntu's conditions, roots that are not read."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from amistream.checks.boot.wanted import Wanted
from checks.boot.good_system import (
    GRUB_CFG,
    INITRD,
    KERNEL,
    MODULES,
    OTHER_UUID,
    ROOT,
    X86,
    Image,
    elf,
    examine,
    files_of_system,
    initramfs,
    kernel,
    modules_of,
    newc,
    write_root,
    write_tree,
)
from support.boot_disks import SECTOR, BootDisk, partitioned, write_loader
from support.volumes import MIB, ext4_image, xfs_image

BOOT_UUID, ROOT_UUID = "b0070001-0000-4000-8000-0000000000b0", "b0070001-0000-4000-8000-0000000000a0"
BOOT, TOP = 2048, 18432
RHEL = "5.14.0-427.el9.x86_64"
OLDER = "5.14.0-70.el9.x86_64"
MACHINE = "0" * 32
TABLE = f"label: dos\nlabel-id: 0xb0070001\nstart={BOOT}, size={TOP - BOOT}, type=83, bootable\nstart={TOP}, type=83\n"


def entry(version: str) -> str:
    """A file of /boot/loader/entries."""
    return (
        f"title Red Hat Enterprise Linux ({version})\nversion {version}\nlinux /vmlinuz-{version}\n"
        f"initrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts $tuned_params\ngrub_class rhel\n"
    )


def rhel(directory: Path, **changes: bytes | str) -> Path:
    """A disk with /boot in its first partition, and the entries that blscfg reads; `changes` of its files by words."""
    initrd = gzip.compress(newc({f"usr/lib/modules/{RHEL}/{each}.ko.xz": b"" for each in ("xen-blkfront", "ext4")}))
    boot: dict[str, bytes | str] = {
        f"vmlinuz-{RHEL}": kernel(RHEL),
        f"vmlinuz-{OLDER}": kernel(OLDER),
        f"initramfs-{RHEL}.img": initrd,
        "grub2/grub.cfg": f'search --no-floppy --fs-uuid --set=boot {BOOT_UUID}\nset default="${{saved_entry}}"\n'
        "insmod blscfg\nblscfg\n",
        "grub2/grubenv": changes.get("grubenv", f"kernelopts=root=UUID={ROOT_UUID} ro console=ttyS0,115200n8 \n"),
        f"loader/entries/{MACHINE}-{OLDER}.conf": entry(OLDER),
        f"loader/entries/{MACHINE}-{RHEL}.conf": entry(RHEL),
    }
    root: dict[str, bytes | str] = {
        "boot/.keep": "",
        "etc/fstab": changes.get(
            "fstab", f"UUID={ROOT_UUID} / ext4 defaults 0 0\nUUID={BOOT_UUID} /boot ext4 defaults\n"
        ),
        "usr/bin/dash": elf(),
        "usr/bin/cloud-init": "#!/usr/bin/python3\n",
        f"usr/lib/modules/{RHEL}/modules.builtin": modules_of(["xen-netfront", "nvme"]),
        f"usr/lib/modules/{RHEL}/modules.dep": modules_of(["ena", "ext4"]),
    }
    path = directory / "rhel.img"
    with path.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(("sfdisk", "--quiet", str(path)), input=TABLE, text=True, check=True, capture_output=True)
    for tree, start, end, uuid in (
        (write_tree(directory / "boot", boot), BOOT, TOP, BOOT_UUID),
        (write_root(directory / "root", root), TOP, (24 << 20) // SECTOR, ROOT_UUID),
    ):
        options = ("-q", "-F", "-t", "ext4", "-U", uuid, "-E", f"offset={start * SECTOR}", "-d", str(tree))
        words = ("mke2fs", *options, str(path), f"{(end - start) // 2}k")
        subprocess.run(words, check=True, capture_output=True)
    write_loader(
        BootDisk(path=path, table="mbr", root=BOOT * SECTOR, root_size=8 << 20, core=SECTOR, core_room=2047 * SECTOR)
    )
    return path


def codes(path: Path, wanted: Wanted | None = None) -> list[tuple[str, str]]:
    return [(status, code) for status, code, _ in examine(path, wanted or X86)]


def test_rhel(tmp_path: Path) -> None:
    """The newest entry of blscfg, with options from grubenv, and kernels in a /boot of its own are found."""
    assert codes(rhel(tmp_path)) == []


@pytest.mark.parametrize(
    ("grubenv", "expected"),
    [
        (
            f"saved_entry={MACHINE}-{RHEL}\nkernelopts=root=UUID={OTHER_UUID} console=ttyS0",
            [("failed", "boot.root_argument")],
        ),
        (f"kernelopts=root=UUID={BOOT_UUID} console=ttyS0", [("failed", "boot.root_argument")]),
        (
            f"saved_entry={MACHINE}-{OLDER}\nkernelopts=root=LABEL=x console=ttyS1",
            [
                ("failed", "boot.root_argument"),
                ("failed", "boot.initramfs_missing"),
                ("failed", "boot.no_modules"),
            ],
        ),
        ("", [("unknown", "boot.unknown"), ("notice", "boot.no_console")]),
    ],
    ids=["saved", "newest", "older", "no options"],
)
def test_faults_of_rhel(tmp_path: Path, grubenv: str, expected: list[tuple[str, str]]) -> None:
    """The entry that grubenv names is the one that is checked, and its options come from there."""
    assert codes(rhel(tmp_path, grubenv=grubenv)) == expected


def test_boot_that_is_not_mounted(tmp_path: Path) -> None:
    """Without its line in fstab, /boot is empty to the running system, and holds no kernel."""
    assert codes(rhel(tmp_path, fstab=f"UUID={ROOT_UUID} / ext4 defaults 0 0\n")) == [("failed", "boot.no_kernel")]


def test_ubuntu(image: Image) -> None:
    """Of two lines that a condition chooses between, one that is right is enough."""
    lines = (
        '  if [ "${initrdfail}" = 1 ]; then\n'
        f"    linux {KERNEL} root={ROOT} ro console=ttyS0\n    initrd /boot/initrd.img-$version\n  else\n"
        f"    linux {KERNEL} root=PARTUUID=00000000-01 ro console=ttyS0 panic=-1\n  fi\n"
    )
    start, end = GRUB_CFG.index("  linux"), GRUB_CFG.index("}\nsubmenu")
    image.put("/boot/grub/grub.cfg", GRUB_CFG[:start] + lines + GRUB_CFG[end:])
    image.put(f"/{MODULES}/modules.builtin", modules_of(["nvme", "xen-netfront", "xen-blkfront", "ext4"]))
    assert image.findings() == [("unknown", "boot.unknown")]


@pytest.mark.parametrize(
    ("place", "mark", "expected"),
    [
        (0, b"LUKS\xba\xbe\0\x02" + bytes(600), ("notice", "boot.root_kind")),
        (512, b"LABELONE" + bytes(12) + b"\x20\0\0\0LVM2 001" + bytes(480), ("notice", "boot.root_kind")),
        (65536, bytes(64) + b"_BHRfS_M" + bytes(4000), ("unknown", "boot.unknown")),
    ],
    ids=["LUKS", "LVM", "btrfs"],
)
def test_a_root_that_is_not_read(image: Image, place: int, mark: bytes, expected: tuple[str, str]) -> None:
    """A root that only the running system sees costs one finding."""
    image.write(image.disk.root, bytes(2048))
    image.write(image.disk.root + place, mark)
    assert image.findings() == [expected]


def test_xfs(tmp_path: Path) -> None:
    """A root of xfs is read as one of ext4, and needs its own driver."""
    tree = write_root(tmp_path / "tree", files_of_system() | {INITRD[1:]: initramfs(["xen-blkfront", "ext4"])})
    file_system = xfs_image(tmp_path / "xfs", 304 << 20, tree)
    path = tmp_path / "disk"
    with path.open("wb") as disk, file_system.open("rb") as source:
        disk.truncate(305 << 20)
        for offset in range(0, 304 << 20, 1 << 20):
            if (piece := source.read(1 << 20)).strip(b"\0"):
                disk.seek(offset + (1 << 20))
                disk.write(piece)
    write_loader(partitioned(path, "mbr"))
    (tmp_path / "xfs").unlink()
    assert codes(path) == [("failed", "boot.no_root_driver")]


def test_no_system_beside_a_bios_boot_partition(tmp_path: Path) -> None:
    """A disk without an /etc is said to have none: what is in a BIOS boot partition is no file system."""
    tree = tmp_path / "tree"
    (tree / "srv").mkdir(parents=True)
    bare, path = ext4_image(tmp_path / "bare", 8 * MIB, tree), tmp_path / "disk"
    path.write_bytes(bytes(2 * MIB) + bare.read_bytes() + bytes(MIB))
    table = "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096, size=16384\n"
    subprocess.run(["sfdisk", "--quiet", path], input=table, text=True, check=True, capture_output=True)
    (found,) = [each for _, code, each in examine(path, X86) if "the system" in each]
    assert "no file system of the image has an /etc" in found
