"""A small system that boots on Xen as Debian's cloud images do, as far as boot checks look, and ways to spoil it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from amistream.checks.boot.examine import examine_boot
from amistream.checks.boot.wanted import Wanted
from amistream.source.disks.reading import DoubtError
from support.boot_disks import BootDisk, Table, boot_disk
from support.volumes import FIXED_UUID

SIZE = 20 << 20
VERSION = "6.1.0-13-cloud-amd64"
MODULES = f"usr/lib/modules/{VERSION}"
KERNEL = f"/boot/vmlinuz-{VERSION}"
INITRD = f"/boot/initrd.img-{VERSION}"
ROOT = f"UUID={FIXED_UUID}"
OTHER_UUID = "deadbeef-0000-4000-8000-000000000000"

GRUB_CFG = f"""\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${{next_entry}}" ] ; then
   set default="${{next_entry}}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
function load_video {{
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  fi
}}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-{FIXED_UUID}' {{
  load_video
  insmod part_msdos
  insmod ext2
  set root='hd0,msdos1'
  if [ x$feature_platform_search_hint = xy ]; then
    search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 --hint-efi=hd0,msdos1 {FIXED_UUID}
  else
    search --no-floppy --fs-uuid --set=root {FIXED_UUID}
  fi
  echo  'Loading Linux {VERSION} ...'
  linux  {KERNEL} root={ROOT} ro  console=tty0 console=ttyS0,115200
  initrd  {INITRD}
}}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-{FIXED_UUID}' {{
  menuentry 'Debian GNU/Linux, with an older Linux' $menuentry_id_option 'gnulinux-old' {{
    linux  /boot/vmlinuz-5.10 root=/dev/sda1 ro
  }}
}}
"""
FSTAB = f"# a comment\n{ROOT} / ext4 rw,discard,errors=remount-ro 0 1\nproc /proc proc defaults 0 0\n"
X86 = Wanted(architecture="x86_64")
EARLY = ("xen-blkfront", "ext4")
"""Modules of the initramfs; more are built in, and more in the root file system."""


def newc(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive as the kernel unpacks it."""
    archive = bytearray()
    for name, content in {**files, "TRAILER!!!": b""}.items():
        numbers = (1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def initramfs(modules: Iterable[str] = EARLY) -> bytes:
    """Early microcode, padding, and an archive with these modules."""
    files = {f"{MODULES}/kernel/drivers/{module}.ko": b"\x7fELF" * 40 for module in modules}
    early = newc({"kernel/x86/microcode/GenuineIntel.bin": bytes(3000)})
    return early + bytes(-len(early) % 512) + zstandard.compress(newc({"init": b"#!/bin/sh\n", **files}))


def kernel(version: str = VERSION) -> bytes:
    """The header of a bzImage."""
    image = bytearray(8192)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x3000 - 0x200 - 0x1800)
    text = f"{version} (debian-kernel@lists.debian.org) #1 SMP".encode()
    image[0x1800 : 0x1800 + len(text)] = text
    return bytes(image)


def elf(machine: int = 62) -> bytes:
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine) + bytes(44)


def modules_of(names: Iterable[str]) -> str:
    return "".join(f"kernel/drivers/{name}.ko\n" for name in names)


def files_of_system() -> dict[str, bytes | str]:
    return {
        "boot/grub/grub.cfg": GRUB_CFG,
        "boot/grub/grubenv": "# GRUB Environment Block\n" + "#" * 900,
        KERNEL[1:]: kernel(),
        INITRD[1:]: initramfs(),
        f"{MODULES}/modules.builtin": modules_of(["nvme", "xen-netfront"]),
        f"{MODULES}/modules.dep": modules_of([*EARLY, "ena", "ixgbevf"]).replace("\n", ":\n"),
        "usr/bin/dash": elf(),
        "usr/bin/cloud-init": "#!/usr/bin/python3\n",
        "etc/fstab": FSTAB,
        "etc/machine-id": "",
        "etc/netplan/90-default.yaml": "network: {ethernets: {all: {match: {name: en*}, dhcp4: true}}}\n",
        "etc/initramfs-tools/modules": "# none\n",
        "etc/ssh/sshd_config": "PasswordAuthentication no\n",
        "home/admin/.bashrc": "umask 022\n",
        "var/log/dpkg.log": "2026-01-01 install\n",
        "var/log/wtmp": "",
    }


def write_tree(top: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return top


def write_root(top: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write the files, and the links of a system whose programs and libraries are all in /usr."""
    write_tree(top, files)
    for link, target in {"bin": "usr/bin", "lib": "usr/lib", "usr/bin/sh": "dash"}.items():
        (top / link).symlink_to(target)
    return top


def good_disk(directory: Path, table: Table = "mbr") -> BootDisk:
    tree = write_root(directory / "tree", files_of_system())
    return boot_disk(directory / "disk.img", tree, SIZE, table)


@dataclass(frozen=True)
class Image:
    """A copy of the good disk, for a test to spoil."""

    disk: BootDisk
    path: Path

    def put(self, name: str, content: bytes | str) -> None:
        """Write a file into its file system, in place of one that is there."""
        given = self.path.with_name("given")
        given.write_bytes(content.encode() if isinstance(content, str) else content)
        above = [str(each) for each in reversed(Path(name).parents)][1:]
        self.debugfs(*(f"mkdir {each}" for each in above), f"rm {name}", f"write {given} {name}")

    def remove(self, *names: str) -> None:
        self.debugfs(*(f"rm {name}" for name in names))

    def debugfs(self, *commands: str) -> None:
        subprocess.run(
            ("debugfs", "-w", "-f", "-", f"{self.path}?offset={self.disk.root}"),
            input="\n".join(commands),
            text=True,
            check=True,
            capture_output=True,
        )

    def write(self, offset: int, content: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(content)

    def findings(self, wanted: Wanted | None = None) -> list[tuple[str, str]]:
        """Status and code of each finding."""
        found = examine(self.path, wanted or X86)
        return [(status, code) for status, code, _ in found]


def copy_of(disk: BootDisk, directory: Path) -> Image:
    path = directory / "image"
    shutil.copyfile(disk.path, path)
    return Image(disk, path)


def examine(path: Path, wanted: Wanted) -> list[tuple[str, str, str]]:
    """Status, code and text of each finding."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            if not 0 <= offset <= offset + length <= size:
                raise DoubtError("beyond the end")
            return os.pread(file.fileno(), length, offset)

        return [(each.status.value, each.code, each.found) for each in examine_boot(read, size, wanted)]
