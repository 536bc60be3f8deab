"""A Debian 12 on a disk as its images for clouds are: GPT with BIOS boot partition, ESP and root, GRUB by grub-install.

The packages come from the package sources of this machine. The installation takes root, loop devices and minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.boot_disks import BootDisk, ext4, partitioned
from support.mounts import mounted, partition
from support.volumes import MIB, loop_device

SIZE = 1024 * MIB
SUITE = "bookworm"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
PACKAGES = (
    *("systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "e2fsprogs", "iproute2", "sudo"),
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd", "grub2-common", "grub-pc-bin"),
    *("cloud-init", "cloud-guest-utils", "netplan.io", "openssh-server"),
)
PARTUUID = "b0070001-0000-4000-8000-0000000000"
"""Of the partitions of `partitioned`, but for the last two digits: 01 is root, 0f is the ESP."""
FILES = {
    "etc/fstab": f"""\
PARTUUID={PARTUUID}01 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID={PARTUUID}0f /boot/efi vfat defaults 0 0
""",
    "etc/default/grub": """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
GRUB_DISABLE_LINUX_UUID=true
GRUB_DISABLE_LINUX_PARTUUID=false
GRUB_DISABLE_OS_PROBER=true
""",
    "etc/netplan/90-default.yaml": """\
network:
  version: 2
  ethernets:
    all:
      match: {name: "e*"}
      dhcp4: true
      dhcp6: true
""",
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    # There and empty: the first start gives the machine its id.
    "etc/machine-id": "",
}
ESP = 4096 * 512, 2 * MIB
"""Start and size of the ESP of `partitioned`."""


def debian_disk(directory: Path) -> BootDisk:
    """Install Debian into a disk image in `directory`; skip with the reason where the machine does not let it."""
    if os.geteuid() != 0:
        pytest.skip("only root can install a Debian")
    tree = _debian_tree(directory / "tree")
    path = directory / "debian.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    disk = partitioned(path, "gpt")
    ext4(path, tree, disk.root, disk.root_size)
    shutil.rmtree(tree)
    _make_esp(path)
    _install_grub(disk, directory / "mounted")
    return disk


def _debian_tree(tree: Path) -> Path:
    sources = next((path for path in SOURCES if path.exists() and SUITE in path.read_text()), None)
    if sources is None:
        pytest.skip(f"the package sources of this machine do not have {SUITE}")
    options = (
        *("--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(PACKAGES)}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
    )
    _run("mmdebstrap", "--quiet", *options, SUITE, str(tree), str(sources))
    for name, content in FILES.items():
        (tree / name).write_text(content)
    (tree / "boot" / "efi").mkdir()
    for secret in (tree / "etc" / "ssh").glob("ssh_host_*"):
        secret.unlink()
    for log in (tree / "var" / "log").rglob("*"):
        if log.is_file():
            log.write_bytes(b"")
    return tree


def _make_esp(disk: Path) -> None:
    """Write an empty FAT file system into the ESP."""
    start, size = ESP
    made = disk.with_name("esp.img")
    _run("mkfs.vfat", "-n", "ESP", "-C", str(made), str(size // 1024))
    with disk.open("r+b") as file:
        file.seek(start)
        file.write(made.read_bytes())
    made.unlink()


def _install_grub(disk: BootDisk, root: Path) -> None:
    """Let Debian's own programs install GRUB and write grub.cfg, as its maintainer scripts do."""
    with ExitStack() as stack:
        device = stack.enter_context(loop_device(disk.path, read_only=False))
        part = stack.enter_context(partition(device, disk.root, disk.root_size))
        stack.enter_context(mounted(part, root))
        # Its own /dev: there grub-mkconfig looks for the names by which it may call the root file system.
        dev = stack.enter_context(mounted("tmpfs", root / "dev", "-t", "tmpfs"))
        stack.enter_context(mounted("proc", root / "proc", "-t", "proc"))
        stack.enter_context(mounted("sysfs", root / "sys", "-t", "sysfs"))
        _run("cp", "--archive", str(device), str(part), "/dev/null", "/dev/urandom", str(dev))
        names = dev / "disk" / "by-partuuid"
        names.mkdir(parents=True)
        (names / f"{PARTUUID}01").symlink_to(part)
        _run("chroot", str(root), "grub-install", "--target=i386-pc", str(device))
        _run("chroot", str(root), "update-grub")


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
