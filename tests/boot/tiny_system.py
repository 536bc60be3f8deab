"""A small system that boots: Debian's kernel for clouds, and busybox as initramfs and as init.

Both come from the package sources of this machine, and nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.boot_disks import GRUB, Kind
from support.volumes import FIXED_UUID

KERNEL = "linux-image-cloud-amd64"
BUSYBOX = "busybox-static"
NEEDED_MODULES = ("virtio_pci", "virtio_blk", "nvme", "ext4", "crc32c_generic", "xfs")
"""For the drives of the machine and its file system, as far as the kernel does not have them built in."""
LOADED = b"KERNEL-LOADED"
"""GRUB prints this once kernel and initramfs are in memory."""
BOOTED = b"SYSTEM-BOOTED"
"""The system's /sbin/init prints this."""
GRUB_CFG = f"""\
serial --unit=0 --speed=115200
terminal_output serial
set timeout=0
menuentry "Tiny" {{
    search --no-floppy --fs-uuid --set=root {FIXED_UUID}
    linux /boot/vmlinuz-RELEASE root=UUID={FIXED_UUID} ro console=ttyS0
    initrd /boot/initrd.img-RELEASE
    echo {LOADED.decode()}
}}
"""
INITRAMFS_INIT = """\
#!/busybox sh
/busybox mount -t devtmpfs none /dev
/busybox mount -t proc none /proc
for module in MODULES; do /busybox insmod "/$module"; done
for word in $(/busybox cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
# The driver of NVMe finds its drives after it is loaded.
case $root in UUID=*|LABEL=*) until found=$(/busybox findfs "$root"); do /busybox sleep 0.1; done; root=$found ;; esac
/busybox mount -o ro "$root" /root
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /sbin/init
"""
# The serial port itself, because a command line need not name a console.
INIT = f"""\
#!/bin/busybox sh
/bin/busybox mount -t proc none /proc
root=$(/bin/busybox awk '$2 == "/" {{ root = $1 " " $3 }} END {{ print root }}' /proc/mounts)
echo {BOOTED.decode()} $(/bin/busybox uname -r) $root >/dev/ttyS0
/bin/busybox poweroff -f
"""


@dataclass(frozen=True, kw_only=True)
class TinySystem:
    """The tree of a root file system."""

    tree: Path
    release: str
    """The kernel's."""

    @property
    def kernel(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    def booted(self, kind: Kind = "ext4", device: str = "/dev/vda1") -> bytes:
        """All that its init prints if it runs from such a file system."""
        return b"%s %s %s %s" % (BOOTED, self.release.encode(), device.encode(), kind.encode())


def tiny_system(directory: Path) -> TinySystem:
    """Make the tree in `directory`."""
    packages = directory / "packages"
    _fetch_packages(directory, packages)
    (kernel,) = (packages / "boot").glob("vmlinuz-*")
    busybox = packages / "bin" / "busybox"
    system = TinySystem(tree=directory / "tree", release=kernel.name.removeprefix("vmlinuz-"))
    for name in ("bin", "boot/grub", "dev", "etc", "lib", "proc", "sbin", "sys", "tmp"):
        (system.tree / name).mkdir(parents=True)
    shutil.copy(kernel, system.kernel)
    shutil.copytree(GRUB, system.tree / "boot" / "grub" / GRUB.name, ignore=shutil.ignore_patterns("*.img", "*-setup"))
    (system.tree / "boot" / "grub" / "grub.cfg").write_text(GRUB_CFG.replace("RELEASE", system.release))
    (system.tree / "etc" / "fstab").write_text(f"UUID={FIXED_UUID} / ext4 defaults 0 1\n")
    shutil.copy(busybox, system.tree / "bin")
    (system.tree / "bin" / "sh").symlink_to("busybox")
    _write_program(system.tree / "sbin" / "init", INIT)
    modules = list(modules_of(packages / "lib" / "modules" / system.release))
    initramfs = system.tree / "boot" / f"initrd.img-{system.release}"
    write_initramfs(initramfs, directory / "initramfs", busybox, modules)
    return system


def _fetch_packages(directory: Path, into: Path) -> None:
    """Download the newest kernel and busybox, and extract them into one directory."""
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    # Lists of its own: those of the machine may be old, and only root may renew them.
    own = ("-o", f"Dir::State::lists={directory / 'lists'}", "-o", f"Dir::Cache={directory / 'cache'}")
    _run("apt-get", *own, "update")
    found = re.search(r"Depends: (\S+)", _run("apt-cache", *own, "depends", KERNEL))
    assert found, f"no package {KERNEL} in the package sources of this machine"
    _run("apt-get", *own, "download", found[1], BUSYBOX, directory=directory)
    for package in directory.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(package), str(into))


def modules_of(directory: Path) -> Iterator[Path]:
    """Give the modules that the kernel needs to mount its root, each behind those that it depends on."""
    files = {path.name.removesuffix(".ko").replace("-", "_"): path for path in directory.rglob("*.ko")}
    seen: set[str] = set()

    def behind_its_own(name: str) -> Iterator[Path]:
        if name in seen or name not in files:
            return
        seen.add(name)
        depends = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        for other in depends[1].decode().split(",") if depends else ():
            yield from behind_its_own(other.replace("-", "_"))
        yield files[name]

    for name in NEEDED_MODULES:
        yield from behind_its_own(name)


def write_initramfs(path: Path, directory: Path, busybox: Path, modules: list[Path]) -> None:
    """Write an initramfs for that busybox; `directory` is where its files are put together."""
    for name in ("dev", "proc", "root"):
        (directory / name).mkdir(parents=True)
    for each in (busybox, *modules):
        shutil.copy(each, directory)
    names = " ".join(each.name for each in modules)
    _write_program(directory / "init", INITRAMFS_INIT.replace("MODULES", names))
    files = "\n".join(str(each.relative_to(directory)) for each in directory.rglob("*"))
    with path.open("wb") as file:
        words = ("cpio", "--quiet", "--create", "--format=newc", "--owner=0:0")
        subprocess.run(words, input=files.encode(), stdout=file, cwd=directory, check=True)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run(*words: str, directory: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
    return done.stdout
